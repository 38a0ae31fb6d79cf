"""Read CSV and TSV. Every cell is text: 07 is not 7, and NA is not missing.

Files exist with CSV's quotation marks, and with quotation marks that are part of the text. `describe` reads
the file once and finds out which it is.
"""

import csv
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .lines import LONGEST_LINE, decoded, text_lines
from .settings import InputError

logger = logging.getLogger(__name__)

QUOTE = '"'


@dataclass(frozen=True)
class Delimited:
    """How to read a file of delimited text."""

    path: str
    separator: str
    quoted: bool  # whether quotation marks enclose cells, as in CSV; otherwise they are text
    columns: tuple[str, ...]
    width: int  # the most cells in a row; cells beyond the columns are ignored
    why: str = ""  # why quotation marks are text, for errors


@dataclass
class _Reading:
    """What one way of reading makes of a file."""

    header: list[str]
    rows: int = 0
    first: int = 0  # cells of the first row
    first_ragged: int = 0  # line
    ragged: int = 0
    several_lines: int = 0
    first_of_several: int = 0  # line


def describe(path: str) -> Delimited:
    """Return how to read the file, and log what happens to quotation marks and to rows that are too short.

    Raises:
        InputError: it cannot be read, or has no rows.
    """
    separator = "\t" if path.lower().removesuffix(".gz").endswith(".tsv") else ","
    reading, hints = _plain(path, separator)
    quoted, why = False, ""
    if hints["opened"]:
        try:
            csv_reading = _read(_quoted_records(_text(path), separator))
        except csv.Error as error:
            if reading.ragged or (separator == "," and hints["enclosed"] > hints["stray"]):
                raise InputError(
                    f"{path}: {error}. Most cells are quoted as in CSV: close this one behind its last mark, "
                    'and double the marks within it ("")'
                ) from error
            why = f" (quotation marks are text here, because read as CSV's they fail: {error})"
        else:
            quoted = _is_quoted(reading, csv_reading, hints, separator)
            reading = csv_reading if quoted else reading
        _log_quotes(path, quoted, reading, hints["opened"])
    if not reading.rows:
        raise InputError(f"{path}: there are no rows below the line of the columns' names")
    width = max(len(reading.header), reading.first)
    if reading.ragged:
        text = "%s: %d of %d rows have not as many cells as the header (the first is line %d); missing cells "
        text += "are empty, and cells without a column are ignored"
        logger.warning(text, path, reading.ragged, reading.rows, reading.first_ragged)
    return Delimited(path, separator, quoted, tuple(_names(reading.header)), width, why)


def delimited_rows(table: Delimited) -> Iterator[dict[str, str | None]]:
    """Yield the rows of a file. Blank lines are skipped, and a missing cell is None.

    Raises:
        InputError: a row has more cells than the header and the first row.
    """
    records = _records(table)
    next(records, None)
    for number, cells in records:
        if len(cells) > table.width:
            raise InputError(
                f"{table.path}, line {number}: {len(cells)} cells, but the header has {len(table.columns)}"
                f"{table.why}; quote a cell that holds {table.separator!r}, or remove what is too much"
            )
        missing = [None] * (len(table.columns) - len(cells))
        yield dict(zip(table.columns, [*cells, *missing]))


def _records(table: Delimited) -> Iterator[tuple[int, list[str]]]:
    if not table.quoted:
        for number, line in _text(table.path):
            if line:
                yield number, line.split(table.separator)
        return
    try:
        for number, cells, _ in _quoted_records(_text(table.path), table.separator):
            yield number, cells
    except csv.Error as error:
        raise InputError(f"{table.path}: {error}") from error


def _text(path: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text_lines(path), start=1):
        yield number, decoded(line, path, number)


def _quoted_records(lines: Iterator[tuple[int, str]], separator: str) -> Iterator[tuple[int, list[str], int]]:
    """Yield the number of the first line, the cells, and the number of lines of each row.

    Raises:
        csv.Error: a quotation mark is not closed, or there is text behind it.
    """
    csv.field_size_limit(LONGEST_LINE)
    for number, line in lines:
        if QUOTE not in line:
            if line:
                yield number, line.split(separator), 1
            continue
        used = [line]

        def remaining(start: str = line, used: list[str] = used) -> Iterator[str]:
            yield start + "\n"
            for _, more in lines:
                used.append(more)
                yield more + "\n"

        try:
            cells = next(csv.reader(remaining(), delimiter=separator, strict=True))
        except csv.Error as error:
            raise csv.Error(f"line {number}: {error}") from error
        yield number, cells, len(used)


