"""Load rows from the Hub, from local Parquet, CSV, TSV and JSON files, or from the shipped corpora.

Wrong keys and broken files raise an `InputError` that names the key, or the file and the line.
"""

import glob
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq
from datasets import Dataset, Features, IterableDataset, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowException

from ..corpora import CORPORA, SHIPPED, corpus_files
from .delimited import Delimited, delimited_rows, describe
from .json_rows import json_features, json_rows, stream_columns
from .lines import changed
from .settings import InputError, nearest

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}

Rows: TypeAlias = Dataset | IterableDataset
ReadText: TypeAlias = Callable[[str, list[str], bool], Rows]


@dataclass
class SourceArguments:
    """The data to load. Each task adds the keys that describe its rows."""

    _argument_group_name = "data"

    dataset: str | None = field(
        default=None,
        metadata={"help": f"Hub name, folder, or shipped corpus ({', '.join(SHIPPED)})"},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "configuration of the data set, such as de-en"}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of the data set on the Hub"}
    )
    train_split: str | None = field(
        default=None, metadata={"help": "split to train on; `train` if not given"}
    )
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": "split to evaluate on during training; `validation`, if there is one, if not given"
        },
    )
    test_split: str | None = field(
        default=None,
        metadata={"help": "split to score after training; `test`, if there is one, if not given"},
    )
    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "local files instead of `dataset`: Parquet, CSV, TSV or JSON lines; wildcards work"
        },
    )
    validation_file: list[str] | None = field(
        default=None, metadata={"help": "files to evaluate on during training, in the formats of train_file"}
    )
    test_file: list[str] | None = field(
        default=None, metadata={"help": "files to score after training, in the formats of train_file"}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "number of training rows to use, from the first on; all if not given"}
    )
    max_validation_samples: int | None = field(
        default=None, metadata={"help": "as max_train_samples, for validation"}
    )
    max_test_samples: int | None = field(
        default=None, metadata={"help": "as max_train_samples, for the test"}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "read the training rows during training, for data that do not fit on the disk"},
    )

    training = True  # False: only the held-out splits are read, to score a model

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits to read."""
        return SPLITS if self.training else SPLITS[1:]

    def __post_init__(self) -> None:
        files = {name: getattr(self, f"{name}_file") for name in SPLITS}
        if self.dataset and any(files.values()):
            named = ", ".join(f"{name}_file" for name, paths in files.items() if paths)
            raise InputError(f"dataset and {named} exclude each other; remove one")
        if not self.dataset and not any(files.values()):
            raise InputError(
                "there are no data; give dataset (a Hub name or a shipped corpus), or train_file to train, "
                "or test_file to score. Each quickstart.yaml in recipes/ shows how"
            )
        for key in (f"max_{name}_samples" for name in SPLITS):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise InputError(f"{key}={getattr(self, key)} must be at least 1")
        if not self.dataset or self.dataset in SHIPPED:
            split_keys = [] if self.dataset else [f"{name}_split" for name in SPLITS]
            for key in ("dataset_config", "dataset_revision", *split_keys):
                if value := getattr(self, key):
                    where = f"dataset {self.dataset!r}" if self.dataset else "local files"
                    raise InputError(f"{key}={value!r} does not apply to {where}; remove it")

    def described(self) -> str:
        """Return a name of the training data."""
        if self.dataset:
            return " ".join(filter(None, [self.dataset, self.dataset_config]))
        return ", ".join(Path(path).name for path in self.train_file or ())


def load_rows(data: SourceArguments, read_text: ReadText | None = None) -> dict[str, tuple[Rows, str]]:
    """Load the train split, and the validation and test splits that exist.

    Args:
        read_text: reads files whose suffix is not in READERS. It takes the split's name, the paths, and
            whether to stream. Without it, such files are an error.

    Returns:
        split -> (its first `max_*_samples` rows, a name of their source for messages). With
        `data.streaming` the training rows are a stream; the other splits never are.

    Raises:
        InputError: a file is missing or cannot be read, or a split does not exist.
    """
    check_splits(data)
    loaded = (
        _from_hub(data)
        if data.dataset and data.dataset not in SHIPPED
        else _from_files(data, read_text or _refuse_text)
    )
    limits = {name: getattr(data, f"max_{name}_samples") for name in loaded}
    return {name: (first_rows(rows, limits[name]), where) for name, (rows, where) in loaded.items()}


def check_splits(data: SourceArguments) -> None:
    """Raise InputError if the files hold nothing to train on, or nothing to score."""
    if data.dataset:
        return
    if data.training and not data.train_file:
        raise InputError("there are no training data; give train_file, or do_train=false to score a model")
    if not any(getattr(data, f"{name}_file") for name in data.splits):
        raise InputError("there are no data to score; give test_file or validation_file")


def first_rows(rows: Rows, limit: int | None) -> Rows:
    """Return the first `limit` rows: all of them if there are fewer, or if it is None."""
    if limit is None:
        return rows
    return rows.take(min(limit, len(rows)) if isinstance(rows, Dataset) else limit)


def shuffle_files(rows: Rows, seed: int) -> Rows:
    """Shuffle the order of the files of a stream, and mix their rows, anew in every epoch.

    Rows of one file keep their order: token batches are shuffled in blocks. So the stream can resume at a
    position.
    """
    if isinstance(rows, IterableDataset) and rows.num_shards > 1:
        return rows.shuffle(seed=seed, buffer_size=1)
    return rows


def _refuse_text(name: str, paths: list[str], streaming: bool) -> Rows:
    raise InputError(
        f"{name}_file: {', '.join(paths)}: unknown format; give files that end with {', '.join(READERS)}"
    )


def _from_hub(data: SourceArguments) -> dict[str, tuple[Rows, str]]:
    try:
        whole = load_dataset(
            data.dataset, data.dataset_config, revision=data.dataset_revision, streaming=data.streaming
        )
    except (DatasetGenerationError, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"dataset: {data.dataset!r} cannot be loaded: {error.__cause__ or error}\nCheck the name and the "
            f"network, or give train_file, or a shipped corpus: {', '.join(SHIPPED)}"
        ) from error
    found = {
        name: (whole[split], f"{data.dataset} ({split})") for name, split in _chosen(data, whole).items()
    }
    for name in found.keys() - {"train"} if data.streaming else ():
        rows, where = found[name]
        found[name] = (Dataset.from_list(list(rows), features=rows.features), where)
    return found


def _chosen(data: SourceArguments, available: Iterable[str]) -> dict[str, str]:
    """Return train, validation and test -> the name of that split; a split with a given name must exist."""
    chosen = {}
    for name in data.splits:
        split = getattr(data, f"{name}_split") or name
        if split in available:
            chosen[name] = split
        elif name == "train" or getattr(data, f"{name}_split"):
            raise InputError(
                f"{name}_split: dataset {data.dataset!r} has no split {split!r}{nearest(split, available)} "
                f"(it has {', '.join(available)})"
            )
    return chosen


def _from_files(data: SourceArguments, read_text: ReadText) -> dict[str, tuple[Rows, str]]:
    files: dict[str, list[str] | None]
    if data.dataset:
        shipped = corpus_files(data.dataset)
        files = {name: [shipped[split]] for name, split in _chosen(data, shipped).items()}
    else:
        files = {name: getattr(data, f"{name}_file") for name in data.splits}
    return {
        name: (
            _read_files(name, paths, data.streaming and name == "train", read_text),
            ", ".join(map(_displayed, paths)),
        )
        for name, paths in files.items()
        if paths
    }


def _displayed(path: str) -> str:
    return f"{Path(path).parent.name} ({Path(path).stem})" if path.startswith(str(CORPORA)) else path


def _read_files(name: str, patterns: list[str], streaming: bool, read_text: ReadText) -> Rows:
    paths = [path for pattern in patterns for path in matching_files(name, pattern)]
    readers = {reader_of(path) for path in paths}
    if readers == {None}:
        return read_text(name, paths, streaming)
    if len(readers) > 1:
        raise InputError(f"{name}_file: {', '.join(paths)} have different formats; give files of one format")
    reader = readers.pop()
    if reader in ("csv", "json"):
        return _read_rows(paths, reader, streaming)
    for path in paths if reader == "parquet" else ():
        try:
            pq.read_schema(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    try:
        return load_dataset(
            reader, data_files=list(map(glob.escape, paths)), split="train", streaming=streaming
        )
    except Exception as error:  # Arrow's and pandas' errors have many classes
        cause = error.__cause__ or error
        raise InputError(f"{name}_file: {', '.join(paths)} cannot be read: {cause}") from error


def _read_rows(paths: list[str], reader: str | None, streaming: bool) -> Rows:
    """Read CSV, TSV or JSON with this package's readers: `datasets`' change cells, and skip or join rows."""
    features, tables = None, {}
    if reader == "csv":
        tables = {path: describe(path) for path in paths}
        columns = tuple(dict.fromkeys(column for table in tables.values() for column in table.columns))
        features = Features(dict.fromkeys(columns, Value("string")))
    elif streaming:
        columns = stream_columns(paths)
        if not columns:
            raise InputError(f"{', '.join(paths)}: there are no rows")
    else:
        features = json_features(paths)
        columns = tuple(features)
    if strange := next((column for column in columns if "\0" in column), None):
        raise InputError(
            f"{', '.join(paths)}: the name of the column {strange!r} holds a NUL; is it a text file in UTF-8?"
        )
    return generated(_rows, paths, streaming, features, tables=tables, columns=columns)


def _rows(
    paths: list[str], tables: dict[str, Delimited], columns: tuple[str, ...], changed: object
) -> Iterator[dict[str, Any]]:
    for path in paths:
        for row in delimited_rows(tables[path]) if path in tables else json_rows(path):
            yield {column: row.get(column) for column in columns}


def generated(
    generate: Callable[..., Iterator[dict]],
    paths: Sequence[str],
    streaming: bool,
    features: Features | None = None,
    **more: object,
) -> Rows:
    """Return the rows that `generate(paths, changed, **more)` yields, as a stream or as a whole.

    Args:
        generate: raises InputError for what it cannot read. `changed` differs after a file has changed, so
            that `datasets` does not take the rows of before.
    """
    arguments = {"paths": paths, "changed": changed(paths), **more}
    if streaming:
        return IterableDataset.from_generator(generate, features=features, gen_kwargs=arguments)
    try:
        return Dataset.from_generator(generate, features=features, gen_kwargs=arguments)
    except (DatasetGenerationError, ArrowException, TypeError, ValueError) as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise InputError(f"{', '.join(paths)} cannot be read: {error.__cause__ or error}") from error


def matching_files(name: str, pattern: str) -> list[str]:
    """Return the files that a path or a pattern with wildcards names. An existing file wins over wildcards.

    Raises:
        InputError: there is none.
    """
    found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
    found = [path for path in found if Path(path).is_file()]
    if found:
        return found
    folder = Path(pattern).parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    listing = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    near = nearest(Path(pattern).name, names)
    raise InputError(f"{name}_file: there is no file {pattern}{near} ({folder} holds {listing or 'nothing'})")


def reader_of(path: str) -> str | None:
    """Return the name of the `datasets` reader for a file, or None if it is plain text."""
    suffixes = [suffix for suffix in Path(path.lower()).suffixes[-2:] if suffix != ".gz"]
    return READERS.get(suffixes[-1]) if suffixes else None


def require_column(columns: Iterable[str], column: str, key: str, where: str) -> None:
    """Raise an InputError that names the key and the nearest column if `column` is not in `columns`.

    Args:
        key: the setting that names the column.
        where: the source of the rows.
    """
    if column not in columns:
        held = ", ".join(sorted(columns))
        raise InputError(f"{key}: {where} has no column {column!r}{nearest(column, columns)} (it has {held})")


class Skips:
    """Count the skipped rows of a stream, and log the count at the 1st, 10th, 100th and so on.

    A stream may never end, so a total would come too late.

    Args:
        message: the log line, with %d for the number of skipped rows.
    """

    def __init__(self, message: str):
        self.message = message
        self.count = 0
        self.logged = 0

    def add(self, number: int) -> None:
        self.count += number
        if number and self.count >= 10 * self.logged:
            self.logged = self.count
            logger.warning(self.message, self.count)


class SkipFrom:
    """A filter for a stream: skip the rows for which `unusable` is true, and count them with `Skips`."""

    def __init__(self, unusable: Callable[[dict], bool], message: str):
        self.unusable = unusable
        self.skips = Skips(message)

    def __call__(self, row: dict) -> bool:
        skipped = self.unusable(row)
        self.skips.add(skipped)
        return not skipped
