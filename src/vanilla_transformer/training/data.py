"""Pairs of sentences for sequence-to-sequence training: Hub, Parquet, CSV, JSON lines, parallel text.

`load_splits` gives every source of data the same two text columns, `source` and `target`, and leaves out
pairs with an empty side; `encode_splits` turns them into token ids. What is left out or cut is counted and
logged; what cannot be meant is an `InputError` that names the file, the line or the key.
"""

import glob
import gzip
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase

from ..corpora import CORPORA, SHIPPED, corpus_files
from .settings import InputError, nearest

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}


@dataclass
class DataArguments:
    """Where the pairs of sentences come from, and how they become tokens."""

    _argument_group_name = "data"

    dataset: str | None = field(
        default=None,
        metadata={"help": f"a name on the Hub, a folder, or a shipped corpus ({', '.join(SHIPPED)})"},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "the data set's configuration, for example de-en"}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "a branch, tag or commit of the data set on the Hub"}
    )
    train_split: str | None = field(default=None, metadata={"help": "name of the split to train on (train)"})
    validation_split: str | None = field(
        default=None, metadata={"help": "name of the split to evaluate on during training (validation)"}
    )
    test_split: str | None = field(
        default=None, metadata={"help": "name of the split to score at the end (test)"}
    )
    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "local files in place of `dataset`: Parquet, CSV, TSV or JSON lines (wildcards allowed), "
            "or two text files, source then target, with one sentence a line: train.en train.de"
        },
    )
    validation_file: list[str] | None = field(
        default=None, metadata={"help": "as train_file, for validation"}
    )
    test_file: list[str] | None = field(default=None, metadata={"help": "as train_file, for the test"})
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
    max_train_samples: int | None = field(default=None, metadata={"help": "use only the first pairs"})
    max_validation_samples: int | None = field(default=None, metadata={"help": "use only the first pairs"})
    max_test_samples: int | None = field(default=None, metadata={"help": "use only the first pairs"})
    streaming: bool = field(
        default=False, metadata={"help": "read the training split as it comes, for data that do not fit"}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "folder or Hub name of a tokenizer; one is trained on the data if not given"},
    )
    vocab_size: int = field(default=37000, metadata={"help": "size of the vocabulary that is trained"})
    max_tokenizer_samples: int | None = field(
        default=None, metadata={"help": "train the vocabulary on the first pairs only"}
    )
    lowercase: bool = field(
        default=False, metadata={"help": "train a vocabulary of lower-case text, and score in lower case"}
    )
    preprocessing_workers: int | None = field(
        default=None, metadata={"help": "processes that encode the text"}
    )

    def __post_init__(self):
        files = {name: getattr(self, f"{name}_file") for name in SPLITS}
        if self.dataset and any(files.values()):
            raise InputError(
                "dataset and train_file, validation_file or test_file exclude each other; give one"
            )
        if not self.dataset and not files["train"]:
            raise InputError("no data: set dataset (a Hub name or a shipped corpus) or train_file")
        of_hub = (
            "dataset_config",
            "dataset_revision",
            *(() if self.dataset else (f"{name}_split" for name in SPLITS)),
        )
        if not self.dataset or self.dataset in SHIPPED:
            for key in of_hub:
                if getattr(self, key):
                    raise InputError(
                        f"{key}={getattr(self, key)!r} has no part in {self.dataset or 'local files'}"
                    )
        for side in ("source", "target"):
            is_text = all(_reader(path) is None for name in SPLITS for path in files[name] or ())
            if not (getattr(self, f"{side}_column") or getattr(self, f"{side}_lang")) and (
                self.dataset or not is_text
            ):
                raise InputError(f"which column is the {side}? set {side}_lang (such as en) or {side}_column")
        for name in ("max_source_length", "max_target_length", "vocab_size"):
            if getattr(self, name) < 2:
                raise InputError(f"{name}={getattr(self, name)} must be at least 2")

    def described(self) -> str:
        """What the training data are called."""
        if self.dataset:
            return " ".join(filter(None, [self.dataset, self.dataset_config]))
        return ", ".join(Path(path).name for path in self.train_file)


def load_splits(data: DataArguments) -> dict[str, Dataset | IterableDataset]:
    """The splits that `data` names, those of train, validation and test that exist.

    Each has the text columns `source` and `target` and no pair with an empty side. Only the training split
    is streamed when `data.streaming`.

    Raises:
        InputError: a file is missing or cannot be read, parallel files differ in length, a column is missing
            or does not hold text, or a split does not exist.
    """
    loaded = _from_hub(data) if data.dataset and data.dataset not in SHIPPED else _from_files(data)
    splits = {}
    for name, (dataset, where) in loaded.items():
        limit = getattr(data, f"max_{name}_samples")
        if limit is not None:
            dataset = dataset.take(limit)
        dataset = _two_columns(dataset, where, data)
        splits[name] = _without_empty(dataset, where)
        if isinstance(dataset, Dataset) and not len(splits[name]):
            raise InputError(f"{where}: no pair of sentences is left")
    return splits