def _read(records: Iterator[tuple[int, list[str], int]]) -> _Reading:
    _, header, _ = next(records, (1, [], 1))
    reading = _Reading(header)
    for number, cells, lines in records:
        _count(reading, number, len(cells), lines)
    return reading


def _count(reading: _Reading, number: int, cells: int, lines: int) -> None:
    reading.rows += 1
    reading.first = reading.first or cells
    if cells != len(reading.header):
        reading.ragged += 1
        reading.first_ragged = reading.first_ragged or number
    if lines > 1:
        reading.several_lines += 1
        reading.first_of_several = reading.first_of_several or number


def _plain(path: str, separator: str) -> tuple[_Reading, Counter[str]]:
    """Read quotation marks as text, and count what hints at their meaning.

    Returns:
        the reading, and the numbers of `opened`, `bare`, `stray`, `enclosed` and `doubled`: cells that begin
        with a mark, that have none, that have one elsewhere only, that are enclosed in marks, and that double
        those within. `header` is 1 if all names of columns are enclosed.
    """
    lines = ((number, line) for number, line in _text(path) if line)
    _, first = next(lines, (1, ""))
    reading, hints = _Reading(first.split(separator)), Counter[str]()
    _hint(first, reading.header, separator, hints)
    hints["header"] = int(hints["enclosed"] == len(reading.header))
    for number, line in lines:
        width = line.count(separator) + 1
        _count(reading, number, width, 1)
        _hint(line, reading.header, separator, hints)
    return reading, hints


def _hint(line: str, header: list[str], separator: str, hints: Counter[str]) -> None:
    if QUOTE not in line:
        hints["bare"] += 1
        return
    cells = line.split(separator)
    hints["opened"] += sum(cell.startswith(QUOTE) for cell in cells)
    if len(cells) != len(header):  # a quoted cell may hold the separator
        return
    hints["bare"] += sum(bool(cell) and QUOTE not in cell for cell in cells)
    hints["stray"] += sum(QUOTE in cell and not cell.startswith(QUOTE) for cell in cells)
    hints["enclosed"] += sum(len(cell) > 1 and cell[0] == cell[-1] == QUOTE for cell in cells)
    hints["doubled"] += sum(cell.startswith(QUOTE) and '""' in cell[1:-1] for cell in cells)


def _is_quoted(plain: _Reading, quoted: _Reading, hints: Counter[str], separator: str) -> bool:
    """Return whether quotation marks are CSV's, in a file that can be read in both ways."""
    if hints["header"]:
        return True
    if plain.ragged != quoted.ragged:
        return quoted.ragged < plain.ragged
    if separator == "," and hints["enclosed"]:
        return True
    if quoted.several_lines and len(plain.header) > 1:
        return False  # each line is a whole row: a stray mark would swallow rows
    if hints["stray"] or hints["doubled"]:
        return hints["doubled"] > hints["stray"]
    return separator == "," or not hints["bare"]


def _log_quotes(path: str, quoted: bool, reading: _Reading, opened: int) -> None:
    if not quoted:
        text = "%s: quotation marks are part of the text (%d cells begin with one); read %d rows, one a line"
        logger.info(text, path, opened, reading.rows)
        return
    several = ""
    if reading.several_lines:
        several = (
            f", {reading.several_lines} over several lines (the first from line {reading.first_of_several})"
        )
    logger.info("%s: quotation marks enclose cells; read %d rows%s", path, reading.rows, several)


def _names(header: list[str]) -> Iterator[str]:
    """Yield the names of the columns, with pandas' names for columns without one and for repeated ones."""
    seen = Counter[str]()
    for number, name in enumerate(header):
        name = name or f"Unnamed: {number}"
        yield f"{name}.{seen[name]}" if seen[name] else name
        seen[name] += 1
