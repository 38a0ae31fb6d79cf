"""Pairs of texts for sequence-to-sequence training.

`load_splits` gives every source of data the same two text columns, `source` and `target`, and leaves out
pairs with an empty side; `encode_splits` turns them into token ids. What is left out or cut is counted and
logged; what cannot be meant is an `InputError` that names the file, the line or the key.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from datasets.exceptions import DatasetGenerationError
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from ..generation import paper_generation_config
from ..training.batching import sequence_lengths
from .settings import InputError
from .sources import (
    READERS,
    SPLITS,
    Rows,
    SkipFrom,
    Skips,
    decoded,
    load_rows,
    reader_of,
    require_column,
    text_lines,
)
from .text import TextArguments

logger = logging.getLogger(__name__)


@dataclass
class Seq2SeqArguments(TextArguments):
    """Where the pairs of texts come from, and how they become tokens."""

    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "local files in place of `dataset`: Parquet, CSV, TSV or JSON lines (wildcards allowed), "
            "or two text files, source then target, with one sentence a line: train.en train.de"
        },
    )
    task: Literal["translation", "summarization"] = field(
        default="translation",
        metadata={"help": "what the target is to the source; decides the scores and the pipeline"},
    )
    source_lang: str | None = field(
        default=None, metadata={"help": "language code of the source, such as en"}
    )
    target_lang: str | None = field(
        default=None, metadata={"help": "language code of the target, such as de"}
    )
    source_column: str | None = field(
        default=None,
        metadata={
            "help": "column of the source text; the one named as source_lang if not given. A dictionary "
            "column `translation` is searched too"
        },
    )
    target_column: str | None = field(default=None, metadata={"help": "as source_column, for the target"})
    max_source_length: int = field(
        default=256,
        metadata={"help": "in tokens: pairs with a longer source are left out of training, and counted"},
    )
    max_target_length: int = field(
        default=256,
        metadata={"help": "in tokens: pairs with a longer target are left out of training, and counted"},
    )
    truncate_source: bool = field(
        default=False,
        metadata={
            "help": "cut longer sources to max_source_length, in training, scoring and use; for documents, "
            "whose beginning tells most"
        },
    )

    def __post_init__(self):
        super().__post_init__()
        files = {name: getattr(self, f"{name}_file") for name in SPLITS}
        for side in ("source", "target"):
            is_text = all(reader_of(path) is None for name in SPLITS for path in files[name] or ())
            if not (getattr(self, f"{side}_column") or getattr(self, f"{side}_lang")) and (
                self.dataset or not is_text
            ):
                raise InputError(f"which column is the {side}? set {side}_lang (such as en) or {side}_column")
        for name in ("max_source_length", "max_target_length"):
            if getattr(self, name) < 2:
                raise InputError(f"{name}={getattr(self, name)} must be at least 2")


@dataclass
class DecodingArguments:
    """The beam search of the final score; it is stored with the model (section 6.1)."""

    _argument_group_name = "decoding"

    num_beams: int = field(default=4, metadata={"help": "hypotheses that beam search keeps"})
    alpha: float = field(default=0.6, metadata={"help": "of the length penalty ((5 + length) / 6)^alpha"})
    max_extra_tokens: int = field(
        default=50,
        metadata={"help": "longest translation, in tokens beyond the input; a summary has max_target_length"},
    )
    no_repeat_ngram_size: int = field(
        default=0, metadata={"help": "no so many tokens in a row come twice in an output; 0 allows all"}
    )

    def __post_init__(self):
        if self.num_beams < 1:
            raise InputError(f"num_beams={self.num_beams} must be at least 1")
        if self.max_extra_tokens < 0:
            raise InputError(f"max_extra_tokens={self.max_extra_tokens} must not be negative")


def load_splits(data: Seq2SeqArguments) -> dict[str, Rows]:
    """The splits that `data` names, those of train, validation and test that exist.

    Each has the text columns `source` and `target` and no pair with an empty side. Only the training split
    is streamed when `data.streaming`.

    Raises:
        InputError: a file is missing or cannot be read, parallel files differ in length, a column is missing
            or does not hold text, or a split does not exist.
    """
    splits = {}
    for name, (dataset, where) in load_rows(data, _read_parallel).items():
        dataset = _two_columns(dataset, where, data)
        splits[name] = _without_empty(dataset, where)
        if isinstance(dataset, Dataset) and not len(splits[name]):
            raise InputError(f"{where}: no pair of sentences is left")
    return splits


def encode_splits(
    splits: dict[str, Rows],
    tokenizer: PreTrainedTokenizerBase,
    data: Seq2SeqArguments,
    longest: int,
) -> dict[str, Rows]:
    """Token ids of both sides as `input_ids` and `labels`, each with </s> at its end.

    Training pairs beyond `max_source_length` or `max_target_length` tokens are left out. The other splits
    keep every pair, for a score is of all of them, with its texts; only a source of more than `longest`
    tokens, the positions that the model has, is cut. They are ordered by length; `row` is the place before.
    With `truncate_source` all sources are cut to `max_source_length`, and none is left out. Neither limit is
    more than `longest` in training either.
    """
    for key in ("max_source_length", "max_target_length"):
        if getattr(data, key) > longest:
            logger.warning("%s=%d becomes %d, the positions of the model", key, getattr(data, key), longest)
            data = replace(data, **{key: longest})
    if data.truncate_source:
        longest = data.max_source_length
    return {
        name: _encode_training(dataset, tokenizer, data)
        if name == "train"
        else _encode_held_out(name, dataset, tokenizer, longest)
        for name, dataset in splits.items()
    }


def _encode_training(dataset, tokenizer, data: Seq2SeqArguments):
    limits = f"max_target_length={data.max_target_length}"
    if not data.truncate_source:
        limits = f"max_source_length={data.max_source_length} or {limits}"
    streaming = isinstance(dataset, IterableDataset)
    skips = Skips(f"left out %d training pairs with more tokens than {limits} so far") if streaming else None

    def encode(rows: dict) -> dict:
        sources, targets = _ids(rows, tokenizer)
        if data.truncate_source:
            sources = [_cut(source, data.max_source_length) for source in sources]
        kept = [
            (source, target)
            for source, target in zip(sources, targets)
            if len(source) <= data.max_source_length and len(target) <= data.max_target_length
        ]
        if skips:
            skips.add(len(sources) - len(kept))
        return {"input_ids": [source for source, _ in kept], "labels": [target for _, target in kept]}

    if streaming:
        return dataset.map(encode, batched=True, remove_columns=["source", "target"])
    encoded = dataset.map(
        encode,
        batched=True,
        remove_columns=["source", "target"],
        num_proc=data.preprocessing_workers,
        desc="Encoding the training pairs",
    )
    if not len(encoded):
        raise InputError(f"every training pair has more tokens than {limits}")
    if gone := len(dataset) - len(encoded):
        text = "left out %d of %d training pairs with more tokens than %s"
        logger.warning(text, gone, len(dataset), limits)
    if data.truncate_source:
        full = int((sequence_lengths(encoded, "input_ids") == data.max_source_length).sum())
        text = "%d of %d training sources fill max_source_length=%d; what they had beyond it is cut"
        logger.info(text, full, len(encoded), data.max_source_length)
    return encoded


def _encode_held_out(name: str, dataset: Dataset, tokenizer, longest: int) -> Dataset:
    def encode(rows: dict, numbers: list[int]) -> dict:
        sources, targets = _ids(rows, tokenizer)
        lengths = [len(source) for source in sources]
        sources = [_cut(source, longest) for source in sources]
        return {"input_ids": sources, "labels": targets, "row": numbers, "length": lengths}

    encoded = dataset.map(encode, batched=True, with_indices=True, desc=f"Encoding the {name} pairs")
    lengths = np.array(encoded["length"])
    if cut := int((lengths > longest).sum()):
        logger.warning("%s: cut %d of %d sources to %d tokens", name, cut, len(lengths), longest)
    # By length, for batches with little padding; the longest first, so that memory fails at once or never.
    return encoded.select(np.argsort(-lengths, kind="stable")).remove_columns("length")


def _cut(ids: list[int], longest: int) -> list[int]:
    """At most `longest` tokens, the last of which stays </s>."""
    return ids if len(ids) <= longest else ids[: longest - 1] + ids[-1:]


def _ids(rows: dict, tokenizer) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of both sides; `verbose=False` because limits on length are the caller's business."""
    sources = tokenizer(rows["source"], verbose=False)["input_ids"]
    return sources, tokenizer(text_target=rows["target"], verbose=False)["input_ids"]


