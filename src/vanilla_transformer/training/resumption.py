"""Whether a checkpoint's place in the data still means the same when training goes on from it.

The place is a number of updates. It is right only if the same updates would be made again: from the same
data, in the same order, cut into the same batches.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import TrainingArguments

FILE = "data_order.json"  # in a checkpoint

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
    Path(checkpoint, FILE).write_text(json.dumps(order, indent=2) + "\n", encoding="utf-8")


def check_data_order(checkpoint: str | Path, order: dict):
    """Raises ValueError if the checkpoint was made with another order; one without a record passes."""
    file = Path(checkpoint, FILE)
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
