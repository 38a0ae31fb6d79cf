"""Read JSON lines, or one JSON list of objects, row by row.

`datasets`' own reader turns dates into timestamps, and ends the process on some rows that are no objects.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
from datasets import Features, Json

from .lines import decoded, text_lines, without_surrogates
from .settings import InputError

logger = logging.getLogger(__name__)

LARGEST_LIST = 2**30  # bytes of a file that is one JSON value, which is read as a whole
PEEKED = 1000  # rows that decide the columns of a stream


def json_rows(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file: of one object a line, or of one list of objects. A text is `{"text": …}`.

    A row of null is skipped. Lone surrogates become U+FFFD. Both are counted and logged at the end.

    Raises:
        InputError: the file cannot be read, or a row is no object.
    """
    empty, replaced = [], []
    for number, row, odd in _values(path):
        if row is None:
            empty.append(number)
            continue
        if odd and _has_nul_in_a_key(row):
            raise InputError(
                f"{path}, row {number}: the name of a column or key holds NUL (\\u0000): rename it"
            )
        if odd and (clean := without_surrogates(row)) != row:
            row = clean
            replaced.append(number)
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise InputError(
                f'{path}, row {number}: {_shown(row)} is no object; expected {{"column": ..., "other": ...}}'
            )
        yield row
    if empty:
        logger.warning("%s: skipped %d rows of null (the first is row %d)", path, len(empty), empty[0])
    if replaced:
        text = "%s: replaced lone surrogates by U+FFFD in %d rows (the first is row %d)"
        logger.warning(text, path, len(replaced), replaced[0])


def stream_columns(paths: list[str]) -> tuple[str, ...]:
    """Return the columns of the first rows of each file."""
    return tuple(
        dict.fromkeys(key for path in paths for row in islice(json_rows(path), PEEKED) for key in row)
    )


def json_features(paths: list[str]) -> Features:
    """Read all rows, and return the type of each column; `Json` for a column of several types.

    Raises:
        InputError: as `json_rows`, or there are no rows.
    """
    types: dict[str, pa.DataType | None] = {}
    for path in paths:
        rows = json_rows(path)
        while batch := list(islice(rows, PEEKED)):
            columns: dict[str, list] = defaultdict(list)
            for row in batch:
                for key, value in row.items():
                    columns[key].append(value)
            for key, values in columns.items():
                types[key] = _common(types.get(key, pa.null()), _type(values))
    if not types:
        raise InputError(f"{', '.join(paths)}: there are no rows")
    known = pa.schema([(key, pa.null() if kind is None else kind) for key, kind in types.items()])
    features = Features.from_arrow_schema(known)
    return Features({key: Json() if types[key] is None else feature for key, feature in features.items()})


def _type(values: list) -> pa.DataType | None:
    """Return the type of these values, None if they have several."""
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return None


def _common(first: pa.DataType | None, second: pa.DataType | None) -> pa.DataType | None:
    if first is None or second is None or first == second:
        return None if first is None or second is None else first
    schemas = [pa.schema([("value", kind)]) for kind in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("value").type
    except pa.ArrowException:
        return None


def _values(path: str) -> Iterator[tuple[int, Any, bool]]:
    """Yield the number of each row, its value, and whether it may hold lone surrogates or NUL."""
    lines = ((number, line) for number, line in enumerate(text_lines(path), start=1) if line.strip())
    first = next(lines, None)
    if first is None:
        return
    number, line = first
    try:
        value = json.loads(decoded(line, path, number))
    except (ValueError, RecursionError):
        value = []  # one value over several lines, or an error, which _whole names
    if isinstance(value, list):
        rest = [(number, line), *_up_to(LARGEST_LIST, lines, path)]
        yield from _whole(rest, path)
        return
    yield number, value, _is_odd(line)
    for number, line in lines:
        yield (
            number,
            _loaded(decoded(line, path, number), f"{path}, line {number}"),
            _is_odd(line),
        )


def _whole(lines: list[tuple[int, bytes]], path: str) -> Iterator[tuple[int, Any, bool]]:
    """Yield the rows of a file that is one value."""
    text = "\n".join(decoded(line, path, number) for number, line in lines)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {lines[min(error.lineno, len(lines)) - 1][0]}"
        raise InputError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    rows = value if isinstance(value, list) else [value]
    odd = _is_odd(text.encode())
    yield from ((number, row, odd) for number, row in enumerate(rows, start=1))


def _up_to(limit: int, lines: Iterable[tuple[int, bytes]], path: str) -> Iterator[tuple[int, bytes]]:
    size = 0
    for number, line in lines:
        size += len(line)
        if size > limit:
            raise InputError(
                f"{path}: one JSON value of more than {limit:,} bytes; write one object a line (JSON lines)"
            )
        yield number, line


def _loaded(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from error


def _is_odd(line: bytes) -> bool:
    """Return whether a line may hold lone surrogates or NUL."""
    return b"\\ud" in line or b"\\uD" in line or b"\\u0000" in line or b"\0" in line


def _has_nul_in_a_key(value: Any) -> bool:
    """Return whether the value has a key that Arrow would cut off."""
    if isinstance(value, dict):
        return any("\0" in key or _has_nul_in_a_key(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(_has_nul_in_a_key, value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
