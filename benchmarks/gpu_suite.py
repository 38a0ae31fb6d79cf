"""Runs everything that needs a GPU in at most eight minutes, and writes gpu_suite.json after every part.

    python benchmarks/gpu_suite.py --output outputs/gpu_suite
    python benchmarks/gpu_suite.py --device cpu --rehearse

Parts: training in bf16 with 25,000 tokens an update (base and big, variable lengths, plain and compiled),
decoding with beam 4 in batches of 128 and of one sentence, tests/test_gpu.py, and a CIFAR-10 training if
--cifar10 has train.parquet and validation.parquet. Every part is a process with a time limit of its own: one
that fails or hangs costs only itself. MFU is relative to the matrix products that each part measures. Needs
torch, transformers and pytest; the training of CIFAR-10 also needs the extras [train] and [metrics].
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from suite import machine, report

ROOT = Path(__file__).parents[1]
NEEDS = ("datasets", "evaluate", "sacrebleu", "sklearn", "accelerate", "filelock", "psutil")  # of the recipe
RESULTS = ("validation_accuracy", "train_loss", "train_samples_per_second", "train_runtime")  # of the recipe
SHOWN = 30  # last lines of the output of a part


@dataclass(frozen=True)
class Part:
    """A command, its limit in seconds, and how to read what it wrote."""

    name: str
    command: list[str]
    limit: float
    read: Callable[[], dict] = dict


def speed(name: str, args: argparse.Namespace, limit: float) -> Part:
    """The rows of the benchmark suite whose name contains `name`."""
    folder = args.output / name
    command = [sys.executable, "benchmarks/speed.py", "--table", "cuda", "--device", args.device]
    command += ["--only", name, "--output", str(folder), "--rounds", "1" if args.rehearse else "7"]

    def read() -> dict:
        results = folder / "results.json"
        return json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}

    return Part(name, command + ["--quick"] * args.rehearse, limit, read)


def cifar10(args: argparse.Namespace) -> Part | str:
    """The training, or why there is none."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        return f"needs {', '.join(missing)}"
    data, folder = args.cifar10, args.output / "cifar10"
    if args.rehearse:
        data = args.output / "random_images"
        write_random_images(data)
    files = {f"--{split}_file": data / f"{split}.parquet" for split in ("train", "validation")}
    if absent := [str(path) for path in files.values() if not path.exists()]:
        return f"no {', '.join(absent)}"
    command = [
        sys.executable,
        "recipes/image_classification.py",
        "recipes/image_classification/cifar10_gpu.yaml",
    ]
    for flag, path in files.items():
        command += [flag, str(path)]
    command += ["--dataset=", "--validation_share", "0", "--output_dir", str(folder)]
    command += ["--num_train_epochs", "5", "--save_strategy", "no", "--eval_strategy", "no"]
    if args.rehearse:
        command += ["--max_steps", "2", "--per_device_train_batch_size", "8", "--dataloader_num_workers", "1"]

    def read() -> dict:
        found = folder / "results.json"
        return json.loads(found.read_text(encoding="utf-8")) if found.exists() else {}

    return Part("cifar10", command, 90, read)


def write_random_images(folder: Path) -> None:
    """Two files in the form of CIFAR-10, with 20 images each."""
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image

    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    features = Features({"img": Image(), "label": ClassLabel(num_classes=10)})
    rows = {"img": list(pixels), "label": [number % 10 for number in range(len(pixels))]}
    for split in ("train", "validation"):
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


def parts(args: argparse.Namespace) -> list[Part | tuple[str, str]]:
    """What runs, the most wanted first, and pairs of a name and a reason for what does not."""
    tests = [sys.executable, "-m", "pytest", "-q", "tests/test_gpu.py", "-p", "no:cacheprovider"]
    images = cifar10(args)
    return [
        speed("train-variable-base", args, 70),
        speed("beam4-base-batch128", args, 70),
        speed("beam4-base-batch1-", args, 60),
        Part("tests", tests, 120),
        speed("train-variable-big", args, 80),
        speed("greedy-base", args, 50),
        images if isinstance(images, Part) else ("cifar10", images),
        speed("beam4-small", args, 50),
        speed("compiled-layers", args, 120),
        speed("compiled-model", args, 200),
    ]


def run(part: Part, seconds: float, log: Path) -> dict:
    """Run a part for at most so many seconds; its output goes to `log`."""
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    began = time.perf_counter()
    with log.open("w+") as output:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that the workers of a part end with it
        )
        try:
            status = "done" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "timed out"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        lines = output.read().splitlines()
    return {
        "name": part.name,
        "status": status,
        "seconds": round(time.perf_counter() - began, 1),
        "limit": round(seconds, 1),
        "command": part.command,
        "output": lines[-SHOWN:],
        "results": part.read(),
    }


def summary(found: dict) -> list[str]:
    """A finished part in a few lines of Markdown."""
    lines = [
        f"**{found['name']}**: {found['status']}" + (f", {found['seconds']} s" if "seconds" in found else "")
    ]
    results = found.get("results") or {}
    for row in results.get("rows", []):
        lines += ["", *report.table(row, results["peak"])]
    if "peak" in results:
        fastest = ", ".join(f"{name} {max(rates.values()):,.0f}" for name, rates in results["peak"].items())
        lines += ["", f"Fastest matrix product, GFLOP/s: {fastest}."]
    shown = {name: value for name, value in results.items() if name in RESULTS}
    if shown:
        lines += ["", ", ".join(f"{name} {value:.4g}" for name, value in shown.items())]
    elif not results.get("rows"):
        lines += ["", *found.get("output", [])[-5:]]
    return [*lines, ""]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_suite"), help="folder (%(default)s)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="device (%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="everything in the smallest size")
    parser.add_argument("--only", nargs="+", default=[], help="parts whose name contains one of these")
    parser.add_argument("--seconds", type=float, default=470, help="for all parts together (%(default)s)")
    parser.add_argument(
        "--cifar10",
        type=Path,
        default=ROOT / "data" / "cifar10",
        help="folder of two Parquet files (%(default)s)",
    )
    args = parser.parse_args()
    args.output, args.cifar10 = args.output.resolve(), args.cifar10.resolve()
    return args


def main() -> int:
    args = parse()
    args.output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    results: dict = {"machine": machine.describe(len(machine.usable_cpus())), "parts": []}
    for part in parts(args):
        name = part.name if isinstance(part, Part) else part[0]
        if args.only and not any(wanted in name for wanted in args.only):
            continue
        left = args.seconds - (time.perf_counter() - began)
        if isinstance(part, tuple):
            found = {"name": name, "status": f"skipped: {part[1]}"}
        elif left < min(15, part.limit):
            found = {"name": name, "status": "skipped: no time was left"}
        else:
            limit = left if args.rehearse else min(part.limit, left)
            found = run(part, limit, args.output / f"{name}.log")
        results["parts"].append(found)
        (args.output / "gpu_suite.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print("\n".join(summary(found)), flush=True)
    return int(any(found["status"] in ("failed", "timed out") for found in results["parts"]))


if __name__ == "__main__":
    sys.exit(main())
