"""Checks of configurations and of settings of `generate`: types, bounds, memory."""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

MOST_LAYERS, MOST_LABELS, LARGEST = 10_000, 1_000_000, 10**12


def require_positive(config: PreTrainedConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not is_whole(value):
            raise ValueError(f"{name}={value!r} must be a whole number")
        if not 1 <= value <= LARGEST:
            raise ValueError(
                f"{name}={value} must be at least 1" + f" and at most {LARGEST}" * (value > LARGEST)
            )


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_types(config: PreTrainedConfig, others: dict[str, Any]) -> None:
    """Raises ValueError for wrong types in fields that transformers reads before it checks them.

    Args:
        others: entries that are no fields of the class, such as `num_labels`.
    """
    entries = {
        name: others.get(name, getattr(config, name, None)) for name in ("id2label", "label2id", "prefix")
    }
    entries |= {
        name: others.get(name, vars(config).get(name))
        for name in ("num_labels", "task_specific_params", "dtype", "torch_dtype")
    }
    number, names, prefix = entries["num_labels"], entries["id2label"], entries["prefix"]
    wrong = {
        "num_labels": number is None
        or (is_whole(number) and 0 <= number <= MOST_LABELS)
        or f"a whole number from 0 to {MOST_LABELS:,}",
        "id2label": names is None
        or (
            isinstance(names, dict)
            and len(names) <= MOST_LABELS
            and all(str(id).isdigit() and isinstance(label, str) for id, label in names.items())
        )
        or 'a dict of ids and names, such as {0: "no", 1: "yes"}',
        "label2id": entries["label2id"] is None
        or (
            isinstance(entries["label2id"], dict)
            and all(isinstance(label, str) and str(id).isdigit() for label, id in entries["label2id"].items())
        )
        or 'a dict of names and ids, such as {"no": 0, "yes": 1}',
        "prefix": prefix is None or isinstance(prefix, str) or "a text",
        "task_specific_params": entries["task_specific_params"] is None
        or (
            isinstance(entries["task_specific_params"], dict)
            and all(isinstance(params, dict) for params in entries["task_specific_params"].values())
        )
        or 'a dict of dicts, such as {"translation": {"num_beams": 4}}',
        **{name: is_dtype(entries[name]) or 'a type, such as "float32"' for name in ("dtype", "torch_dtype")},
    }
    for name, answer in wrong.items():
        if answer is not True:
            raise ValueError(f"{name}={str(entries[name])[:60]} must be {answer}")


def patch_weights(config: Any) -> int:
    """The weights of the projection of patches; convolutions have fewer."""
    return (
        config.num_channels * config.hidden_size * (config.patch_size**2 if config.stem == "patches" else 1)
    )


def is_dtype(value: Any) -> bool:
    named = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    return value in (None, "auto") or isinstance(named, torch.dtype)


def physical_memory() -> float:
    """The memory of this machine in bytes, infinite if it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return math.inf


MOST_BEAMS = 2_000
SHORTEST_LIMIT = 10_000  # tokens; the limit of an output is 16 times the model's positions, or this


BEAMS = ("num_beams", "num_return_sequences")
LARGEST_PENALTY = 100  # an exponent


def check_generation_settings(settings: Mapping[str, Any], positions: int | None = None) -> None:
    """Raises ValueError for numbers of beams, outputs or tokens that are no whole numbers, or absurd.

    Args:
        settings: of `generate`; None and absent ones have no limit.
        positions: the model's `max_position_embeddings`.
    """
    longest = max(SHORTEST_LIMIT, 16 * positions if is_whole(positions) else 0)  # type: ignore[operator]
    names = ("max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_extra_tokens")
    limits = dict.fromkeys(names, longest) | dict.fromkeys(BEAMS, MOST_BEAMS)
    for name, limit in limits.items():
        value = settings.get(name)
        if value is not None and not is_whole(value):
            raise ValueError(f"{name}={value!r} must be a whole number")
        if value is not None and value > limit:
            raise ValueError(f"{name}={value} is more than {limit}, the largest that this model accepts")
        if value is not None and name in BEAMS and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    penalty = settings.get("length_penalty")
    if penalty is not None and not (isinstance(penalty, int | float) and abs(penalty) <= LARGEST_PENALTY):
        raise ValueError(f"length_penalty={penalty!r} must be a number between ±{LARGEST_PENALTY}")
