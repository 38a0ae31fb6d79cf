"""Plain text: lines, or lines that were wrapped at a width and belong to one paragraph."""

import re
from collections.abc import Iterator

from .inline import PLACEHOLDERS, read_inline
from .pieces import Parts, Piece, Segment

LINE = re.compile(r"[^\n]*\n|[^\n]+")
# Indentation, quotation marks of e-mail, bullets and numbers of lists.
PREFIX = re.compile(r"\s*(?:>\s?)*(?:(?:[-*+•–—]|\(?\w{1,3}[.)]) +)?")
NARROWEST = 50  # characters; shorter lines are no wrapped text but verses or lists


def read_text(document: str) -> Parts:
    """The parts of a plain text.

    A line goes on in the next one if the first word there had not fitted into the widest line of the
    paragraph. Every other line is a segment.
    """
    parts: Parts = []
    number = 1
    for paragraph in paragraphs(document):
        width = max(len(line.rstrip()) for line in paragraph)
        segment: Segment | None = None
        for index, line in enumerate(paragraph):
            prefix = PREFIX.match(line)
            start = prefix.end() if prefix else 0
            text = line[start:].rstrip()
            if segment is not None and is_continued(paragraph[index - 1], line, width):
                before = segment.pieces.pop()
                segment.pieces.append(Piece("break", before.raw + line[:start], " "))
            else:
                segment = Segment([], line=number)
                parts += [line[:start], segment]
            segment.pieces += [
                *read_inline(text, PLACEHOLDERS),
                Piece("break", line[start + len(text) :], " "),
            ]
            number += 1
    return parts


def is_continued(line: str, following: str, width: int) -> bool:
    words = following.split(maxsplit=1)
    if width < NARROWEST or not words or not line.strip():
        return False
    match, next_match = PREFIX.match(line), PREFIX.match(following)
    assert match and next_match  # they match at least nothing
    if next_match[0].strip().strip(">").strip() or next_match[0].count(">") != match[0].count(">"):
        return False
    return len(line.rstrip()) + 1 + len(words[0]) > width


def paragraphs(document: str) -> Iterator[list[str]]:
    """Yields lines up to and with the blank one."""
    lines: list[str] = []
    for line in LINE.findall(document):
        lines.append(line)
        if not line.strip():
            yield lines
            lines = []
    if lines:
        yield lines
