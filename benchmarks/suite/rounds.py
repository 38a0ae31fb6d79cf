"""Runs rows and curves: a process for each peer, one step of each in turn, disturbed steps again."""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .checks import OutputsDiffer, check_outputs
from .work import Curve, Row, Size, Work

SHORTEST = 0.3  # seconds of a step; a faster peer repeats its work within a step
TRIES = 3  # of a step that was disturbed
PACKAGE = Path(__file__).parents[1]


class WorkerFailed(Exception):
    """A peer's process raised an error or ended."""


class Process:
    """A worker in a process of its own."""

    def __init__(self, threads: int):
        path = os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `close` closes it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "suite.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **own},
        )

    def send(self, **request) -> None:
        with contextlib.suppress(OSError):  # if the process has ended, `receive` says why
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def receive(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or ["no message"])[-1]
            raise WorkerFailed(f"exit status {self.process.returncode}: {last}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def ask(self, **request) -> dict:
        self.send(**request)
        return self.receive()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                stream.close()


@dataclass
class Suite:
    """Measures rows and curves.

    Args:
        weights: a folder for the models of every size.
        rounds: steps of each peer in a row.
        curve_rounds: steps of each peer at each point of a curve.
        tell: shows a line of progress.
    """

    weights: Path
    threads: int
    device: str
    rounds: int
    curve_rounds: int
    tell: Callable[[str], None] = print

    def peak(self, seconds: float) -> dict:
        worker = Process(self.threads)
        try:
            asked = dict(device=self.device, threads=self.threads, seconds=seconds)
            return worker.ask(do="peak", **asked)["peak"]
        finally:
            worker.close()

    def folder_of(self, work: Work) -> str:
        """The folder with all peers' weights of this size; writes it at the first call."""
        size: Size = work.size
        name = "-".join(map(str, ("vit" if work.task == "images" else "text", *vars(size).values())))
        folder = self.weights / name
        if not folder.exists():
            folder.mkdir(parents=True)
            writer = Process(self.threads)
            try:
                task = "images" if work.task == "images" else "text"
                writer.ask(do="write", size=vars(size), task=task, folder=str(folder))
            finally:
                writer.close()
        return str(folder)

    def row(self, row: Row) -> dict:
        """Return the times of every peer's steps; raises OutputsDiffer before any is measured."""
        self.tell(f"{row.name}: {', '.join(row.peers)}")
        workers = {name: Process(self.threads) for name in row.peers}
        try:
            return self.measure(row, workers, self.rounds)
        finally:
            for worker in workers.values():
                worker.close()

    def curve(self, curve: Curve) -> dict:
        """Return the rows of all points; every peer has one process for all of them."""
        self.tell(f"{curve.name}: {', '.join(curve.peers)}")
        workers = {name: Process(self.threads) for name in curve.peers}
        points = []
        try:
            for number, work in curve.points:
                row = Row(f"{curve.name}-{number}", work, curve.peers, curve.reference)
                points.append({"x": number, **self.measure(row, workers, self.curve_rounds)})
        finally:
            for worker in workers.values():
                worker.close()
        return {"name": curve.name, "axis": curve.axis, "points": points}

    def measure(self, row: Row, workers: dict[str, Process], rounds: int) -> dict:
        folder, work = self.folder_of(row.work), row.work.as_dict()
        found: dict = {
            "name": row.name,
            "work": work,
            "unit": row.work.unit,
            "units": row.work.units,
            "operations": row.work.operations,
            "reference": row.reference,
            "skipped": {},
        }
        outputs = {}
        for name in workers:
            workers[name].send(do="build", peer=name, work=work, folder=folder)
        for name in workers:
            try:
                built = workers[name].receive()
            except WorkerFailed as error:
                built = {"skipped": f"failed: {error}"}
            if "skipped" in built:
                found["skipped"][name] = built["skipped"]
                self.tell(f"  {name}: {built['skipped']}")
            else:
                outputs[name] = built["outputs"]
        found["agreement"] = check_outputs(row, outputs)

        steps: dict[str, list[dict]] = {name: [] for name in outputs}
        for name in outputs:
            workers[name].ask(do="step", repeats=1)  # warms caches and allocators
        repeats = {}
        for name in outputs:
            seconds = workers[name].ask(do="step", repeats=1)["wall"]
            repeats[name] = math.ceil(SHORTEST / seconds)
        for _ in range(rounds):
            for name, measured in steps.items():
                measured.append(undisturbed(workers[name], repeats[name]))
        found["peers"] = steps
        return found


def undisturbed(worker: Process, repeats: int) -> dict:
    """Return the times of the first step that nothing disturbed, or else of the least disturbed one."""
    tries = []
    for _ in range(TRIES):
        tries.append(worker.ask(do="step", repeats=repeats))
        if not tries[-1]["disturbed"]:
            return tries[-1]
    return min(tries, key=lambda step: (step["others"] or 0) / step["wall"])


__all__ = ["OutputsDiffer", "Suite", "WorkerFailed"]
