"""The average of checkpoints (section 6.1)."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..stacks import apply_umask
from .manifest import INTERRUPTED, MANIFEST

TRAINING_ONLY = {".bin", ".pt", ".pth", ".safetensors"}  # weights, optimizer, schedule and random states


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

    Example:
        >>> for name in ("checkpoint-1", "checkpoint-2"):
        ...     model.save_pretrained(name)
        >>> weights = average_checkpoints(["checkpoint-1", "checkpoint-2"], "averaged")
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
                and file.name not in (TRAINER_STATE_NAME, SAFE_WEIGHTS_INDEX_NAME, MANIFEST, INTERRUPTED)
            ):
                shutil.copy2(file, draft)
        save_torch_state_dict(weights, draft, metadata={"format": "pt"})
        apply_umask(draft)
        for stale in [*output_dir.glob("model*.safetensors"), output_dir / SAFE_WEIGHTS_INDEX_NAME]:
            if not (Path(draft) / stale.name).exists():
                stale.unlink(missing_ok=True)
        for file in Path(draft).iterdir():
            os.replace(file, output_dir / file.name)