def _read_parallel(name: str, paths: list[str], streaming: bool) -> Rows:
    if len(paths) != 2:
        raise InputError(
            f"{name}_file: {', '.join(paths)}: text comes as two files, the source and the target, such as "
            f"train.en train.de; other formats are told by their suffix ({', '.join(READERS)})"
        )
    counts = [sum(1 for _ in text_lines(path)) for path in paths]
    if counts[0] != counts[1]:
        raise InputError(
            f"{name}_file: {paths[0]} has {counts[0]} lines but {paths[1]} has {counts[1]}; "
            "line n of one must be the translation of line n of the other"
        )
    if not counts[0]:
        raise InputError(f"{name}_file: {paths[0]} and {paths[1]} are empty")
    changed = tuple(Path(path).stat().st_mtime_ns for path in paths)  # no list: `datasets` means shards by it
    rows = {"source_path": paths[0], "target_path": paths[1], "changed": changed}
    if streaming:
        return IterableDataset.from_generator(_pairs, gen_kwargs=rows)
    try:
        return Dataset.from_generator(_pairs, gen_kwargs=rows)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _pairs(source_path: str, target_path: str, changed: tuple[int, int]) -> Iterator[dict[str, str]]:
    """Lines side by side; `changed`, when the files did, keeps what `datasets` cached from growing stale."""
    for number, (source, target) in enumerate(zip(text_lines(source_path), text_lines(target_path)), start=1):
        yield {
            "source": decoded(source, source_path, number),
            "target": decoded(target, target_path, number),
        }


