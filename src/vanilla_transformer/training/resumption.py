"""What must be the same when training resumes: the data, their order, the batches of an update."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import VanillaTransformerTrainingArguments, word_of

DATA_ORDER = "data_order.json"  # in a checkpoint: what the order of the data depends on

BUDGET = ("max_source_tokens", "max_target_tokens", "tokens_per_update")
# The saved state of the optimizer holds these, and would replace new values without a word.
OPTIMIZER = ("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "momentum")
PER_UPDATE = {
    True: "batches per update (processes x gradient_accumulation_steps)",
    False: "examples per update (processes x per_device_train_batch_size x gradient_accumulation_steps)",
}


def data_order(
    args: VanillaTransformerTrainingArguments, dataset: Any, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the order of the data, the batches and the state of the optimizer depend on.

    A checkpoint stands after a number of updates. Resuming is right only if the same updates would be made
    again: from the same data, in the same order, in the same batches.

    Args:
        record: more of it, such as the checksums of the files.
    """
    update = args.world_size * (args.gradient_accumulation_steps or 1)
    by_tokens, streamed = args.has_token_budget, not hasattr(dataset, "__len__")
    order: dict[str, Any] = {"seed": args.seed if args.data_seed is None else args.data_seed}
    order |= {key: getattr(args, key) for key in BUDGET}
    order[PER_UPDATE[by_tokens]] = update if by_tokens else update * args.train_batch_size
    order |= {key: word_of(getattr(args, key)) for key in OPTIMIZER}
    order["train_sampling_strategy"] = args.train_sampling_strategy
    order["dataloader_drop_last"] = args.dataloader_drop_last
    order["examples in the training data"] = None if streamed else len(dataset)
    order["checksum of the training data"] = checksum(dataset)
    if args.train_sampling_strategy == "group_by_length":
        order["per_device_train_batch_size"] = args.per_device_train_batch_size
    if streamed and by_tokens:
        order["stream_buffer_size"] = args.stream_buffer_size
    elif streamed:  # workers and processes share out what they read
        order["stream_buffer_size"] = args.stream_buffer_size
        order["dataloader_num_workers"] = args.dataloader_num_workers
        order["processes"] = args.world_size
    return json.loads(json.dumps({**order, **record}))


def checksum(dataset: Any) -> int | None:
    """Return a CRC-32 of the token ids and labels of a data set, None if they cannot be read as columns."""
    if not hasattr(dataset, "select_columns") or not hasattr(dataset, "__len__"):
        labels = getattr(dataset, "labels", None)
        return zlib.crc32(labels.tobytes()) if isinstance(labels, np.ndarray) else None
    total = 0
    for column in ("input_ids", "labels"):
        if column in dataset.column_names:
            rows = dataset.select_columns(column).with_format("arrow")
            for table in rows.iter(batch_size=10_000):
                total = _checksum_of(table[column], total)
    return total


def _checksum_of(values: Any, total: int) -> int:
    import pyarrow
    import pyarrow.compute

    kinds = pyarrow.types
    while kinds.is_list(values.type) or kinds.is_large_list(values.type):
        lengths = pyarrow.compute.list_value_length(values).to_numpy()
        total = zlib.crc32(lengths.astype(np.int64).tobytes(), total)
        values = pyarrow.compute.list_flatten(values)
    if kinds.is_integer(values.type) and not values.null_count:
        return zlib.crc32(values.to_numpy().astype(np.int64).tobytes(), total)
    return zlib.crc32(repr(values.to_pylist()).encode(), total)


def write_data_order(checkpoint: str | Path, order: Mapping[str, Any]) -> None:
    Path(checkpoint, DATA_ORDER).write_text(json.dumps(order, indent=2) + "\n", encoding="utf-8")


def check_data_order(checkpoint: str | Path, order: Mapping[str, Any]) -> None:
    """Raise ValueError if the checkpoint has a record of another order.

    An earlier version may have recorded less: only what both record is compared.
    """
    file = Path(checkpoint, DATA_ORDER)
    if not file.is_file():
        return
    saved = json.loads(file.read_text(encoding="utf-8"))
    changed = [key for key in order if key in saved and saved[key] != order[key]]
    if changed:
        listing = "; ".join(f"{key} changed from {saved[key]} to {order[key]}" for key in changed)
        raise ValueError(
            f"{checkpoint} was saved with other data or settings: {listing}. Resume with the same "
            "data, vocabulary and settings, or start again in a new --output_dir"
        )


def without_resumption(words: list[str]) -> list[str]:
    """Return a command without its --resume_from_checkpoint."""
    kept, rest = [], iter(words)
    for word in rest:
        if word.replace("-", "_").startswith("__resume_from_checkpoint"):
            if "=" not in word:
                next(rest, None)
        else:
            kept.append(word)
    return kept
