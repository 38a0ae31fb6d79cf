"""Random and damaged inputs at every entry point: no uncaught exception, no hang, no death, clear errors.

    python tests/torture/fuzz.py --inputs 10000            # each entry point, two at a time
    python tests/torture/fuzz.py --only "COCO" --inputs 500

Hypothesis draws the inputs. A row of the table counts, for one entry point: the inputs, clear errors, other
exceptions, inputs that took over 20 seconds, and errors that name no file, line or key.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
import transformers
from entry_points import DOORS, KEYS, PYTHON
from harness import Trial
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, Phase, given, seed, settings

from vanilla_transformer.tasks import (
    InputError,
)

LONGEST = 20  # seconds for one input


class Hang(BaseException):
    """An input took too long."""


def stop(number: int, frame: object) -> None:
    raise Hang


def try_inputs(name: str, count: int, place: Path, result: Path) -> None:
    """Draw the inputs of an entry point, and write the counts to `result`."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity(100)
    datasets.config.HF_DATASETS_CACHE = place / "cache"
    torch.set_num_threads(1)
    strategy, use = DOORS[name]()
    counts = {"inputs": 0, "refused": 0, "exceptions": 0, "hangs": 0, "nameless": 0}
    samples: list[str] = []
    clear = (InputError, ValueError, TypeError, StrictDataclassError) if name in PYTHON else (InputError,)
    signal.signal(signal.SIGALRM, stop)

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seed(0)
    @given(strategy)
    def once(drawn: Any) -> None:
        counts["inputs"] += 1
        if counts["inputs"] % 200 == 0:
            shutil.rmtree(place / "cache", ignore_errors=True)
            result.write_text(json.dumps([counts, samples[:20]]))
        (place / "last.txt").write_text(repr(drawn)[:20_000], encoding="utf-8", errors="replace")
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                use(drawn, place)
        except Hang:
            counts["hangs"] += 1
            samples.append(f"HANG {drawn!r:.300}")
        except clear as error:
            counts["refused"] += 1
            of_wrong_type = isinstance(error, TypeError) and name in PYTHON
            if not of_wrong_type and not names_the_place(str(error), name, drawn):
                counts["nameless"] += 1
                samples.append(f"NAMELESS {type(error).__name__}: {error!s:.200} <- {drawn!r:.200}")
        except Exception as error:
            counts["exceptions"] += 1
            samples.append(f"{type(error).__name__}: {error!s:.200} <- {drawn!r:.300}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    once()
    result.write_text(json.dumps([counts, samples[:20]]))


def names_the_place(message: str, name: str, drawn: Any) -> bool:
    """Whether a message names the file, the key, the setting or the input that is wrong."""
    if name in ("settings of generate", "configurations"):
        keys = drawn if isinstance(drawn, dict) else drawn[1]
        return any(part in message for key in keys for part in (key, *key.split("_")) if len(part) > 3)
    if name in PYTHON:
        return bool(message)
    known = ["pairs.", "a.en", "b.es", "labels.", "tags.", "book.", "boxes.", "objects.", "recipe.yaml", "--"]
    return any(word in message for word in [*known, *KEYS, "unexpected word", "_file", "_column", "_lang"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="for each entry point")
    parser.add_argument("--only", choices=DOORS)
    options = parser.parse_args()
    waiting = [name for name in DOORS if options.only in (None, name)]
    found: dict[str, str] = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        running: dict[str, tuple[Trial, Path, float]] = {}

        def begin() -> Iterator[None]:
            while waiting and len(running) < 2:
                name = waiting.pop(0)
                place = Path(root, re.sub(r"\W", "_", name))
                place.mkdir()
                trial = Trial(place / "log", try_inputs, name, options.inputs, place, place / "result.json")
                running[name] = trial, place, time.monotonic()
                yield

        while waiting or running:
            list(begin())
            for name, (trial, place, began) in list(running.items()):
                process, status = os.waitpid(trial.process, os.WNOHANG)
                if not process:
                    continue
                del running[name]
                counts, samples = {}, []
                if (place / "result.json").exists():
                    counts, samples = json.loads((place / "result.json").read_text())
                died = status != 0
                failed |= died or any(counts.get(key) for key in ("exceptions", "hangs", "nameless"))
                cells = [
                    str(counts.get(key, "?"))
                    for key in ("inputs", "refused", "exceptions", "hangs", "nameless")
                ]
                found[name] = f"| {name} | {' | '.join(cells)} | {'died' if died else ''} |"
                print(f"{name}: {time.monotonic() - began:.0f} s {counts}", file=sys.stderr, flush=True)
                for sample in samples[:8]:
                    print(f"   {sample!r:.600}", file=sys.stderr)
                if died:
                    print(f"   DIED {(place / 'log').read_text()[-800:]}", file=sys.stderr)
                    print(f"   at {(place / 'last.txt').read_text()[:400]}", file=sys.stderr)
            time.sleep(0.05)
    print("| entry point | inputs | refused clearly | other exceptions | hangs | nameless errors | |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(found[name] for name in DOORS if name in found))
    sys.exit(failed)


if __name__ == "__main__":
    main()
