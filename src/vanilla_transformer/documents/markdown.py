"""Markdown: pulldown-cmark, the parser of rustdoc and mdBook, finds the text and its marks."""

import re
from itertools import groupby
from typing import Any

from ..extras import extra
from .inline import PLACEHOLDERS, read_inline, tag
from .pieces import Parts, Piece, Segment, opaque

INLINE = {"Emphasis", "Image", "Link", "Strikethrough", "Strong"}
KEPT = {"CodeBlock", "HtmlBlock", "MetadataBlock"}
OPAQUE = {"Code", "DisplayMath", "InlineMath"}
LINK_TYPES = {"Autolink", "Email"}  # whose text is the address
SPECIAL = re.compile(r"(?<=\d)[.)]|[\\`*_\[\]<>#+~|$&=-]")


def parse(document: str) -> list[tuple[str, Any, int, int]]:
    """The events of a document: name, details, and where its source is in bytes."""
    with extra("documents"):
        import pyromark

    known = pyromark.Options
    options = (
        known.ENABLE_FOOTNOTES
        | known.ENABLE_GFM
        | known.ENABLE_MATH
        | known.ENABLE_STRIKETHROUGH
        | known.ENABLE_TABLES
        | known.ENABLE_TASKLISTS
        | known.ENABLE_YAML_STYLE_METADATA_BLOCKS
        | known.ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS
        | known.ENABLE_HEADING_ATTRIBUTES
    )
    try:
        found = pyromark.events_with_range(document, options=options)
    except BaseException as error:  # a panic in Rust is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(
            f"the Markdown parser fails on this document ({error}): translate its halves to find the place, "
            'or use the format "txt"'
        ) from None
    events = []
    for event, place in found:
        name, details = next(iter(event.items())) if isinstance(event, dict) else (event, None)
        events.append((name, details, place["start"], place["end"]))
    return events


def name_of(details: Any) -> str:
    """The name of an element: `Emphasis`, or `Link` of {"Link": {…}}."""
    return details if isinstance(details, str) else next(iter(details))


def read_markdown(document: str) -> Parts:
    """The parts of a document. Code, addresses, HTML blocks, metadata and the alt texts of images stay."""
    reader = Reader(document)
    for name, details, start, end in parse(document):
        reader.take(name, details, start, end)
    reader.segment = None
    reader.keep(len(reader.source))
    for part in reader.parts:
        if isinstance(part, Segment):
            part.pieces = with_placeholders(part.pieces)
    return reader.parts


def with_placeholders(pieces: list[Piece]) -> list[Piece]:
    """The pieces, where text that the parser cut at marks such as `_` is whole, without placeholders."""
    found: list[Piece] = []
    for is_plain, run in groupby(pieces, lambda piece: piece.kind == "text" and piece.raw == piece.text):
        if is_plain:
            found += read_inline("".join(piece.raw for piece in run), PLACEHOLDERS)
        else:
            found += run
    return found


class Reader:
    """Follows the events, and keeps what is between them."""

    def __init__(self, document: str):
        self.source = document.encode()
        self.parts: Parts = []
        self.position = 0  # in bytes, up to which the source is in `parts`
        self.line = 1
        self.segment: Segment | None = None
        self.in_table = False
        self.kept_until = -1  # the end of an element that stays as it is

    def take(self, name: str, details: Any, start: int, end: int) -> None:
        if start < self.kept_until:
            return
        element = name_of(details) if name in ("Start", "End") else ""
        if element == "Table":
            self.in_table = name == "Start"
        if element in KEPT:
            self.segment = None
            self.kept_until = end
        elif name == "Start" and element == "Image" or is_address(details, element, name):
            self.add("opaque" if element == "Link" else "point", start, end)
            self.kept_until = end
        elif element in INLINE:
            if name == "Start":
                self.add("open", start, start, element)
            else:
                self.add("close", self.position, end, element)
        elif name == "Text":
            self.add_text(details, start, end)
        elif name in ("SoftBreak", "HardBreak"):
            self.add("break", start, end)
        elif name in OPAQUE:
            self.add("opaque", start, end)
        elif name == "FootnoteReference":
            self.add("point", start, end)
        elif name == "InlineHtml":
            self.add("tag", start, end)
        else:  # a block begins or ends
            self.segment = None

    def add(self, kind: Any, start: int, end: int, name: str = "", text: str | None = None) -> None:
        """Adds a piece to the segment; marks before it become part of the piece before."""
        self.reach(start)
        if self.segment is None:
            self.segment = Segment([], escape_in_table if self.in_table else escape, self.line)
            self.parts.append(self.segment)
        raw = self.source[self.position : end].decode()
        self.position, self.line = end, self.line + raw.count("\n")
        pieces = self.segment.pieces
        if kind == "tag":
            pieces.append(tag(raw))
        elif kind == "opaque":
            pieces.append(opaque(raw))
        else:
            shown = " " * (kind == "break") if text is None else text
            pieces.append(Piece(kind, raw, shown, name))

    def add_text(self, text: str, start: int, end: int) -> None:
        if start > self.position and self.source[start - 1 : start] == b"\\":
            first = len(text[0].encode())
            self.add("text", start - 1, start + first, text=text[0])
            text, start = text[1:], start + first
        if text:
            self.add("text", start, end, text=text)

    def reach(self, start: int) -> None:
        """Takes the source before a piece: a mark such as `**` or `[`, or what begins a line."""
        if start <= self.position:
            return
        if self.segment is None:
            self.keep(start)
            return
        raw = self.source[self.position : start].decode()
        self.position, self.line = start, self.line + raw.count("\n")
        last = self.segment.pieces[-1]
        if last.kind in ("open", "break"):
            self.segment.pieces[-1] = last._replace(raw=last.raw + raw)
        else:
            self.segment.pieces.append(Piece("point", raw))

    def keep(self, end: int) -> None:
        if end > self.position:
            raw = self.source[self.position : end].decode()
            self.position, self.line = end, self.line + raw.count("\n")
            self.parts.append(raw)


def is_address(details: Any, element: str, name: str) -> bool:
    return name == "Start" and element == "Link" and details["Link"]["link_type"] in LINK_TYPES


def escape(text: str) -> str:
    """The text as Markdown; backslashes only if it were read as something else without them."""
    read = [(name, details) for name, details, _, _ in parse(text) if name not in ("Start", "End")]
    names = {name_of(details) for name, details, _, _ in parse(text) if name in ("Start", "End")}
    shown = "".join(details for name, details in read if name == "Text")
    is_text = names <= {"Paragraph"} and all(name == "Text" for name, _ in read) and shown == text.strip()
    return text if is_text else SPECIAL.sub(r"\\\g<0>", text)


def escape_in_table(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", escape(text))
