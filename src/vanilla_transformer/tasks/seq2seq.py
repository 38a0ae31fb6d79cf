"""Pairs of texts for translation and summarization.

`load_splits` loads pairs from any source as two text columns, `source` and `target`, and skips pairs with an
empty side. `encode_splits` turns them into token ids. Both count and log the pairs that they skip or cut.
"""

import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from sacrebleu.metrics import BLEU
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..config_checks import check_generation_settings
from ..configuration_vanilla_transformer import VanillaTransformerConfig
from ..generation import paper_generation_config
from ..training.batching import sequence_lengths
from .lines import decoded, text_lines
from .settings import InputError
from .sources import (
    READERS,
    SPLITS,
    Rows,
    SkipFrom,
    Skips,
    generated,
    load_rows,
    reader_of,
    require_column,
)
from .text import TextArguments

logger = logging.getLogger(__name__)


@dataclass
class Seq2SeqArguments(TextArguments):
    """The pairs of texts to load, and how to encode them."""

    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "local files instead of `dataset`: Parquet, CSV, TSV or JSON lines, where wildcards "
            "work, or two text files with one sentence a line, the source first: train.en train.de"
        },
    )
    task: Literal["translation", "summarization"] = field(
        default="translation",
        metadata={"help": "sets the scores (BLEU and chrF, or ROUGE) and the pipeline"},
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
            "help": "column of the source text; if not given, the column source_lang, or the key source_lang "
            "of a dictionary column `translation`"
        },
    )
    target_column: str | None = field(default=None, metadata={"help": "as source_column, for the target"})
    max_source_length: int = field(
        default=256, metadata={"help": "training skips pairs with more tokens in the source"}
    )
    max_target_length: int = field(
        default=256, metadata={"help": "training skips pairs with more tokens in the target"}
    )
    truncate_source: bool = field(
        default=False,
        metadata={
            "help": "cut sources to max_source_length in training, scoring and the pipeline, instead of "
            "skipping pairs; for documents, whose first sentences matter most"
        },
    )
    extend_vocabulary: int = field(
        default=0,
        metadata={
            "help": "with pretrained: number of new tokens to learn from the training texts; their vectors "
            "start as the mean of those of the old pieces"
        },
    )
    bleu_tokenize: str | None = field(
        default=None,
        metadata={
            "help": "sacreBLEU's tokenizer, such as 13a, intl, zh or char; by default the one for target_lang"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bleu_tokenize is not None:
            try:
                BLEU(tokenize=self.bleu_tokenize)
            except (KeyError, RuntimeError) as error:  # unknown, or it needs a package that is not installed
                known = ", ".join(BLEU.TOKENIZERS)
                raise InputError(
                    f"bleu_tokenize={self.bleu_tokenize!r} does not work here: use one of {known} ({error})"
                ) from error
        files = {name: getattr(self, f"{name}_file") for name in SPLITS}
        for side in ("source", "target"):
            is_text = all(reader_of(path) is None for name in SPLITS for path in files[name] or ())
            if not (getattr(self, f"{side}_column") or getattr(self, f"{side}_lang")) and (
                self.dataset or not is_text
            ):
                raise InputError(
                    f"the column of the {side} is unknown; give {side}_column or {side}_lang (such as en)"
                )
        for name in ("max_source_length", "max_target_length"):
            if getattr(self, name) < 2:
                raise InputError(f"{name}={getattr(self, name)} must be at least 2")


@dataclass
class DecodingArguments:
    """The beam search of the final score. The model is saved with these settings (section 6.1)."""

    _argument_group_name = "decoding"

    num_beams: int | None = field(
        default=None, metadata={"help": "number of hypotheses that beam search keeps; 4 if not given"}
    )
    alpha: float | None = field(
        default=None,
        metadata={"help": "exponent of the length penalty ((5 + length) / 6)^alpha; 0.6 if not given"},
    )
    max_extra_tokens: int | None = field(
        default=None,
        metadata={
            "help": "limit of a translation's length, in tokens beyond its source; 50 if not given. A "
            "summary is limited by max_target_length"
        },
    )
    no_repeat_ngram_size: int | None = field(
        default=None,
        metadata={"help": "length of the n-grams that may not repeat in an output; all may if not given"},
    )

    def __post_init__(self) -> None:
        if self.num_beams is not None and self.num_beams < 1:
            raise InputError(f"num_beams={self.num_beams} must be at least 1")
        if self.max_extra_tokens is not None and self.max_extra_tokens < 0:
            raise InputError(f"max_extra_tokens={self.max_extra_tokens} must not be negative")


def load_splits(data: Seq2SeqArguments) -> dict[str, Rows]:
    """Load the train split, and the validation and test splits that exist.

    Each has the text columns `source` and `target`, and no pair with an empty side. With `data.streaming` the
    training split is a stream.

    Raises:
        InputError: a file or split is missing or cannot be read, parallel files differ in length, a column is
            missing or does not hold text, or no pair remains.
    """
    splits = {}
    for name, (dataset, where) in load_rows(data, _read_parallel).items():
        dataset = _two_columns(dataset, where, data)
        splits[name] = _without_empty(dataset, where)
        if isinstance(dataset, Dataset) and not len(splits[name]):
            raise InputError(f"{where}: every pair has an empty side")
    return splits


def encode_splits(
    splits: dict[str, Rows],
    tokenizer: PreTrainedTokenizerBase,
    data: Seq2SeqArguments,
    longest: int,
) -> dict[str, Rows]:
    """Encode both sides as token ids, `input_ids` and `labels`. Each ends with </s>.

    Training skips pairs with more than `max_source_length` or `max_target_length` tokens. With
    `truncate_source` it cuts the sources instead. The other splits keep every pair and its texts, because
    scores cover all pairs. Their sources are cut to `longest`, or to `max_source_length` with
    `truncate_source`. They are sorted by length; the column `row` is the number of the row before sorting.

    Args:
        longest: the number of positions that the model has. Both limits are lowered to it.
    """
    lowered: dict[str, Any] = {}
    for key in ("max_source_length", "max_target_length"):
        if getattr(data, key) > longest:
            text = "%s=%d becomes %d, the number of positions of the model"
            logger.warning(text, key, getattr(data, key), longest)
            lowered[key] = longest
    data = replace(data, **lowered)
    if data.truncate_source:
        longest = data.max_source_length
    return {
        name: _encode_training(dataset, tokenizer, data)
        if name == "train"
        else _encode_held_out(name, dataset, tokenizer, longest)
        for name, dataset in splits.items()
    }


def _encode_training(dataset: Rows, tokenizer: PreTrainedTokenizerBase, data: Seq2SeqArguments) -> Rows:
    limits = f"max_target_length={data.max_target_length}"
    if not data.truncate_source:
        limits = f"max_source_length={data.max_source_length} or {limits}"
    streaming = isinstance(dataset, IterableDataset)
    skips = Skips(f"skipped %d training pairs so far, with more tokens than {limits}") if streaming else None

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

    if isinstance(dataset, IterableDataset):
        return dataset.map(encode, batched=True, remove_columns=["source", "target"])
    encoded = dataset.map(
        encode,
        batched=True,
        remove_columns=["source", "target"],
        num_proc=data.preprocessing_workers,
        desc="Encoding the training pairs",
    )
    if not len(encoded):
        raise InputError(f"every training pair has more tokens than {limits}; raise the limit")
    if skipped := len(dataset) - len(encoded):
        text = "skipped %d of %d training pairs with more tokens than %s"
        logger.warning(text, skipped, len(dataset), limits)
    if data.truncate_source:
        full = int((sequence_lengths(encoded, "input_ids") == data.max_source_length).sum())
        text = "%d of %d training sources have max_source_length=%d tokens; longer ones were cut"
        logger.info(text, full, len(encoded), data.max_source_length)
    return encoded


def _encode_held_out(name: str, dataset: Rows, tokenizer: PreTrainedTokenizerBase, longest: int) -> Dataset:
    def encode(rows: dict, numbers: list[int]) -> dict:
        sources, targets = _ids(rows, tokenizer)
        lengths = [len(source) for source in sources]
        sources = [_cut(source, longest) for source in sources]
        return {"input_ids": sources, "labels": targets, "row": numbers, "length": lengths}

    encoded = dataset.map(encode, batched=True, with_indices=True, desc=f"Encoding the {name} pairs")
    lengths = np.array(encoded["length"])
    if cut := int((lengths > longest).sum()):
        logger.warning("%s: cut %d of %d sources to %d tokens", name, cut, len(lengths), longest)
    # Sorted by length, for little padding; the longest first, so that memory runs out at once or never.
    return encoded.select(np.argsort(-lengths, kind="stable")).remove_columns("length")


def _cut(ids: list[int], longest: int) -> list[int]:
    """Return at most `longest` token ids, which still end with </s>."""
    return ids if len(ids) <= longest else ids[: longest - 1] + ids[-1:]


def _ids(rows: dict, tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[int]], list[list[int]]]:
    """Return the token ids of both sides."""
    sources = tokenizer(rows["source"], verbose=False)["input_ids"]  # the caller checks the lengths
    return sources, tokenizer(text_target=rows["target"], verbose=False)["input_ids"]


def _read_parallel(name: str, paths: list[str], streaming: bool) -> Rows:
    if len(paths) != 2:
        raise InputError(
            f"{name}_file: {', '.join(paths)}: give two files of text, the source and the target, such as "
            f"train.en train.de, or files that end with {', '.join(READERS)}"
        )
    counts = [sum(1 for _ in text_lines(path)) for path in paths]
    if counts[0] != counts[1]:
        raise InputError(
            f"{name}_file: {paths[0]} has {counts[0]} lines but {paths[1]} has {counts[1]}; "
            "line n of one file must be the translation of line n of the other"
        )
    if not counts[0]:
        raise InputError(f"{name}_file: {paths[0]} and {paths[1]} are empty")
    return generated(_pairs, tuple(paths), streaming)  # a list would mean shards to `datasets`


def _pairs(paths: tuple[str, str], changed: object) -> Iterator[dict[str, str]]:
    """Yield the pairs of lines.

    Raises:
        InputError: one file is longer than the other; they had as many lines before.
    """
    source_path, target_path = paths
    pairs = zip_longest(*map(text_lines, paths))
    for number, (source, target) in enumerate(pairs, start=1):
        if source is None or target is None:
            shorter, longer = (source_path, target_path) if source is None else (target_path, source_path)
            raise InputError(
                f"{shorter} ends before line {number}, but {longer} does not: it has changed since the start"
            )
        yield {
            "source": decoded(source, source_path, number),
            "target": decoded(target, target_path, number),
        }


# Checks of the rows


def _two_columns(dataset: Rows, where: str, data: Seq2SeqArguments) -> Rows:
    """Return the columns `source` and `target` alone, after checking that they hold text."""
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
            raise InputError(
                f"{where}, row {row}: {column!r} holds {held}; name a column of texts with {side}_column"
            )
    if paths["source"] == paths["target"]:
        column = paths["source"]
        raise InputError(f"{where}: source and target are the same column, {column!r}; change one of them")
    dataset = dataset.select_columns(list(paths.values()))
    return dataset.rename_columns({path: side for side, path in paths.items() if path != side})


def _column(side: str, columns: Iterable[str], where: str, data: Seq2SeqArguments) -> str:
    if {"source", "target"} == set(columns) and not (data.source_column or data.target_column):
        return side  # parallel text, or rows with these names
    name = getattr(data, f"{side}_column") or getattr(data, f"{side}_lang")
    if f"translation.{name}" in columns and name not in columns:
        return f"translation.{name}"
    key = f"{side}_column" if getattr(data, f"{side}_column") else f"{side}_lang"
    require_column(columns, name, key, where)
    return name


def _pick(row: dict, paths: dict[str, str], where: str) -> dict[str, str]:
    picked: dict[str, str] = {}
    for side, path in paths.items():
        value: Any = row
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
    model: PreTrainedModel, data: Seq2SeqArguments, decoding: DecodingArguments, trained: bool = False
) -> GenerationConfig:
    """Return the paper's decoding settings for a model, changed by `decoding`.

    A translation is limited relative to its source, a summary by `max_target_length`. Models of other
    packages have only transformers' own settings, so `max_target_length` limits both.

    Args:
        trained: start from the settings that were saved with the model.
    """
    own = isinstance(model.config, VanillaTransformerConfig)
    given: dict[str, Any] = {
        "num_beams": decoding.num_beams,
        "length_penalty": decoding.alpha,
        "max_extra_tokens": decoding.max_extra_tokens if own and data.task == "translation" else None,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
    }
    settings = copy.deepcopy(model.generation_config)
    if not trained:
        if own:
            settings = paper_generation_config(model.config)
            settings.bad_words_ids = model.generation_config.bad_words_ids  # of an imported model
        if not own or data.task == "summarization":
            own_limit = {"max_extra_tokens": None} if own else {"max_new_tokens": None}
            settings.update(**own_limit, max_length=data.max_target_length + 1)
        settings.update(num_beams=4, length_penalty=0.6, no_repeat_ngram_size=0)
    settings.update(**{name: value for name, value in given.items() if value is not None})
    if settings.num_beams == 1:
        settings.update(length_penalty=1.0)  # transformers saves no penalty that it does not use
    try:
        check_generation_settings(vars(settings), getattr(model.config, "max_position_embeddings", None))
    except ValueError as error:
        raise InputError(str(error).replace("length_penalty", "alpha")) from error
    return settings


def scored_settings(decoding: GenerationConfig, data: Seq2SeqArguments) -> dict[str, Any]:
    """Return the settings on which the scores depend."""
    names = ("num_beams", "length_penalty", "max_extra_tokens", "max_length", "no_repeat_ngram_size")
    settings = {name: getattr(decoding, name, None) for name in names}
    return settings | {"lowercase": data.lowercase, "bleu_tokenize": data.bleu_tokenize}


def score_as_trained(data: Seq2SeqArguments, model: PreTrainedModel, longest: int) -> None:
    """Cut the sources as the training of the model did, in `data`; see `truncate_source`.

    Args:
        longest: the longest text of the tokenizer, in tokens.
    """
    by_task = (getattr(model.config, "task_specific_params", None) or {}).get(data.task, {})
    if by_task.get("truncation"):
        data.truncate_source, data.max_source_length = True, min(data.max_source_length, longest)