# What the rows must be.


def _two_columns(dataset: Rows, where: str, data: Seq2SeqArguments) -> Rows:
    """Only `source` and `target`, checked to be text."""
    columns = dataset.column_names or list(next(iter(dataset), {}))
    if isinstance(dataset, IterableDataset):
        first = next(iter(dataset), None)
        if first is None:
            raise InputError(f"{where}: there are no rows")
        nested = {
            f"{name}.{key}" for name, value in first.items() if isinstance(value, dict) for key in value
        }
        paths = {side: _column(side, {*columns, *nested}, where, data) for side in ("source", "target")}
        return dataset.map(_pick, fn_kwargs={"paths": paths, "where": where}, remove_columns=columns)
    dataset = dataset.flatten()
    paths = {side: _column(side, dataset.column_names, where, data) for side in ("source", "target")}
    for side, column in paths.items():
        kind = dataset.features[column]
        if getattr(kind, "dtype", None) not in ("string", "large_string"):
            values = enumerate(dataset[column], start=1)
            row, value = next(
                ((row, value) for row, value in values if not isinstance(value, str)), (1, None)
            )
            held = f"{type(value).__name__}, not text: {value!r}"
            raise InputError(f"{where}, row {row}: {side}_column {column!r} holds {held}")
    if paths["source"] == paths["target"]:
        raise InputError(f"{where}: source and target are the same column, {paths['source']!r}")
    dataset = dataset.select_columns(list(paths.values()))
    return dataset.rename_columns({path: side for side, path in paths.items() if path != side})


def _column(side: str, columns: Iterable[str], where: str, data: Seq2SeqArguments) -> str:
    if {"source", "target"} == set(columns) and not (data.source_column or data.target_column):
        return side  # parallel text, or rows that are called as we call them
    name = getattr(data, f"{side}_column") or getattr(data, f"{side}_lang")
    if f"translation.{name}" in columns and name not in columns:
        return f"translation.{name}"
    key = f"{side}_column" if getattr(data, f"{side}_column") else f"{side}_lang"
    require_column(columns, name, key, where)
    return name


def _pick(row: dict, paths: dict[str, str], where: str) -> dict[str, str]:
    picked = {}
    for side, path in paths.items():
        value = row
        for key in [path] if path in row else path.split("."):
            value = value[key]
        if not isinstance(value, str | None):
            raise InputError(
                f"{where}: {side}_column {path!r} holds {type(value).__name__}, not text: {value!r}"
            )
        picked[side] = value or ""
    return picked


def _without_empty(dataset: Rows, where: str) -> Rows:
    if isinstance(dataset, IterableDataset):
        message = f"{where}: skipped %d pairs with an empty side so far"
        return dataset.filter(SkipFrom(_has_empty_side, message))
    empty = None
    table = dataset.with_format("arrow")[:]
    for side in ("source", "target"):
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(table[side], ""))), 0)
        empty = blank if empty is None else pc.or_(empty, blank)
    count = pc.sum(empty).as_py() or 0
    if not count:
        return dataset
    rows = pc.indices_nonzero(empty).to_pylist()
    shown = ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if count > 5 else "")
    logger.warning(
        "%s: skipped %d of %d pairs with an empty side (rows %s)", where, count, len(dataset), shown
    )
    return dataset.select(pc.indices_nonzero(pc.invert(empty)).to_pylist())


def _has_empty_side(row: dict[str, str]) -> bool:
    return not (row["source"].strip() and row["target"].strip())


# Decoding


def generation_config(
    config: PreTrainedConfig, data: Seq2SeqArguments, decoding: DecodingArguments
) -> GenerationConfig:
    """Return the paper's decoding settings for a model, with the caller's; a summary has a fixed limit."""
    settings = paper_generation_config(config)
    settings.update(
        num_beams=decoding.num_beams,
        length_penalty=decoding.alpha,
        max_extra_tokens=decoding.max_extra_tokens,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
    )
    if data.task == "summarization":
        settings.update(max_extra_tokens=None, max_length=data.max_target_length + 1)
    return settings
