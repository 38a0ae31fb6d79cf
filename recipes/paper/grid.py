"""Train every row of Table 3, scaled down, with three seeds, and report which findings of the paper repeat.

    python recipes/paper/grid.py --train_file train.parquet --validation_file validation.parquet
    python recipes/paper/grid.py --report

The first command takes hours. It runs the first seed of every row, then the second, then the third. Ctrl-C
and SIGTERM save a checkpoint; the same command resumes. The second command writes the tables of README.md and
grid.svg from what is done so far. Further flags, such as --max_steps 100, go to recipes/seq2seq.py in every
run. They make another grid, so give it another --results.
"""

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from table3 import ROWS, SEEDS

FOLDER = Path(__file__).parent
BASE = FOLDER / "grid" / "base.yaml"
RECIPE = FOLDER.parent / "seq2seq.py"
ON_HUB = ["--dataset", "bentrevett/multi30k", "--test_split", "validation"]
MOST_FAILURES = 2  # in a row; then something is wrong with every run


class Child:
    """The run in progress. SIGINT and SIGTERM are handed to it: it saves a checkpoint and ends."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.process: subprocess.Popen | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.signal = number
        if self.process is not None:
            self.process.send_signal(number)

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a command to its end, append its output to a file, and return its exit status."""
        with open(log, "a", encoding="utf-8") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            if self.signal is not None:  # it came while the process started
                self.process.send_signal(self.signal)
            status = self.process.wait()
        self.process = None
        return status


def read_results(path: Path) -> list[dict]:
    """Return the finished runs of a file of JSON lines.

    Raises:
        ValueError: a line is broken; the message names it.
    """
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], 1):
        try:
            runs.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: this is not JSON ({error}); delete the line") from error
    return runs


def planned(rows: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
    """Yield row and seed in the order of the runs."""
    for seed in range(1, seeds + 1):
        for row in rows:
            yield row, seed


def setup_of(row: str, flags: Sequence[str]) -> str:
    """Return a checksum of the settings of a row's runs. Data and seed are recorded beside it."""
    settings = [yaml.safe_load(BASE.read_text(encoding="utf-8")), ROWS[row].changes, list(flags)]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def as_flags(settings: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def run_grid(
    rows: Sequence[str], seeds: int, data: Sequence[str], flags: Sequence[str], results: Path, runs: Path
) -> int:
    """Run what is not finished, and return the status: 0, 1 after failures, or 128 + the signal's number.

    Raises:
        ValueError: the file of results is broken, or holds runs with other settings.
    """
    setups = {row: setup_of(row, flags) for row in rows}
    done = {(run["row"], run["seed"]): run["setup"] for run in read_results(results) if run["row"] in rows}
    for (row, seed), setup in done.items():
        if setup != setups[row]:
            raise ValueError(
                f"{results}: {row}, seed {seed} was run with other settings. Give the same flags and "
                "base.yaml as then, or another --results"
            )
    todo = [job for job in planned(rows, seeds) if job not in done]
    print(f"{len(todo)} of {len(rows) * seeds} runs to do; logs and checkpoints are in {runs}", flush=True)
    for folder in (runs, results.parent):
        folder.mkdir(parents=True, exist_ok=True)
    child, failed, in_a_row = Child(), [], 0
    for number, (row, seed) in enumerate(todo, start=1):
        name = f"{number} of {len(todo)}: {row}, seed {seed}"
        folder, log = runs / f"{row}-{seed}", runs / f"{row}-{seed}.log"
        resumed = any(folder.glob("checkpoint-*"))
        command = [sys.executable, str(RECIPE), str(BASE), *data, *flags, *as_flags(ROWS[row].changes)]
        command += [f"--seed={seed}", f"--output_dir={folder}", "--resume_from_checkpoint=auto"]
        begin = time.monotonic()
        status = child.run([*command, "--disable_tqdm=true"], log)
        seconds = round(time.monotonic() - begin)
        if child.signal is not None:
            print(f"{name}: stopped; the same command resumes", flush=True)
            return 128 + child.signal
        in_a_row = in_a_row + 1 if status else 0
        if status:
            failed.append(folder.name)
            print(f"{name}: exit status {status}, see {log}", flush=True)
            if in_a_row == MOST_FAILURES:
                break
            continue
        scores = summary(json.loads((folder / "results.json").read_text(encoding="utf-8")))
        run = {"row": row, "seed": seed, **scores, "seconds": seconds, "resumed": resumed}
        with open(results, "a", encoding="utf-8") as file:
            file.write(json.dumps({**run, "setup": setups[row]}) + "\n")
        shutil.rmtree(folder)
        print(
            f"{name}: perplexity {run['perplexity']:.2f}, BLEU {run['bleu']:.1f}, {seconds / 60:.1f} minutes",
            flush=True,
        )
    if failed:
        print(f"failed: {', '.join(failed)}. The same command tries them again", flush=True)
    return int(bool(failed))


def summary(results: dict) -> dict:
    """Return what the report needs of a run's results.json."""
    split = "test" if "test_bleu" in results else "validation"  # ON_HUB scores validation as its test
    scores = ("perplexity", "bleu", "chrf", "bleu_signature", "chrf_signature")
    facts = ("parameters", "updates", "hardware", "versions", "commit", "data")
    return {name: results[f"{split}_{name}"] for name in scores} | {name: results[name] for name in facts}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--train_file", nargs="+", help="local files; if not given, bentrevett/multi30k of the Hub"
    )
    parser.add_argument("--validation_file", nargs="+", help="local files; every run is scored on them")
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="all if not given"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds, 1, 2, ...; 3 if not given")
    parser.add_argument("--results", type=Path, default=FOLDER / "results" / "grid.jsonl", help="JSON lines")
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/paper"), help="folder of logs and checkpoints"
    )
    parser.add_argument("--report", action="store_true", help="write the report, and run nothing")
    given, flags = parser.parse_known_args()
    try:
        if given.report:
            from report import write_report

            runs = read_results(given.results)
            write_report(runs, FOLDER)
            print(f"README.md and grid.svg in {FOLDER} report {len(runs)} runs")
            return 0
        if bool(given.train_file) != bool(given.validation_file):
            parser.error("give both --train_file and --validation_file, or neither")
        data = ON_HUB
        if given.train_file:
            data = ["--train_file", *given.train_file, "--validation_file", *given.validation_file]
        return run_grid(given.rows, given.seeds, data, flags, given.results, given.runs)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
