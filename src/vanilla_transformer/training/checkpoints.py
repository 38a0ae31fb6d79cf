"""A Trainer whose checkpoints are complete or absent, verified when it resumes, and averaged."""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput
from transformers.utils import logging

from ..stacks import apply_umask
from .arguments import VanillaTransformerTrainingArguments
from .averaging import average_checkpoints
from .manifest import (
    INTERRUPTED,
    WEIGHTS,
    complete_checkpoints,
    find_damage,
    find_obstacle,
    flush,
    newest_checkpoint,
    write_manifest,
)
from .publishing import PublishingTrainer
from .resumption import check_data_order, data_order, write_data_order
from .streaming import POSITION, StreamPosition

logger = logging.get_logger(__name__)

UNFINISHED = "unfinished"  # the folder in output_dir that holds a checkpoint while it is written or deleted


class CheckpointingTrainer(PublishingTrainer):
    """A Trainer whose checkpoints are complete or absent, and which can average them.

    It writes a checkpoint in a folder aside, with a manifest of its files, and renames the folder when all of
    it is on the disk. It deletes only checkpoints of this run.
    """

    args: VanillaTransformerTrainingArguments
    model: PreTrainedModel
    data_record: Mapping[str, Any] = {}  # what else must be the same when training resumes
    _position: StreamPosition | None = None  # of the next update in a stream
    _saving_aside = False
    _pushed_folder: str | None = None

    @property
    def off_schedule(self) -> bool:
        """Whether no save_strategy asked for the checkpoint that is being saved."""
        return False

    def last_checkpoint(self) -> str | None:
        """The newest checkpoint in output_dir from which training can resume."""
        folder = str(self.args.output_dir)
        newest = newest_checkpoint(folder) if os.path.isdir(folder) else None
        return str(newest) if newest else None

    def data_order(self) -> dict[str, Any]:
        """What must be the same when training resumes; see `resumption.data_order`."""
        return data_order(self.args, self.train_dataset, self.data_record)

    # Saving

    def _get_output_dir(self, trial: Any) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, UNFINISHED) if self._saving_aside else run_dir

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = str(output_dir or self.args.output_dir)
        weights = self.model.named_parameters()
        broken = [name for name, weight in weights if not (weight.is_meta or weight.isfinite().all())]
        if broken:
            raise FloatingPointError(
                f"{broken[0]} (and {len(broken) - 1} more weights) has NaN or infinite values at update "
                f"{self.state.global_step}, so the model was not saved"
            )
        what = f"the model could not be written in {folder}"
        with nullcontext() if self._saving_aside else explain_write_errors(folder, what):
            super()._save(folder, state_dict)
            if self.args.should_save:
                apply_umask(folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = self._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside, final = Path(run_dir, UNFINISHED, name), Path(run_dir, name)
        if self.args.should_save:
            shutil.rmtree(aside.parent, ignore_errors=True)  # left by a program that was killed while saving
        self.accelerator.wait_for_everyone()
        self._saving_aside = True
        try:
            with explain_write_errors(run_dir, f"{name} could not be written in {run_dir}"):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.state.best_model_checkpoint == str(aside):  # on every process
                    self.state.best_model_checkpoint = str(final)
                if self.args.should_save:
                    self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
                    write_data_order(aside, self.data_order())
                    if self._position is not None:
                        position = self._position.to_json() + "\n"
                        (aside / f"{POSITION}.json").write_text(position, encoding="utf-8")
                    if self.off_schedule:
                        (aside / INTERRUPTED).write_text(
                            "Saved when training was interrupted; the resumed run deletes it with its next "
                            "checkpoint.\n"
                        )
                    write_manifest(aside)
                    self._put_in_place(aside, final)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(aside.parent, ignore_errors=True)
            raise
        finally:
            self._saving_aside = False
        if self._pushed_folder is not None:  # the upload reads the checkpoint under its final name
            self._pushed_folder = None
            super()._push_from_checkpoint(str(final))

    def _put_in_place(self, aside: Path, final: Path) -> None:
        """Rename a complete checkpoint, then delete those that it replaces."""
        if final.exists() and final in complete_checkpoints(final.parent).values():
            _discard(final)
        elif final.exists():
            kept = next(
                path for n in range(1000) if not (path := final.with_name(f"{final.name}.old{n}")).exists()
            )
            logger.warning(f"{final} is not a checkpoint of this run: it is now {kept.name}")
            final.rename(kept)
        aside.rename(final)
        flush(final.parent)
        self._rotate(final)
        shutil.rmtree(aside.parent, ignore_errors=True)  # and what was discarded

    def _rotate(self, newest: Path) -> None:
        """Delete old checkpoints: those that an interrupt saved, and the oldest beyond save_total_limit."""
        saved = complete_checkpoints(newest.parent)
        earlier = [folder for step, folder in saved.items() if step < self.state.global_step]
        for folder in [folder for folder in earlier if (folder / INTERRUPTED).exists()]:
            _discard(folder)
            earlier.remove(folder)
        limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
        if not limit or limit < 0:
            return
        spare = [folder for folder in earlier if str(folder) != best]
        surplus = 1 + len(earlier) - limit  # `newest` is one of those that stay
        for folder in spare[: max(surplus, 0)]:
            _discard(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._saving_aside:
            self._pushed_folder = checkpoint_folder
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    # Loading

    def choose_checkpoint(self, wanted: str | bool | None) -> str | None:
        """Return the checkpoint to resume from: the given one, or with True the newest good one.

        Raises:
            ValueError: it is damaged, there is none, or it was saved with other data or batches.
        """
        if not wanted:
            return None
        folder = str(self.args.output_dir)
        if wanted is True:
            newest = self.last_checkpoint()
            if newest is None:
                raise ValueError(f"there is no checkpoint in {folder} to resume from")
            wanted = newest
        elif obstacle := find_obstacle(wanted):
            other = newest_checkpoint(Path(wanted).absolute().parent)
            hint = f"; {other} is undamaged" if other else ""
            raise ValueError(f"training cannot resume from {wanted}: {obstacle}{hint}")
        check_data_order(wanted, self.data_order())
        complete = list(complete_checkpoints(folder).values()) if os.path.isdir(folder) else []
        chosen = [path for path in complete if os.path.samefile(path, wanted)]
        if chosen and (newer := complete[complete.index(chosen[0]) + 1 :]):
            names = ", ".join(path.name for path in newer)
            logger.warning(
                f"{names} in {folder} are of later updates than {chosen[0].name}. This run replaces each "
                "when it gets there; delete them if this run will be shorter or has other settings"
            )
        return wanted

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(
                f"{resume_from_checkpoint} holds a different model ({reason}): resume with the same model "
                "and vocabulary, or start again in a new --output_dir"
            ) from error

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Ignores tied weights, which a checkpoint stores once."""
        held = self.model.state_dict(keep_vars=True)
        loaded = {id(weight) for name, weight in held.items() if name not in load_result.missing_keys}
        missing = [name for name in load_result.missing_keys if id(held[name]) not in loaded]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))

    def why_complete(self, checkpoint: str) -> str | None:
        """Return why no update is left after a checkpoint, or None: transformers would make one more."""
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        if 0 < self.args.max_steps <= state.global_step:
            return f"has made all {self.args.max_steps} updates"
        epochs = self.args.num_train_epochs
        if self.args.max_steps <= 0 and state.epoch is not None and state.epoch >= epochs:
            return f"has trained all {epochs:g} epochs"
        patience, counted = self.args.early_stopping_patience, evaluations_without_improvement(state)
        if patience and counted >= patience:
            return f"has stopped early, after {counted} evaluations without an improvement"
        return None

    def restore(self, checkpoint: str) -> TrainOutput:
        """Load a checkpoint after which no update is left."""
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        return TrainOutput(self.state.global_step, losses[-1] if losses else math.nan, {})

    # Averaging

    def average(self) -> dict[str, Any]:
        """Load the average of the last checkpoints into the model, and save it in output_dir.

        An early stop leaves fewer checkpoints than `average_checkpoints`: then all of them are averaged.

        Returns:
            the metrics of the last weights and of the average, if there is an evaluation set, and the names
            of the checkpoints.
        """
        self.accelerator.wait_for_everyone()
        metrics: dict[str, Any] = {}
        folders = self._averageable()[-self.args.average_checkpoints :]
        if self.eval_dataset is not None:
            metrics |= self._last_evaluation() or self.evaluate(metric_key_prefix="eval_last")
        self._load_weights(average_checkpoints(folders))
        if self.eval_dataset is not None:
            metrics |= self.evaluate(metric_key_prefix="eval_averaged")
        names = ", ".join(folder.name for folder in folders)
        metrics["final_weights"] = f"average of {len(folders)} checkpoints: {names}"
        self.save_model()
        self.save_state()
        self.save_metrics("average", metrics)
        return metrics

    def _averageable(self) -> list[Path]:
        """Return the checkpoints with undamaged weights, oldest first."""
        good = []
        for folder in complete_checkpoints(str(self.args.output_dir)).values():
            if damage := find_damage(folder, lambda name: name.endswith(WEIGHTS)):
                logger.warning(f"{folder} is not averaged: {damage}")
            else:
                good.append(folder)
        if not good:
            raise ValueError(f"{self.args.output_dir} has no undamaged checkpoint to average")
        return good

    def _load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.model.load_state_dict(weights, strict=False)
        held = self.model.state_dict()
        if weights.keys() - held.keys():
            raise ValueError(f"the model has no {sorted(weights.keys() - held.keys())}")
        loaded = {held[name].data_ptr() for name in weights}
        missing = [name for name, weight in held.items() if weight.data_ptr() not in loaded]  # nor tied
        if missing:
            raise ValueError(f"the checkpoints have no {missing}")

    def _last_evaluation(self) -> dict[str, float]:
        """Return the metrics that the log already has for the current weights, if any."""
        now = [entry for entry in self.state.log_history if entry["step"] == self.state.global_step]
        return {
            name.replace("eval_", "eval_last_", 1): value
            for entry in now
            for name, value in entry.items()
            if name.startswith("eval_")
        }


def evaluations_without_improvement(state: TrainerState) -> int:
    """Return the count of early stopping that a state of the Trainer has saved."""
    callbacks: Any = state.stateful_callbacks or {}
    saved = callbacks.get("EarlyStoppingCallback")
    return saved["attributes"]["early_stopping_patience_counter"] if isinstance(saved, dict) else 0


def check_writable(folder: str | Path) -> None:
    """Make the folder, and raise OSError if no file can be written in it."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"output_dir: cannot write to {folder} ({error.strerror}); give another one") from error


@contextmanager
def explain_write_errors(folder: str, what: str) -> Iterator[None]:
    """Turn the errors of libraries that cannot write a file into an OSError that says what to do."""
    try:
        yield
    except FloatingPointError:
        raise
    except Exception as error:
        # safetensors and tokenizers have their own classes; the latter raises a bare Exception.
        if isinstance(error, WriteError) or not (
            isinstance(error, OSError | RuntimeError | SafetensorError) or type(error) is Exception
        ):
            raise
        newest = newest_checkpoint(folder) if os.path.isdir(folder) else None
        kept = f"; resume from {newest}" if newest else ""
        raise WriteError(
            f"{what} ({error}): free some disk space, or choose another output_dir{kept}"
        ) from error


class WriteError(OSError):
    """A model or a checkpoint could not be written."""


def _discard(checkpoint: Path) -> None:
    """Move a checkpoint to the folder that is deleted next: a half-deleted checkpoint never has its name."""
    checkpoint.rename(checkpoint.parent / UNFINISHED / f"old-{checkpoint.name}")
