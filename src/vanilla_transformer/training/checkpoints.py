"""Checkpoints: saved whole, averaged (section 6.1), and resumed only with the same data and batches."""

import json
import math
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    TrainOutput,
    get_last_checkpoint,
    rotate_checkpoints,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .arguments import VanillaTransformerTrainingArguments
from .publishing import PublishingTrainer

TRAINING_ONLY = {".bin", ".pt", ".pth", ".safetensors"}  # weights, optimizer, schedule and random states
UNFINISHED = "unfinished"  # the folder in output_dir that holds a checkpoint while it is written
INTERRUPTED = "interrupted.txt"  # marks a checkpoint that no save_strategy asked for
DATA_ORDER = "data_order.json"  # in a checkpoint: what the order of the data depends on


def average_checkpoints(
    folders: Sequence[str | Path], output_dir: str | Path | None = None
) -> dict[str, torch.Tensor]:
    """Return the mean of the weights in `folders` as a state dict, and save it as a model in `output_dir`.

    It reads safetensors, one file or shards. It sums each weight in float64 and keeps the type of the last
    folder. Integers and booleans are those of the last folder. Tied weights are stored once, as in the
    folders, and are tied again on loading. `output_dir` gets configuration, tokenizer and code from the last
    folder. It changes only once the mean is complete, so a full disk or a bad folder does no harm.

    Raises:
        FileNotFoundError: a folder holds no weights.
        ValueError: no folders, a file that cannot be read, or folders of different models.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ValueError("no checkpoints to average")
    if output_dir is not None and Path(output_dir).resolve() in {path.resolve() for path in paths}:
        raise ValueError(f"{output_dir} is one of the checkpoints to average: write the mean elsewhere")
    with ExitStack() as stack:
        checkpoints = [_open(path, stack) for path in paths]
        _check_alike(paths, checkpoints)
        weights = {name: _mean([weights[name] for weights in checkpoints]) for name in checkpoints[-1]}
    if output_dir is not None:
        _write(weights, paths[-1], Path(output_dir))
    return weights


def last_checkpoints(run_dir: str | Path, n: int) -> list[Path]:
    """Return the last `n` complete checkpoints of a Trainer in `run_dir`, oldest first.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds fewer than `n`.
    """
    checkpoints = complete_checkpoints(run_dir)
    if not 1 <= n <= len(checkpoints):
        raise ValueError(
            f"cannot take {n} checkpoints: {run_dir} has complete checkpoints of steps {list(checkpoints)}"
        )
    return list(checkpoints.values())[-n:]


def complete_checkpoints(run_dir: str | Path) -> dict[int, Path]:
    """Return {step: folder} in order of steps. The Trainer's state, written last, marks them."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"no folder {run_dir} to look for checkpoints in")
    steps = {}
    for folder in run_dir.iterdir():
        if (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and (
            folder / TRAINER_STATE_NAME
        ).is_file():
            steps[int(match[1])] = folder
    return dict(sorted(steps.items()))


def _open(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Return {name: lazily read weight} of a model folder."""
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    file = single if single.is_file() else index
    if not file.is_file():
        what = "does not hold" if folder.is_dir() else "is not a folder with"
        raise FileNotFoundError(f"{folder} {what} {single.name} or {index.name}")
    weights: dict[str, Any] = {}
    try:
        shards = (
            {single.name} if file == single else set(json.loads(index.read_text())["weight_map"].values())
        )
        for file in (folder / shard for shard in sorted(shards)):
            opened = stack.enter_context(safe_open(file, framework="pt"))
            weights |= {name: opened.get_slice(name) for name in sorted(opened.keys())}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} cannot be read: {error!r}") from error
    return weights


def _check_alike(folders: list[Path], checkpoints: list[dict[str, Any]]) -> None:
    last, reference = folders[-1], checkpoints[-1]
    for folder, weights in zip(folders, checkpoints):
        for name in sorted(weights.keys() ^ reference.keys()):
            here, there = (folder, last) if name in weights else (last, folder)
            raise ValueError(f"{here} holds {name}, {there} does not: checkpoints of different models?")
        for name, weight in weights.items():
            if weight.get_shape() != reference[name].get_shape():
                raise ValueError(
                    f"{name} is {weight.get_shape()} in {folder}, but {reference[name].get_shape()} in {last}"
                )


def _mean(weights: list[Any]) -> torch.Tensor:
    last = weights[-1][...]
    if not last.is_floating_point():
        return last
    total = torch.zeros_like(last, dtype=torch.float64)
    for weight in weights:
        total += weight[...]
    return (total / len(weights)).to(last.dtype)


def _write(weights: dict[str, torch.Tensor], source: Path, output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".averaging-") as draft:
        for file in source.iterdir():
            if (
                file.is_file()
                and file.suffix not in TRAINING_ONLY
                and file.name not in (TRAINER_STATE_NAME, SAFE_WEIGHTS_INDEX_NAME)
            ):
                shutil.copy2(file, draft)
        save_torch_state_dict(weights, draft, metadata={"format": "pt"})
        for stale in [*output_dir.glob("model*.safetensors"), output_dir / SAFE_WEIGHTS_INDEX_NAME]:
            if not (Path(draft) / stale.name).exists():
                stale.unlink(missing_ok=True)
        for file in Path(draft).iterdir():
            os.replace(file, output_dir / file.name)


# Data order


BUDGET = ("max_source_tokens", "max_target_tokens", "tokens_per_update")
FIXED = ("per_device_train_batch_size", "train_sampling_strategy")


def data_order(
    args: VanillaTransformerTrainingArguments, dataset: Any, lengths: Sequence[np.ndarray] | None
) -> dict[str, Any]:
    """Return what the order of the data and of the batches depends on.

    A checkpoint stands after a number of updates. Resuming is right only if the same updates would be made
    again: from the same data, in the same order, in the same batches.

    Args:
        lengths: of the examples in tokens, one array for each side, if batches are made by them.
    """
    keys = BUDGET if args.has_token_budget else FIXED
    order: dict[str, Any] = {"seed": args.seed if args.data_seed is None else args.data_seed}
    order |= {key: getattr(args, key) for key in keys}
    if hasattr(dataset, "__len__"):
        order["examples in the training data"] = len(dataset)
    if lengths is not None:
        sums = [zlib.crc32(np.ascontiguousarray(side, dtype=np.int64).tobytes()) for side in lengths]
        order["checksum of the examples' lengths"] = sums
    return order


def write_data_order(checkpoint: str | Path, order: Mapping[str, Any]) -> None:
    Path(checkpoint, DATA_ORDER).write_text(json.dumps(order, indent=2) + "\n", encoding="utf-8")


def check_data_order(checkpoint: str | Path, order: Mapping[str, Any]) -> None:
    """Raise ValueError if the checkpoint has a record of another order."""
    file = Path(checkpoint, DATA_ORDER)
    if not file.is_file():
        return
    saved = json.loads(file.read_text(encoding="utf-8"))
    changed = [key for key in {**saved, **order} if saved.get(key) != order.get(key)]
    if changed:
        listing = "; ".join(f"{key} changed from {saved.get(key)} to {order.get(key)}" for key in changed)
        raise ValueError(
            f"{checkpoint} was saved with different data or batch settings: {listing}. Resume with the same "
            "data, vocabulary and settings, or start again in a new --output_dir"
        )


# Saving, loading and averaging in a Trainer


class CheckpointingTrainer(PublishingTrainer):
    """A Trainer whose checkpoints are complete or absent, and which can average them.

    It writes a checkpoint in a folder aside and renames the folder when it is complete.
    """

    args: VanillaTransformerTrainingArguments
    model: PreTrainedModel
    _saving_aside = False
    _pushed_folder: str | None = None

    def last_checkpoint(self) -> str | None:
        folder = str(self.args.output_dir)
        return get_last_checkpoint(folder) if os.path.isdir(folder) else None

    def data_order(self) -> dict[str, Any]:
        """See `data_order`."""
        return data_order(self.args, self.train_dataset, None)

    # Saving

    def _get_output_dir(self, trial: Any) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, UNFINISHED) if self._saving_aside else run_dir

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = self._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside, final = Path(run_dir, UNFINISHED, name), Path(run_dir, name)
        if self.args.should_save:
            shutil.rmtree(aside.parent, ignore_errors=True)  # left by a program that was killed while saving
        self.accelerator.wait_for_everyone()
        self._saving_aside = True
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_data_order(aside, self.data_order())
                self._put_in_place(aside, final)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(aside.parent, ignore_errors=True)
            earlier = self.last_checkpoint()
            kept = f"resume from {earlier}" if earlier else "there is no earlier one"
            raise OSError(
                f"{name} could not be written in {run_dir} ({error}), and its files were removed: free some "
                f"disk space, or choose another output_dir; {kept}"
            ) from error
        finally:
            self._saving_aside = False

    def _put_in_place(self, aside: Path, final: Path) -> None:
        """Rename a complete checkpoint, then delete those that it replaces."""
        if self.state.best_model_checkpoint == str(aside):
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        shutil.rmtree(aside.parent, ignore_errors=True)
        for mark in final.parent.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{INTERRUPTED}"):
            shutil.rmtree(mark.parent)
        best, limit = self.state.best_model_checkpoint, self.args.save_total_limit
        rotate_checkpoints(str(final.parent), limit, best, use_mtime=True)
        if self._pushed_folder is not None:
            super()._push_from_checkpoint(str(final))
            self._pushed_folder = None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._saving_aside:
            self._pushed_folder = checkpoint_folder  # the upload reads it under its final name
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    # Loading

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(
                f"{resume_from_checkpoint} holds a different model ({reason}): resume with the same model "
                "and vocabulary, or start again in a new --output_dir"
            ) from error

    def is_complete(self, checkpoint: str) -> bool:
        """Whether the checkpoint has reached `max_steps`: transformers would still make one more update."""
        state = Path(checkpoint, TRAINER_STATE_NAME)
        return (
            state.is_file() and 0 < self.args.max_steps <= TrainerState.load_from_json(str(state)).global_step
        )

    def restore(self, checkpoint: str) -> TrainOutput:
        """Load a checkpoint after which no update is left."""
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
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
        output_dir = str(self.args.output_dir)
        metrics: dict[str, Any] = {}
        count = min(self.args.average_checkpoints, len(complete_checkpoints(output_dir)))
        folders = last_checkpoints(output_dir, count)
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


def check_writable(folder: str | Path) -> None:
    """Make the folder, and raise OSError if no file can be written in it."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"output_dir: cannot write to {folder} ({error.strerror}); give another one") from error
