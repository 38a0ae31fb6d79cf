"""Texts with one label each: reading them, and encoding them as token ids."""

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
    hold_out,
    predicted_labels,
    warn_skipped,
    write_predictions,
)
from .settings import InputError
from .sources import load_rows, require_column
from .text import TextArguments

logger = logging.getLogger(__name__)


@dataclass
class TextClassificationArguments(LabelArguments, TextArguments):
    """Where texts and their labels come from, and how to tokenize the texts."""

    text_column: list[str] = field(
        default_factory=lambda: ["text"],
        metadata={"help": "column of the text; two columns make a pair, such as: premise hypothesis"},
    )
    max_length: int = field(default=256, metadata={"help": "in tokens: longer texts are cut at their end"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if {"label", self.label_column} & {*self.text_column}:
            raise InputError(f"text_column: {' '.join(self.text_column)} cannot be the label too")
        if not 1 <= len(self.text_column) <= 2:
            raise InputError(f"text_column takes one column or two, not {len(self.text_column)}")
        if self.max_length < 3:
            raise InputError(f"max_length={self.max_length} must be at least 3")
        if self.streaming:
            raise InputError(
                "streaming does not work here: counting the classes needs the whole data; remove streaming"
            )


def load_splits(
    data: TextClassificationArguments, seed: int = 0, names: list[str] | None = None
) -> dict[str, Dataset]:
    """Return those of train, validation and test that `data` names and that have labels.

    Each has the columns of `data.text_column` and class labels in `label`. Rows with an empty text or without
    a label are skipped and logged.

    Args:
        seed: of the random choice for `validation_share`.
        names: of the classes that a model knows, to score it; by default those of train.

    Raises:
        InputError: a column is missing or has another type, a label is not in train, or train has only one.
    """
    splits: dict[str, Dataset] = {}
    names = list(names or ())
    for split, (rows, where) in load_rows(data).items():
        _check_columns(rows, where, data)
        if split == "train":
            names = class_names(rows, data.label_column, where)
        labels = np.array(class_ids(rows, data.label_column, where, names), dtype=np.int64)
        texts = [_texts(rows, column, where) for column in data.text_column]
        empty = np.array([not all(row) for row in zip(*texts)], dtype=bool)
        warn_skipped(where, {"with an empty text": empty, "without a label": labels == IGNORE_INDEX})
        kept = np.flatnonzero(~empty & (labels != IGNORE_INDEX))
        if split == "train":
            check_classes(labels[kept], names, where, data.balance_classes)
        elif not len(kept):
            logger.warning("%s: no rows are left to score", where)
            continue
        rows = rows.select(kept).select_columns(data.text_column)
        splits[split] = rows.add_column("label", labels[kept], feature=ClassLabel(names=names))
    if data.validation_share and "validation" not in splits and "train" in splits:
        splits |= hold_out(splits["train"], data.validation_share, seed)
    return splits


def encode_splits(
    splits: dict[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    data: TextClassificationArguments,
    longest: int,
) -> dict[str, Dataset]:
    """Return the splits with token ids as `input_ids`, and `labels`.

    It cuts texts to `data.max_length` and to `longest` tokens. Validation and test keep their texts and are
    sorted by length; `row` is the index before sorting.
    """
    return {name: _encode(name, rows, tokenizer, data, longest) for name, rows in splits.items()}


def _encode(
    name: str,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    data: TextClassificationArguments,
    longest: int,
) -> Dataset:
    limit = "max_length" if data.max_length <= longest else "the positions of the model"
    longest = min(longest, data.max_length)

    def encode(rows: dict, numbers: list[int]) -> dict:
        texts = [rows[column] for column in data.text_column]
        encoded = tokenizer(*texts, truncation=True, max_length=longest)
        if encoded.encodings is None:  # a tokenizer without the `tokenizers` library
            cut = [len(ids) > longest for ids in tokenizer(*texts, verbose=False)["input_ids"]]
        else:
            cut = [bool(encoding.overflowing) for encoding in encoded.encodings]
        return {
            "input_ids": encoded["input_ids"],
            "labels": rows["label"],
            "row": numbers,
            "cut": cut,
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
    if name != "train":  # little padding; the longest first, so that memory runs out at once or never
        encoded = encoded.select(np.argsort(-np.array(encoded["length"]), kind="stable"))
    return encoded.remove_columns(["cut", "length"] + ["row"] * (name == "train"))


def report_predictions(
    split: Dataset,
    logits: np.ndarray,
    data: TextClassificationArguments,
    names: Sequence[str],
    output_dir: str,
) -> None:
    """Write predictions.jsonl in the order of the data, and print the five most confident errors.

    Args:
        split: a held-out split of `encode_splits`.
        logits: `(rows of split, classes)`.
    """
    texts = ({column: row[column] for column in data.text_column} for row in split)
    lines = [text | line for text, line in zip(texts, predicted_labels(split["labels"], logits, names))]
    write_predictions((lines[index] for index in np.argsort(split["row"])), output_dir)
    wrong = [line for line in lines if line["label"] != line["predicted"]]
    if wrong:
        print("\nThe most confident errors:")
    for line in sorted(wrong, key=lambda line: -line["score"])[:5]:
        text = " | ".join(line[column] for column in data.text_column)
        print(f"\n  text       {text[:300]}\n  label      {line['label']}")
        print(f"  predicted  {line['predicted']} ({line['score']:.0%})")


def _check_columns(rows: Dataset, where: str, data: TextClassificationArguments) -> None:
    for column in data.text_column:
        require_column(rows.column_names, column, "text_column", where)
    require_column(rows.column_names, data.label_column, "label_column", where)


def _texts(rows: Dataset, column: str, where: str) -> list[str]:
    """Return the texts without surrounding white space; a missing text is empty."""
    for number, text in enumerate(rows[column], start=1):
        if not isinstance(text, str | None):
            held = f"{type(text).__name__}, not text: {text!r}"
            raise InputError(f"{where}, row {number}: text_column {column!r} holds {held}")
    return [(text or "").strip() for text in rows[column]]