def encode_splits(
    splits: dict[str, Dataset | IterableDataset],
    tokenizer: PreTrainedTokenizerBase,
    data: DataArguments,
    longest: int,
) -> dict[str, Dataset | IterableDataset]:
    """Token ids of both sides as `input_ids` and `labels`, each with </s> at its end.

    Training pairs beyond `max_source_length` or `max_target_length` tokens are left out. The other splits
    keep every pair, for a score is of all of them, with its texts; only a source of more than `longest`
    tokens, the positions that the model has, is cut. They are ordered by length; `row` is the place before.
    """
    return {
        name: _encode_training(dataset, tokenizer, data)
        if name == "train"
        else _encode_held_out(name, dataset, tokenizer, longest)
        for name, dataset in splits.items()
    }


def _encode_training(dataset, tokenizer, data: DataArguments):
    limits = f"max_source_length={data.max_source_length} or max_target_length={data.max_target_length}"
    streaming = isinstance(dataset, IterableDataset)
    skips = _Skips(f"left out %d training pairs with more tokens than {limits} so far") if streaming else None

    def encode(rows: dict) -> dict:
        sources, targets = _ids(rows, tokenizer)
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
    return encoded


def _encode_held_out(name: str, dataset: Dataset, tokenizer, longest: int) -> Dataset:
    def encode(rows: dict, numbers: list[int]) -> dict:
        sources, targets = _ids(rows, tokenizer)
        lengths = [len(source) for source in sources]
        sources = [ids if len(ids) <= longest else ids[: longest - 1] + ids[-1:] for ids in sources]
        return {"input_ids": sources, "labels": targets, "row": numbers, "length": lengths}

    encoded = dataset.map(encode, batched=True, with_indices=True, desc=f"Encoding the {name} pairs")
    lengths = np.array(encoded["length"])
    if cut := int((lengths > longest).sum()):
        logger.warning("%s: cut %d of %d sources to %d tokens", name, cut, len(lengths), longest)
    # By length, for batches with little padding; the longest first, so that memory fails at once or never.
    return encoded.select(np.argsort(-lengths, kind="stable")).remove_columns("length")


def _ids(rows: dict, tokenizer) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of both sides; `verbose=False` because limits on length are the caller's business."""
    sources = tokenizer(rows["source"], verbose=False)["input_ids"]
    return sources, tokenizer(text_target=rows["target"], verbose=False)["input_ids"]


# Where the rows come from. Each reader gives {split: (rows, a name for messages)}.


def _from_hub(data: DataArguments) -> dict[str, tuple[Dataset | IterableDataset, str]]:
    try:
        whole = load_dataset(
            data.dataset, data.dataset_config, revision=data.dataset_revision, streaming=data.streaming
        )
    except (DatasetGenerationError, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"dataset {data.dataset!r} cannot be loaded: {error.__cause__ or error}\nCheck the name and the "
            "network, or give local files: train_file, validation_file, test_file; shipped with the package: "
            + ", ".join(SHIPPED)
        ) from error
    found = {
        name: (whole[split], f"{data.dataset} ({split})") for name, split in _chosen(data, whole).items()
    }
    for name in found.keys() - {"train"} if data.streaming else ():
        rows, where = found[name]
        found[name] = (Dataset.from_list(list(rows), features=rows.features), where)
    return found


def _chosen(data: DataArguments, available: Iterable[str]) -> dict[str, str]:
    """Which of the available splits are train, validation and test; those not asked for may be missing."""
    chosen = {}
    for name in SPLITS:
        split = getattr(data, f"{name}_split") or name
        if split in available:
            chosen[name] = split
        elif name == "train" or getattr(data, f"{name}_split"):
            raise InputError(
                f"{name}_split: dataset {data.dataset!r} has no split {split!r}{nearest(split, available)} "
                f"(it has {', '.join(available)})"
            )
    return chosen


def _from_files(data: DataArguments) -> dict[str, tuple[Dataset | IterableDataset, str]]:
    if data.dataset:
        shipped = corpus_files(data.dataset)
        files = {name: [shipped[split]] for name, split in _chosen(data, shipped).items()}
    else:
        files = {name: getattr(data, f"{name}_file") for name in SPLITS}
    return {
        name: (_read_files(name, paths, data.streaming and name == "train"), ", ".join(map(_shown, paths)))
        for name, paths in files.items()
        if paths
    }


def _shown(path: str) -> str:
    return f"{Path(path).parent.name} ({Path(path).stem})" if path.startswith(str(CORPORA)) else path


