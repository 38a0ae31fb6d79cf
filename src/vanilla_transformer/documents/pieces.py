"""What a text with markup is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple


class Piece(NamedTuple):
    """A part of a document.

    Args:
        kind: "text" is translated. "open" and "close" are the ends of an element, such as bold text. A
            "point" is markup without text, such as an image. What is "opaque", such as a placeholder, may be
            copied by the model, but not changed. A "break" ends a line within a sentence.
        raw: the part as the document has it.
        text: what the model sees.
        name: of an element: a "close" ends the last "open" of the same name.
    """

    kind: Literal["text", "open", "close", "point", "opaque", "break"]
    raw: str
    text: str = ""
    name: str = ""


def plain(text: str) -> Piece:
    return Piece("text", text, text)


def opaque(raw: str, text: str | None = None) -> Piece:
    """A part that the model may copy. It sees single spaces, as in all text: code may have line breaks."""
    return Piece("opaque", raw, " ".join((raw if text is None else text).split()))


@dataclass
class Segment:
    """A paragraph, a heading, a cell: pieces that are read as one text.

    Args:
        escape: writes text that the model returned into the document.
        line: where it begins, from 1.
    """

    pieces: list[Piece]
    escape: Callable[[str], str] = str
    line: int = 1


Parts = list[str | Segment]  # of a document, in order; a string stays as it is
