"""Read the lines of a text file, which may be gzipped. Every error is an `InputError` that names the file."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from .settings import InputError

LONGEST_LINE = 2**28  # bytes. text8, a corpus in one line, has 10^8; a small .gz can hold many more
CHUNK = 2**24
BAD_LINE_END = "ends some lines with \\r and others with \\n; convert the file, for example with dos2unix"


def text_lines(path: str) -> Iterator[bytes]:
    r"""Yield the lines of a file with their ends: \n or \r\n. Unicode's other line separators end no line.

    In a file without any \n, as old Macs wrote them, \r ends a line.

    Raises:
        InputError: the file cannot be read or unpacked, or a line has more than `LONGEST_LINE` bytes.
    """
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            yield from _lines(file, path)  # type: ignore[arg-type]  # gzip's files are binary files
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: damaged or not gzipped ({error}); download it again, or remove .gz from its name if it "
            "is not compressed"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _lines(file: BinaryIO, path: str) -> Iterator[bytes]:
    first = file.readline(LONGEST_LINE + 1)
    if b"\r" in first and not first.endswith(b"\n"):
        yield from _lines_of_old_macs(first, file, path)
        return
    others = iter(lambda: file.readline(LONGEST_LINE + 1), b"")
    for number, line in enumerate(chain([first] if first else [], others), start=1):
        _check_length(line, path, number)
        yield line


def _lines_of_old_macs(rest: bytes, file: BinaryIO, path: str) -> Iterator[bytes]:
    number = 1
    while True:
        *whole, rest = rest.split(b"\r")
        yield from (line + b"\r" for line in whole)
        number += len(whole)
        _check_length(rest, path, number)
        chunk = file.read(CHUNK)
        if b"\n" in chunk:
            raise InputError(f"{path}: {BAD_LINE_END}")
        if not chunk:
            break
        rest += chunk
    if rest:
        yield rest


def _check_length(line: bytes, path: str, number: int) -> None:
    if len(line) > LONGEST_LINE:
        raise InputError(
            f"{path}, line {number}: more than {LONGEST_LINE:,} bytes; split it into lines, such as one "
            "sentence or one document each"
        )


def decoded(line: bytes, path: str, number: int) -> str:
    """Return line `number` of a file as text, without its end and the file's byte order mark."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start}); convert the file"
        ) from error


def changed(paths: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return what differs after a file has changed, so that `datasets` does not take its old rows."""
    stats = [Path(path).stat() for path in paths]
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)  # a list would mean shards to `datasets`


def without_surrogates(value: Any) -> Any:
    """Return it with U+FFFD for each lone surrogate, which no tokenizer takes, also in lists and dicts."""
    if isinstance(value, str):
        # A pair of surrogates is one character.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(one) for key, one in value.items()}
    return list(map(without_surrogates, value)) if isinstance(value, list) else value
