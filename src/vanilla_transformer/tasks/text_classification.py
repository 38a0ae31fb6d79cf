"""Texts with a label each: what is read, what is left out, and how it becomes token ids."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

from ..losses import IGNORE_INDEX
from .labels import (
    LabelArguments,
    check_classes,
    class_ids,
    class_names,
    decided,
    hold_out,
    tell_skipped,
    write_predictions,
)
from .settings import InputError, nearest
from .sources import load_rows
from .text import TextArguments

logger = logging.getLogger(__name__)


@dataclass
class TextClassificationArguments(LabelArguments, TextArguments):
    """Where texts and their labels come from, and how the texts become tokens."""

    text_column: list[str] = field(
        default_factory=lambda: ["text"],
        metadata={"help": "column of the text; two are read as a pair, such as: premise hypothesis"},
    )
    max_length: int = field(
        default=256, metadata={"help": "in tokens: longer texts are cut at their end, and counted"}
    )

    def __post_init__(self):
        super().__post_init__()
        if {"label", self.label_column} & {*self.text_column}:
            raise InputError(f"text_column: {' '.join(self.text_column)} cannot be the label as well")
        if not 1 <= len(self.text_column) <= 2:
            raise InputError(f"text_column takes one column or two, not {len(self.text_column)}")
        if self.max_length < 3:
            raise InputError(f"max_length={self.max_length} must be at least 3")
        if self.streaming:
            raise InputError(
                "streaming: the classes and their counts are only known of data that are read whole"
            )


def load_splits(data: TextClassificationArguments, seed: int = 0) -> dict[str, Dataset]:
    """The splits that `data` names, those of train, validation and test that exist and have labels.

    Each has the columns of `data.text_column` and, as class labels, `label`. Rows with an empty text or
    without a label are left out and counted.

    Args:
        seed: of the choice that `validation_share` makes.

    Raises:
        InputError: a column is missing or holds something else; a label does not occur in train, or only one.
    """
    splits, names = {}, []
    for split, (rows, where) in load_rows(data).items():
        _check_columns(rows, where, data)
        if split == "train":
            names = class_names(rows, data.label_column, where)
        labels = np.array(class_ids(rows, data.label_column, where, names), dtype=np.int64)
        texts = [_texts(rows, column, where) for column in data.text_column]
        empty = np.array([not all(row) for row in zip(*texts)], dtype=bool)
        tell_skipped(where, {"with an empty text": empty, "without a label": labels == IGNORE_INDEX})
        kept = np.flatnonzero(~empty & (labels != IGNORE_INDEX))
        if split == "train":
            check_classes(labels[kept], names, where)
        elif not len(kept):
            logger.warning("%s: nothing is left to score", where)
            continue
        rows = rows.select(kept).select_columns(data.text_column)
        splits[split] = rows.add_column("label", labels[kept], feature=ClassLabel(names=names))
    if data.validation_share and "validation" not in splits:
        splits |= hold_out(splits["train"], data.validation_share, seed)
    return splits


def encode_splits(
    splits: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    data: TextClassificationArguments,
    longest: int,
) -> dict[str, Dataset]:
    """Token ids as `input_ids`, and `labels`.

    A text of more than `data.max_length` or `longest` tokens is cut. What is not train keeps its texts, and
    is ordered by length; `row` is the place before.
    """
    return {name: _encode(name, rows, tokenizer, data, longest) for name, rows in splits.items()}


def _encode(name: str, rows: Dataset, tokenizer, data: TextClassificationArguments, longest: int) -> Dataset:
    limit = "max_length" if data.max_length <= longest else "the positions of the model"
    longest = min(longest, data.max_length)

    def encode(rows: dict, numbers: list[int]) -> dict:
        texts = [rows[column] for column in data.text_column]
        encoded = tokenizer(*texts, truncation=True, max_length=longest)
        return {
            "input_ids": encoded["input_ids"],
            "labels": rows["label"],
            "row": numbers,
            "cut": [bool(encoding.overflowing) for encoding in encoded.encodings],
            "length": list(map(len, encoded["input_ids"])),
        }

    encoded = rows.map(
        encode,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names if name == "train" else None,
        num_proc=data.preprocessing_workers,
        desc=f"Encoding the {name} texts",
    )
    if cut := sum(encoded["cut"]):
        logger.warning("%s: cut %d of %d texts to %d tokens (%s)", name, cut, len(encoded), longest, limit)
    if name != "train":  # little padding; the longest first, so that memory fails at once or never
        encoded = encoded.select(np.argsort(-np.array(encoded["length"]), kind="stable"))
    return encoded.remove_columns(["cut", "length"] + ["row"] * (name == "train"))


def report_predictions(
    split: Dataset,
    logits: np.ndarray,
    data: TextClassificationArguments,
    names: Sequence[str],
    output_dir: str,
):
    """predictions.jsonl in the order of the data, and on the screen five of the surest that are wrong.

    Args:
        split: what `encode_splits` gave for the held-out data.
        logits: `(rows of split, classes)`.
    """
    texts = ({column: row[column] for column in data.text_column} for row in split)
    lines = [text | line for text, line in zip(texts, decided(split["labels"], logits, names))]
    write_predictions((lines[index] for index in np.argsort(split["row"])), output_dir)
    wrong = [line for line in lines if line["label"] != line["predicted"]]
    if wrong:
        print("\nSure, and wrong:")
    for line in sorted(wrong, key=lambda line: -line["score"])[:5]:
        text = " | ".join(line[column] for column in data.text_column)
        print(f"\n  text       {text[:300]}\n  label      {line['label']}")
        print(f"  predicted  {line['predicted']} ({line['score']:.0%})")


def _check_columns(rows: Dataset, where: str, data: TextClassificationArguments):
    for key, columns in (("text_column", data.text_column), ("label_column", [data.label_column])):
        for column in columns:
            if column not in rows.column_names:
                near = nearest(column, rows.column_names)
                held = ", ".join(rows.column_names)
                raise InputError(f"{key}: {where} has no column {column!r}{near} (it has {held})")


def _texts(rows: Dataset, column: str, where: str) -> list[str]:
    """The texts without the white space around them; empty where there is none."""
    for number, text in enumerate(rows[column], start=1):
        if not isinstance(text, str | None):
            held = f"{type(text).__name__}, not text: {text!r}"
            raise InputError(f"{where}, row {number}: text_column {column!r} holds {held}")
    return [(text or "").strip() for text in rows[column]]
