"""Lines in and lines out, in windows. What is wrong with a line costs this line only."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from .verb import BAD_LINES, INTERRUPTED, USAGE, Stop, report

LONGEST = 1_000_000  # bytes of a line
CHUNK = 1 << 20
BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # characters at which some program ends a line


@dataclass
class Line:
    """A line of the input.

    Args:
        number: from 1.
        texts: the text, or one for each field of a JSON line.
        record: a JSON line.
        error: why the line is bad; a bad line has no texts.
    """

    number: int
    texts: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yields lines with their ends. Of a line of more than `LONGEST` bytes it yields the beginning."""
    while line := file.readline(LONGEST + 2):
        yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(CHUNK)


def parse(number: int, raw: bytes, fields: tuple[str, ...], format: str) -> Line:
    """The line with its texts, or with what is wrong. In text, tabs separate more than one field."""
    line = Line(number)
    try:
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if len(raw) > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} bytes")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"invalid UTF-8 at byte {error.start + 1}") from None
        if format == "jsonl":
            line.record = read_record(text)
            line.texts = tuple(read_field(line.record, name) for name in fields)
            line.record.pop("error", None)  # of an earlier run
        else:
            line.texts = tuple(text.split("\t")) if len(fields) > 1 else (text,)
            if len(line.texts) != len(fields):
                raise ValueError(f"expected {', tab, '.join(fields)}; found columns: {len(line.texts)}")
        if any("\0" in text for text in line.texts):
            raise ValueError("it contains a NUL byte")
    except ValueError as error:
        return Line(number, record=line.record, error=str(error))
    return line


def read_record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {text[:40]}")
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it contains half of a surrogate pair, which is no character") from None
    return record


def read_field(record: dict[str, Any], name: str) -> str:
    if not isinstance(text := record.get(name), str):
        known = ", ".join(record) or "none"
        raise ValueError(
            f"the field {name!r} is missing or no text; its fields are {known}: choose with --field"
        )
    return text


def as_one_line(text: str) -> str:
    """The text without characters that end a line or a column."""
    return BREAKS.sub(" ", text)


