"""Faults of the machine and of the disk during training: what is lost, and what is said.

    make torture                                   # everything, under an hour on two cores
    python tests/torture/runs.py --only "kill -9"  # one kind

Every trial trains the tiny task of tests/tiny_training.py and is disturbed. It then goes on with
resume_from_checkpoint="auto" until it ends. Its weights must equal those of an undisturbed run, bit for bit.
"""

import argparse
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from harness import Row, Trial, moments, table
from safetensors.torch import load_file
from tiny_training import BUDGET, build, pairs, trainer_of
from transformers import TrainerCallback

from vanilla_transformer.tasks import prepare_output_dir
from vanilla_transformer.training.manifest import complete_checkpoints, find_obstacle

UPDATES, SAVE = 60, 4
SETTINGS: dict[str, Any] = {
    "max_steps": UPDATES,
    "save_strategy": "steps",
    "save_steps": SAVE,
    "save_total_limit": 3,
    **BUDGET,
}


class Pace(TrainerCallback):
    """Makes an update take long enough to be disturbed."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(0.01)


def rows(count: int) -> Iterator[dict]:
    yield from pairs(count)


def stream() -> IterableDataset:
    return IterableDataset.from_generator(rows, gen_kwargs={"count": 60})


def train(folder: Path, streamed: bool = False, callbacks: Any = (), **settings: Any) -> None:
    """Train as a recipe does: reserve the folder, resume if there is a checkpoint, save the model."""
    torch.set_num_threads(1)
    settings = {**SETTINGS, "stream_buffer_size": 16, "resume_from_checkpoint": "auto", **settings}
    data = stream() if streamed else pairs()
    trainer = trainer_of(folder, build(dropout=0.2), data, callbacks=[Pace(), *callbacks], **settings)
    checkpoint = prepare_output_dir(trainer.args)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()


def finish(folder: Path, log: Path, **options: Any) -> tuple[int, str]:
    trial = Trial(log, train, folder, **options)
    return trial.wait(), trial.said()


class Torture:
    def __init__(self, place: Path) -> None:
        self.place, self.number = place, 0
        self.whole: dict[bool, Any] = {}
        self.seconds = 0.0
        for streamed in (False, True):
            folder, log = self.new()
            began = time.monotonic()
            status, said = finish(folder, log, streamed=streamed)
            self.seconds = time.monotonic() - began
            assert status == 0, (status, said, log.read_text())
            self.whole[streamed] = load_file(folder / "model.safetensors")

    def new(self) -> tuple[Path, Path]:
        self.number += 1
        return self.place / f"run{self.number}", self.place / f"log{self.number}"

    def same(self, folder: Path, streamed: bool = False) -> bool:
        file = folder / "model.safetensors"
        if not file.is_file():
            return False
        weights, whole = load_file(file), self.whole[streamed]
        return weights.keys() == whole.keys() and all(
            torch.equal(weights[name], whole[name]) for name in whole
        )

    def go_on(self, folder: Path, streamed: bool = False, **options: Any) -> bool:
        """Resume undisturbed; return whether the end is that of the undisturbed run."""
        status, _ = finish(folder, self.new()[1], streamed=streamed, **options)
        return status == 0 and self.same(folder, streamed)

    # The kinds of faults

    def kill_9(self) -> list[Row]:
        """Fifty kills at random moments, several in one run, the last one left to end."""
        found = []
        for streamed, kills in ((False, 35), (True, 15)):
            row = Row("kill -9, a stream" if streamed else "kill -9")
            times = moments(kills, self.seconds * 0.9, seed=streamed)
            while times:
                folder, log = self.new()
                for _ in range(min(5, len(times))):
                    trial = Trial(log, train, folder, streamed=streamed)
                    time.sleep(times.pop())
                    trial.kill(signal.SIGKILL)
                    trial.wait()
                    damaged = (
                        [path.name for path in complete_checkpoints(folder).values() if find_obstacle(path)]
                        if folder.is_dir()
                        else []
                    )
                    row.note("nothing" if not damaged else f"damaged {damaged}", lost=bool(damaged))
                if not self.go_on(folder, streamed):
                    row.note("another end", lost=True)
            found.append(row)
        return found

    def damages(self) -> list[Row]:
        """Each file of the newest checkpoint damaged in five ways, and deleted checkpoints."""

        def flip(file: Path) -> None:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)

        ways: dict[str, Callable[[Path], object]] = {
            "deleted": Path.unlink,
            "empty": lambda file: file.write_bytes(b""),
            "cut in half": lambda file: os.truncate(file, file.stat().st_size // 2),
            "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
            "one bit flipped": flip,
        }
        folder, log = self.new()
        trial = Trial(log, train, folder, max_steps=UPDATES // 2)
        assert trial.wait() == 0
        newest = list(complete_checkpoints(folder).values())[-1]
        found = []
        for way, damage in ways.items():
            row = Row(f"a file of the newest checkpoint: {way}")
            for file in sorted(newest.iterdir()):
                if file.stat().st_size == 0 and way in ("empty", "cut in half", "zeroed", "one bit flipped"):
                    continue
                copy = Path(shutil.copytree(folder, self.new()[0]))
                damage(copy / newest.name / file.name)
                log = self.new()[1]
                trial = Trial(log, train, copy)
                status = trial.wait()
                text = log.read_text(errors="replace")
                named = file.name in text and f"{newest.name} is passed over" in text
                # Without the manifest the files are read, and these are not damaged.
                fine = (
                    status == 0
                    and self.same(copy)
                    and (named or (file.name == "manifest.json" and way == "deleted"))
                )
                said = "the file, and went on from the checkpoint before" if named else trial.said()
                row.note(said if fine else f"{file.name}: {said}", lost=not fine)
                shutil.rmtree(copy)
            found.append(row)
        return found

    def two_runs(self) -> list[Row]:
        row = Row("a second run in the same output_dir")
        for delay in moments(10, self.seconds * 0.7):
            folder, log = self.new()
            first = Trial(log, train, folder)
            while not (folder / "run.lock").exists():
                time.sleep(0.01)
            time.sleep(delay)
            second = Trial(self.new()[1], train, folder)
            refused = second.wait() == 1 and "trains in" in second.said()
            fine = first.wait() == 0 and self.same(folder) and refused
            row.note("which process and host has it" if refused else second.said(), lost=not fine)
        return [row]

    def full_disk(self) -> list[Row]:
        limited = Row("files cannot grow beyond a limit (RLIMIT_FSIZE)")
        for limit in (0, 100, 1000, 5000, 10_000, 20_000, 50_000, 100_000, 150_000, 200_000):

            def fill(folder: Path, limit: int = limit) -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

                class Fill(TrainerCallback):
                    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                        if state.global_step == 10:
                            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

                train(folder, callbacks=[Fill()])

            folder, log = self.new()
            trial = Trial(log, fill, folder)
            status = trial.wait()
            self._after_full_disk(limited, folder, status, trial)
        found = [limited]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            found.append(self._small_disks())
        return found

    def _small_disks(self) -> Row:
        row = Row("a disk that is full (tmpfs)")
        for size in (300, 500, 700, 900, 1100, 1300, 1500, 1700):
            folder, log = self.new()
            folder.mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", folder],
                check=True,
                capture_output=True,
            )
            try:
                trial = Trial(log, train, folder)
                status = trial.wait()
                kept = Path(shutil.copytree(folder, self.new()[0]))
            finally:
                subprocess.run(["umount", "-l", folder], check=True)
            self._after_full_disk(row, kept, status, trial)
        return row

    def _after_full_disk(self, row: Row, folder: Path, status: int, trial: Trial) -> None:
        said = trial.said()
        damaged = [path.name for path in complete_checkpoints(folder).values() if find_obstacle(path)]
        fine = not damaged and self.go_on(folder) and (status == 0 or said.startswith("error: "))
        fine = fine and not (folder / "unfinished").exists()
        short = (
            "what could not be written, and from where to resume" if "could not be written" in said else said
        )
        row.note("nothing: it had room" if status == 0 else short, lost=not fine)

    def not_finite(self) -> list[Row]:
        found = []
        for what in ("loss", "gradient", "weight"):
            row = Row(f"NaN or infinity in a {what}")
            for value in (float("nan"), float("inf"), float("-inf")):
                for update in (3, 9, 17):

                    def poison(
                        folder: Path, what: str = what, value: float = value, update: int = update
                    ) -> None:
                        class Poison(TrainerCallback):
                            def on_step_begin(
                                self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
                            ) -> None:
                                if state.global_step != update:
                                    return
                                layer = model.model.encoder.layers[0].feed_forward.fc1
                                if what == "loss":
                                    model.register_forward_hook(
                                        lambda module, inputs, outputs: (
                                            outputs | {"loss": outputs["loss"] * value}
                                        )
                                    )
                                elif what == "gradient":
                                    layer.weight.register_hook(lambda gradient: gradient * value)
                                else:
                                    layer.weight.data[0, 0] = value

                        train(folder, callbacks=[Poison()])

                    folder, log = self.new()
                    trial = Trial(log, poison, folder)
                    status, said = trial.wait(), trial.said()
                    fine = status == 1 and said.startswith("error: ") and self.go_on(folder)
                    short = (
                        "the update, and from where to resume"
                        if "resume" in said or "not saved" in said or "no checkpoint yet" in said
                        else said
                    )
                    row.note(short, lost=not fine)
            found.append(row)
        return found

    def dead_worker(self) -> list[Row]:
        row = Row("a data loader's worker killed")
        for delay in moments(6, 0.5):

            def with_workers(folder: Path, delay: float = delay) -> None:
                class KillWorker(TrainerCallback):
                    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                        if state.global_step == 9:
                            import psutil

                            time.sleep(delay)
                            for child in psutil.Process().children():
                                child.kill()

                train(folder, streamed=True, callbacks=[KillWorker()], dataloader_num_workers=1)

            folder, log = self.new()
            trial = Trial(log, with_workers, folder)
            status, said = trial.wait(), trial.said()
            fine = status == 1 and "a process that loads data" in said and self.go_on(folder, streamed=True)
            row.note("to set fewer workers and resume" if fine else said, lost=not fine)
        return [row]

    def no_memory(self) -> list[Row]:
        row = Row("no memory (RLIMIT_AS)")
        for megabytes in (0, 1, 4, 16):

            def starve(folder: Path, megabytes: int = megabytes) -> None:
                class Starve(TrainerCallback):
                    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                        if state.global_step == 9:
                            import psutil

                            limit = psutil.Process().memory_info().vms + megabytes * 2**20
                            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                            torch.empty(2**28)  # what a larger batch would ask for

                train(folder, callbacks=[Starve()])

            folder, log = self.new()
            trial = Trial(log, starve, folder)
            status, said = trial.wait(), trial.said()
            fine = status == 1 and "out of memory" in said and self.go_on(folder)
            row.note("to make batches smaller" if fine else said, lost=not fine)
        return [row]

    def signals(self) -> list[Row]:
        found = []
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            row, number = Row(name), getattr(signal, name)
            for delay in moments(6, self.seconds * 0.5, seed=number):
                folder, log = self.new()

                def handled(folder: Path) -> None:
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    train(folder)

                trial = Trial(log, handled, folder)
                while not (folder / "checkpoint-4").exists():  # training has begun
                    time.sleep(0.01)
                time.sleep(delay)
                trial.kill(number)
                status = trial.wait()
                saved = status == 128 + number
                fine = (saved or status == 0) and self.go_on(folder)
                row.note("how to resume" if saved else f"status {status}", lost=not fine)
            found.append(row)
        return found

    def changed_streams(self) -> list[Row]:
        row = Row("a stream, a file or a setting that changed")
        changes: dict[str, dict[str, Any]] = {
            "seed": {"seed": 5},
            "stream_buffer_size": {"stream_buffer_size": 17},
            "tokens_per_update": {"tokens_per_update": 320},
            "max_source_tokens": {"max_source_tokens": 70},
            "batches per update": {
                "tokens_per_update": 160,
                "max_target_tokens": 40,
                "max_source_tokens": 45,
            },
        }
        for key, change in changes.items():
            folder, log = self.new()
            assert Trial(log, train, folder, streamed=True, max_steps=8).wait() == 0
            trial = Trial(self.new()[1], train, folder, streamed=True, **change)
            status, said = trial.wait(), trial.said()
            fine = status == 1 and "changed from" in said and self.go_on(folder, streamed=True)
            row.note("what changed" if fine else f"{key}: {said}", lost=not fine)
        for workers in (1, 2, 3):
            folder, log = self.new()
            assert Trial(log, train, folder, streamed=True, max_steps=8).wait() == 0
            fine = self.go_on(folder, streamed=True, dataloader_num_workers=workers)
            row.note("nothing: another number of workers gives the same batches", lost=not fine)
        return [row]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = {
        "kill -9": Torture.kill_9,
        "damaged checkpoints": Torture.damages,
        "two runs": Torture.two_runs,
        "full disk": Torture.full_disk,
        "not finite": Torture.not_finite,
        "dead worker": Torture.dead_worker,
        "no memory": Torture.no_memory,
        "signals": Torture.signals,
        "changed streams": Torture.changed_streams,
    }
    parser.add_argument("--only", choices=kinds, help="run one kind")
    options = parser.parse_args()
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        torture = Torture(Path(place))
        for name, kind in kinds.items():
            if options.only in (None, name):
                began = time.monotonic()
                found += kind(torture)
                print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(table(found))
    sys.exit(any(row.lost for row in found))


if __name__ == "__main__":
    main()