def _read_files(name: str, patterns: list[str], streaming: bool) -> Dataset | IterableDataset:
    paths = [path for pattern in patterns for path in _matching(name, pattern)]
    readers = {_reader(path) for path in paths}
    if readers == {None}:
        return _read_parallel(name, paths, streaming)
    if len(readers) > 1:
        raise InputError(f"{name}_file: {', '.join(paths)} are of different kinds; give files of one kind")
    reader = readers.pop()
    options = {}
    if reader == "csv":
        options = {
            "keep_default_na": False,
            "index_col": False,
            "sep": "\t" if ".tsv" in Path(paths[0]).suffixes else ",",
        }
    for path in paths:
        if reader == "parquet":
            try:
                pq.read_schema(path)
            except (OSError, ValueError) as error:
                raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    try:
        return load_dataset(reader, data_files=paths, split="train", streaming=streaming, **options)
    except Exception as error:  # every reader has its own
        if reader == "json":
            _explain_json(paths)
        cause = error.__cause__ or error
        raise InputError(f"{name}_file: {', '.join(paths)} cannot be read: {cause}") from error


def _matching(name: str, pattern: str) -> list[str]:
    if glob.has_magic(pattern):
        found = sorted(glob.glob(pattern))
    else:
        found = [pattern] if Path(pattern).is_file() else []
    if found:
        return found
    folder = Path(pattern).parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    listing = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    near = nearest(Path(pattern).name, names)
    raise InputError(f"{name}_file: there is no file {pattern}{near} ({folder} holds {listing or 'nothing'})")


def _reader(path: str) -> str | None:
    """Name of the `datasets` reader for a file name; None for plain text."""
    suffixes = [suffix for suffix in Path(path).suffixes[-2:] if suffix != ".gz"]
    return READERS.get(suffixes[-1]) if suffixes else None


def _read_parallel(name: str, paths: list[str], streaming: bool) -> Dataset | IterableDataset:
    if len(paths) != 2:
        raise InputError(
            f"{name}_file: {', '.join(paths)}: text comes as two files, the source and the target, such as "
            f"train.en train.de; other formats are told by their suffix ({', '.join(READERS)})"
        )
    counts = [sum(1 for _ in _lines(path)) for path in paths]
    if counts[0] != counts[1]:
        raise InputError(
            f"{name}_file: {paths[0]} has {counts[0]} lines but {paths[1]} has {counts[1]}; "
            "line n of one must be the translation of line n of the other"
        )
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
    for number, (source, target) in enumerate(zip(_lines(source_path), _lines(target_path)), start=1):
        yield {
            "source": _decoded(source, source_path, number),
            "target": _decoded(target, target_path, number),
        }


def _lines(path: str) -> Iterable[bytes]:
    """Lines end at a line feed alone: other separators of Unicode may stand within a sentence."""
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        yield from file


def _decoded(line: bytes, path: str, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start})"
        ) from error


def _explain_json(paths: list[str]):
    """Raises an InputError for the first line that is no JSON object, or whose value changes its type."""
    for path in paths:
        kinds: dict[str, type] = {}
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(
                    f'{path}, line {number}: expected an object such as {{"en": ..., "de": ...}}'
                )
            for key, value in row.items():
                if value is not None and kinds.setdefault(key, type(value)) is not type(value):
                    raise InputError(
                        f"{path}, line {number}: {key!r} is {type(value).__name__} ({value!r}), "
                        f"but {kinds[key].__name__} in the lines before"
                    )


# What the rows must be.


def _two_columns(
    dataset: Dataset | IterableDataset, where: str, data: DataArguments
) -> Dataset | IterableDataset:
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


def _column(side: str, columns: Iterable[str], where: str, data: DataArguments) -> str:
    if {"source", "target"} == set(columns) and not (data.source_column or data.target_column):
        return side  # parallel text, or rows that are called as we call them
    name = getattr(data, f"{side}_column") or getattr(data, f"{side}_lang")
    for candidate in (name, f"translation.{name}"):
        if candidate in columns:
            return candidate
    key = f"{side}_column" if getattr(data, f"{side}_column") else f"{side}_lang"
    raise InputError(
        f"{key}: {where} has no column {name!r}{nearest(name, columns)} (it has {', '.join(sorted(columns))})"
    )


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


def _without_empty(dataset: Dataset | IterableDataset, where: str) -> Dataset | IterableDataset:
    if isinstance(dataset, IterableDataset):
        return dataset.filter(_StreamFilter(where))
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


class _StreamFilter:
    """Leaves out pairs with an empty side."""

    def __init__(self, where: str):
        self.skips = _Skips(f"{where}: skipped %d pairs with an empty side so far")

    def __call__(self, row: dict[str, str]) -> bool:
        empty = not (row["source"].strip() and row["target"].strip())
        self.skips.add(empty)
        return not empty


class _Skips:
    """Counts what is left out of a stream, and says so at the first and at each tenfold: it has no end."""

    def __init__(self, message: str):
        self.message = message
        self.count = 0
        self.told = 0

    def add(self, number: int):
        self.count += number
        if number and self.count >= 10 * self.told:
            self.told = self.count
            logger.warning(self.message, self.count)


def text_columns(dataset: Dataset | IterableDataset, limit: int | None = None) -> list[Iterator[str]]:
    """The texts of both sides of the first `limit` pairs, for a tokenizer's training."""
    rows = dataset if limit is None else dataset.take(limit)

    def texts(side: str) -> Iterator[str]:
        for batch in rows.iter(batch_size=1000):
            yield from batch[side]

    return [texts("source"), texts("target")]