def write_record(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


def count_lines(file: BinaryIO) -> tuple[int, int]:
    """The number of complete lines, and where the last one ends, in bytes."""
    lines = position = end = 0
    while chunk := file.read(CHUNK):
        lines += chunk.count(b"\n")
        if b"\n" in chunk:
            end = position + chunk.rindex(b"\n") + 1
        position += len(chunk)
    return lines, end


def cut_to_complete_lines(path: Path) -> int:
    """Removes a last line without an end, which an interrupted program left, and counts the others."""
    with path.open("r+b") as file:
        lines, end = count_lines(file)
        file.truncate(end)
    return lines


@dataclass
class Streams:
    """Where lines come from and go to; standard input and output if None.

    Args:
        resume: continue `output` after its last complete line.
        overwrite: replace `output` if it exists.
        format: of both: "text" or "jsonl" for lines, or one of a document.
        fields: the texts that a line holds.
        window: lines that are read, worked on and written together.
        quiet: no progress bar.
    """

    input: Path | None
    output: Path | None
    resume: bool = False
    overwrite: bool = False
    format: str = "text"
    fields: tuple[str, ...] = ("text",)
    window: int = 2000
    quiet: bool = False

    def check(self) -> None:
        """Raises an error before a model is loaded, if the files cannot be as they should."""
        if self.input is not None:
            if not self.input.exists():
                raise FileNotFoundError(f"there is no file {self.input}")
            if self.input.is_dir():
                raise IsADirectoryError(f"{self.input} is a folder: name a file of lines")
        if self.output is None:
            if self.resume or self.overwrite:
                raise Stop("error: --resume and --overwrite need --output FILE", USAGE)
            return
        if self.resume and self.overwrite:
            raise Stop("error: --resume keeps what --overwrite removes: give one of them", USAGE)
        if self.output.exists():
            if self.input is not None and self.output.samefile(self.input):
                raise Stop(f"error: {self.output} is the input too: give another --output", USAGE)
            if self.output.is_file() and self.output.stat().st_size and not (self.resume or self.overwrite):
                resume = "continue it with --resume, or " if self.format in ("text", "jsonl") else ""
                raise Stop(f"error: {self.output} exists: {resume}replace it with --overwrite")
        elif not self.output.absolute().parent.is_dir():
            raise Stop(f"error: there is no folder {self.output.absolute().parent}")

    def process(self, work: Callable[[list[Line]], Iterator[bytes]]) -> None:
        """Reads windows of lines, and writes what `work` returns: one line for each.

        `work` sets `error` of lines that turn out bad.
        """
        written = done = bad = 0
        try:
            with self.open_input() as source, self.open_output() as (target, done):
                written = done
                raw = raw_lines(source)
                if (skipped := sum(1 for _ in islice(raw, done))) < done:
                    raise Stop(f"error: {self.output} has {done} lines, but the input only {skipped}")
                with self.progress(self._count(), "lines", done) as bar:
                    numbered = enumerate(raw, done + 1)
                    while window := list(islice(numbered, self._window(source))):
                        lines = [parse(number, line, self.fields, self.format) for number, line in window]
                        results = b"".join(work(lines))
                        for line in lines:
                            if line.error is not None:
                                bad += 1
                                report(f"line {line.number}: {line.error}")
                        target.write(results)
                        target.flush()
                        written += len(lines)
                        bar.update(len(lines))
        except KeyboardInterrupt:
            raise Stop(self._how_to_resume(written), INTERRUPTED) from None
        if bad:
            raise Stop(f"{bad} of {written - done} lines were bad: see above", BAD_LINES)

    def _window(self, source: BinaryIO) -> int:
        return 1 if source.isatty() else self.window

    @contextmanager
    def open_input(self) -> Iterator[BinaryIO]:
        if self.input is None:
            yield sys.stdin.buffer
        else:
            with self.input.open("rb") as file:
                yield file

    @contextmanager
    def open_output(self) -> Iterator[tuple[BinaryIO, int]]:
        """The stream to write to, and the number of lines that it has already."""
        if self.output is None:
            yield sys.stdout.buffer, 0
        elif self.resume and self.output.is_file():
            done = cut_to_complete_lines(self.output)
            with self.output.open("ab") as file:
                yield file, done
        else:
            with self.output.open("r+b" if self.output.is_file() else "wb") as file:
                new = Replacement(file)
                yield cast("BinaryIO", new), 0
                new.write(b"")

    def _count(self) -> int | None:
        """The number of lines of an input file."""
        if self.input is None or not self.input.is_file():
            return None
        with self.input.open("rb") as file:
            return count_lines(file)[0]

    def progress(self, total: int | None, unit: str, done: int = 0) -> Any:
        """A progress bar on the error stream."""
        from tqdm import tqdm

        disable = True if self.quiet else None  # None: where the error stream is no terminal
        return tqdm(total=total, initial=done, unit=f" {unit}", disable=disable, file=sys.stderr)

    def _how_to_resume(self, written: int) -> str:
        if not written:
            return "stopped before the first line was written"
        if self.output is None:
            return f"stopped after {written} lines; with --output FILE a stopped run can be resumed"
        import shlex

        words = [
            os.path.basename(sys.argv[0]).replace("vanilla_transformer_command.py", "vanilla-transformer")
        ]
        words += [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
        return f"stopped after {written} lines of {self.output}; continue: {shlex.join([*words, '--resume'])}"


class Replacement:
    """A file that keeps its old content until the first write: an error before it loses nothing."""

    def __init__(self, file: BinaryIO):
        self.file, self.has_begun = file, False

    def write(self, data: bytes) -> int:
        if not self.has_begun and self.file.seekable():
            self.file.truncate(0)
        self.has_begun = True
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def good_lines(path: Path, bad: list[str]) -> Iterator[str]:
    """Yields the lines of a text file, and reports those that are bad; `-` is standard input."""
    file = sys.stdin.buffer if str(path) == "-" else path.open("rb")
    with file:
        for number, raw in enumerate(raw_lines(file), 1):
            line = parse(number, raw, ("text",), "text")
            if line.error is None:
                yield line.texts[0]
            else:
                bad.append(f"{path}, line {number}: {line.error}")
                report(bad[-1])
