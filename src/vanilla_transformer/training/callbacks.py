"""Callbacks of the trainer: interrupts, throughput, epochs, curves."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from .streaming import TokenBudgetIterable

logger = logging.get_logger(__name__)

# Ctrl-C, the end or the warning of a scheduler, a closed terminal. Windows has only the first two.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
SAME_SIGNAL = 1.0  # seconds within which two signals are one


class TrainingInterrupted(SystemExit):
    """Training was interrupted, and its checkpoint is saved.

    Uncaught, it ends the program with the status that a shell expects, 128 + the signal's number: 130 after
    Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 138 after SIGUSR1, 140 after SIGUSR2.
    """

    def __init__(self, number: int):
        super().__init__(128 + number)


class InterruptCallback(TrainerCallback):
    """A signal of `SIGNALS` ends training with a checkpoint after the current update; a second one at once.

    It is a context around training. Outside the main thread it does nothing, because Python delivers signals
    only there. It leaves an ignored signal ignored.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.off_schedule = False  # whether only the interrupt asked for the checkpoint
        self._noted = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.signal, self.off_schedule = None, False
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _note(self, number: int, frame: object) -> None:
        if self.signal is not None:
            # torchrun forwards a signal that the terminal has also sent to every process: it comes twice.
            if time.monotonic() - self._noted > SAME_SIGNAL:
                self.__exit__()
                signal.raise_signal(number)  # with its earlier handler
            return
        self.signal, self._noted = number, time.monotonic()
        text = "\nInterrupted: saving a checkpoint after this update. A second interrupt stops at once.\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())  # print is not safe in a signal handler

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.world_size > 1:  # a signal reaches the processes at different updates
            number = torch.tensor(self.signal or 0, device=args.device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
            self.signal = int(number) or None
        if self.signal:
            self.off_schedule = not control.should_save
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.signal and state.epoch != int(state.epoch):  # the epoch is not over
            control.should_save = control.should_evaluate = False


class Throughput(TrainerCallback):
    """Counts the examples and real tokens since the last log, and the seconds of their updates."""

    def __init__(self) -> None:
        self._begin = (0.0, 0)  # time and update at the start
        self._update = 0.0
        self._reset()

    def _reset(self) -> None:
        self._examples = 0
        self._source: torch.Tensor | int = 0
        self._target: torch.Tensor | int = 0
        self._seconds = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._reset()
        self._begin = time.perf_counter(), state.global_step

    def begin_update(self) -> None:
        self._update = time.perf_counter()

    def count(self, batches: Sequence[Mapping[str, Any]], target_tokens: torch.Tensor | int | None) -> None:
        """Add the batches of this device, and the target tokens of all devices where they are known."""
        for batch in batches:
            self._examples += len(next(iter(batch.values())))
            if (mask := batch.get("attention_mask")) is not None:
                self._source += mask.sum()
        self._target += target_tokens or 0

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._seconds += time.perf_counter() - self._update

    def rates(self, state: TrainerState, accelerator: Accelerator) -> dict[str, float]:
        """Return examples and tokens per second since the last call, and the minutes left."""
        counts = [float(self._examples), float(self._source), self._seconds]
        counts = accelerator.reduce(torch.tensor(counts, device=accelerator.device), "sum")
        examples, source, seconds = counts.tolist()
        seconds /= accelerator.num_processes
        counted = {"examples": examples, "source_tokens": source, "target_tokens": float(self._target)}
        result = {
            f"{what}_per_second": round(count / seconds)
            for what, count in counted.items()
            if seconds and count
        }
        started, first_step = self._begin
        if state.global_step > first_step:
            pace = (time.perf_counter() - started) / (state.global_step - first_step)
            result["minutes_left"] = round(pace * (state.max_steps - state.global_step) / 60, 1)
        self._reset()
        return result


class EpochCallback(TrainerCallback):
    """Sets the epoch of the batch sampler and of the data set, where they have `set_epoch`.

    transformers does so too, but not if several processes resume within an epoch: the sampler is then wrapped
    once more, and would start with the first epoch's order. Nor does it reach a data set whose batches are
    distributed over several processes.
    """

    def on_epoch_begin(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        sampler = train_dataloader.batch_sampler
        while sampler is not None and not hasattr(sampler, "set_epoch"):
            sampler = getattr(sampler, "batch_sampler", None)
        for part in (sampler, train_dataloader.dataset):
            if hasattr(part, "set_epoch"):
                part.set_epoch(int(state.epoch))

    def on_step_end(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(train_dataloader.dataset, TokenBudgetIterable):  # a resumed stream skips no batches
            state.epoch = state.global_step / state.max_steps


class CheckPlan(TrainerCallback):
    """Checks before the first update what would go wrong after the last.

    It raises ValueError if the run will save too few checkpoints to average, and warns if the learning rate
    will never reach its peak.
    """

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        saved = {
            SaveStrategy.STEPS: math.ceil(state.max_steps / state.save_steps),
            SaveStrategy.EPOCH: state.num_train_epochs,
        }.get(args.save_strategy, args.average_checkpoints)
        if saved < args.average_checkpoints:
            raise ValueError(
                f"average_checkpoints={args.average_checkpoints}, but {state.max_steps} updates with "
                f"save_strategy={args.save_strategy.value} and save_steps={state.save_steps} leave {saved}: "
                "save more often, train longer or average fewer"
            )
        warmup = args.get_warmup_steps(state.max_steps)
        if warmup > state.max_steps and state.is_world_process_zero:
            logger.warning(
                f"warmup_steps={warmup:g}, but the run has only {state.max_steps} updates: the learning rate "
                f"never reaches its peak. Train longer, or set warmup_steps to {max(1, state.max_steps // 4)}"
            )


class CurvesCallback(TrainerCallback):
    """Draws training_curves.png and learning_rate.png in output_dir when training ends."""

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        try:
            from ..visualization.curves import plot_learning_rate, plot_training_curves

            for name, draw in (
                ("training_curves", plot_training_curves),
                ("learning_rate", plot_learning_rate),
            ):
                draw(state.log_history).savefig(Path(args.output_dir, f"{name}.png"))
        except (ImportError, OSError) as error:  # training has succeeded
            logger.warning(f"the training curves were not drawn in {args.output_dir}: {error}")
