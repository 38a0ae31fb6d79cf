"""Checkpoints: the average of their weights (section 6.1), and the data order that resuming needs."""

import json
import math
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerState
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

STATE = "trainer_state.json"  # the Trainer writes it last: a checkpoint that has it is complete
TRAINING_ONLY = {".bin", ".pt", ".pth", ".safetensors"}  # weights, optimizer, schedule and random states


def average_checkpoints(folders, output_dir=None):
    """The mean of the weights in `folders`: a state dict; `output_dir` also gets it as a model folder.

    Folders are read as safetensors, one file or sharded. Each weight is summed in float64 and keeps the last
    folder's type; whole numbers and truth values are the last folder's. Tied weights are stored once, as
    there, and tied again on loading. `output_dir` takes configuration, tokenizer and code from the last
    folder; it is touched once the mean is complete, so that a full disk or a bad folder harms nothing.
    """
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise ValueError("no checkpoints to average")
    if output_dir is not None and Path(output_dir).resolve() in {folder.resolve() for folder in folders}:
        raise ValueError(f"{output_dir} is one of the checkpoints to average: write the mean elsewhere")
    with ExitStack() as stack:
        checkpoints = [_open(folder, stack) for folder in folders]
        _check_alike(folders, checkpoints)
        weights = {name: _mean([weights[name] for weights in checkpoints], name) for name in checkpoints[-1]}
    if output_dir is not None:
        _write(weights, folders[-1], Path(output_dir))
    return weights


def last_checkpoints(run_dir, n):
    """The last `n` complete checkpoints that a Trainer left in `run_dir`, oldest first."""
    checkpoints = _complete_checkpoints(run_dir)
    return _enough(
        list(checkpoints.values())[-n:], n, f"{run_dir} has complete checkpoints of steps {list(checkpoints)}"
    )


def best_checkpoints(run_dir, n, metric, greater_is_better):
    """The `n` complete checkpoints in `run_dir` that evaluated best by `metric`, oldest first.

    The scores are those of the newest checkpoint's log; of equal scores the later one is better.
    """
    checkpoints = _complete_checkpoints(run_dir)
    newest = list(checkpoints.values())[-1:]
    log = [entry for folder in newest for entry in TrainerState.load_from_json(folder / STATE).log_history]
    key = metric if metric.startswith("eval_") else f"eval_{metric}"
    scores = {entry["step"]: entry[key] for entry in log if key in entry}
    if log and not scores:
        known = sorted({name for entry in log for name in entry if name.startswith("eval_")})
        raise ValueError(f"{newest[0] / STATE} has no {key}; evaluated were {known}")
    sign = 1 if greater_is_better else -1
    ranked = sorted(
        (sign * scores[step], step) for step in checkpoints if not math.isnan(scores.get(step, math.nan))
    )
    best = sorted(step for _, step in ranked[-n:])
    found = f"{run_dir} has complete checkpoints with {key} of steps {sorted(step for _, step in ranked)}"
    return _enough([checkpoints[step] for step in best], n, found)


def _complete_checkpoints(run_dir):
    """{step: folder} in order of steps."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"no folder {run_dir} to look for checkpoints in")
    steps = {}
    for folder in run_dir.iterdir():
        if (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and (folder / STATE).is_file():
            steps[int(match[1])] = folder
    return dict(sorted(steps.items()))


def _enough(folders, n, found):
    if n < 1 or len(folders) < n:
        raise ValueError(f"cannot take {n} checkpoints: {found}")
    return folders


def _open(folder, stack):
    """{name: lazily read weight} of a model folder."""
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    file = single if single.is_file() else index
    if not file.is_file():
        what = "does not hold" if folder.is_dir() else "is not a folder with"
        raise FileNotFoundError(f"{folder} {what} {single.name} or {index.name}")
    weights = {}
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


def _check_alike(folders, checkpoints):
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


def _mean(weights, name):
    last = weights[-1][...]
    if not last.is_floating_point():
        return last
    total = torch.zeros_like(last, dtype=torch.float64)
    for weight in weights:
        total += weight[...]
    return (total / len(weights)).to(last.dtype)


def _write(weights, source, output_dir):
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".averaging-") as draft:
        for file in source.iterdir():
            if (
                file.is_file()
                and file.suffix not in TRAINING_ONLY
                and file.name not in (STATE, SAFE_WEIGHTS_INDEX_NAME)
            ):
                shutil.copy2(file, draft)
        save_torch_state_dict(weights, draft, metadata={"format": "pt"})
        for stale in [*output_dir.glob("model*.safetensors"), output_dir / SAFE_WEIGHTS_INDEX_NAME]:
            if not (Path(draft) / stale.name).exists():
                stale.unlink(missing_ok=True)
        for file in Path(draft).iterdir():
            os.replace(file, output_dir / file.name)


DATA_ORDER = "data_order.json"  # in a checkpoint

BUDGET = ("max_source_tokens", "max_target_tokens", "tokens_per_update")
FIXED = ("per_device_train_batch_size", "train_sampling_strategy")


def data_order(args: TrainingArguments, dataset, lengths: Sequence[np.ndarray] | None) -> dict:
    """What the order of the data and the batches follow from.

    Args:
        lengths: of the examples in tokens, one array for each side, where batches are made by them.
    """
    keys = BUDGET if args.has_token_budget else FIXED
    order = {"seed": args.seed if args.data_seed is None else args.data_seed}
    order |= {key: getattr(args, key) for key in keys}
    if hasattr(dataset, "__len__"):
        order["examples in the training data"] = len(dataset)
    if lengths is not None:
        sums = [zlib.crc32(np.ascontiguousarray(side, dtype=np.int64)) for side in lengths]
        order["checksum of the examples' lengths"] = sums
    return order


def write_data_order(checkpoint: str | Path, order: dict):
    Path(checkpoint, DATA_ORDER).write_text(json.dumps(order, indent=2) + "\n", encoding="utf-8")


def check_data_order(checkpoint: str | Path, order: dict):
    """Raises ValueError if the checkpoint was made with another order; one without a record passes."""
    file = Path(checkpoint, DATA_ORDER)
    if not file.is_file():
        return
    then = json.loads(file.read_text(encoding="utf-8"))
    changed = [key for key in {**then, **order} if then.get(key) != order.get(key)]
    if changed:
        listing = "; ".join(f"{key}: {then.get(key)} then, {order.get(key)} now" for key in changed)
        raise ValueError(
            f"{checkpoint} stands at a place in other data or other batches ({listing}). Go on with the same "
            "data, vocabulary and settings, or start anew in another output_dir"
        )
