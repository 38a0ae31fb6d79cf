"""HTML: the parser of the standard library finds the tags, and everything that is not text stays."""

import re
from html import unescape
from html.parser import HTMLParser

from .inline import PLACEHOLDERS, VOID, escape_html, read_inline, tag
from .pieces import Parts, Piece, Segment, opaque

# Elements that the HTML standard shows within a line. All others end a segment.
INLINE = frozenset(
    [
        "a",
        "abbr",
        "acronym",
        "b",
        "bdi",
        "bdo",
        "big",
        "br",
        "cite",
        "code",
        "data",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "img",
        "input",
        "ins",
        "kbd",
        "label",
        "map",
        "mark",
        "meter",
        "nobr",
        "output",
        "picture",
        "progress",
        "q",
        "ruby",
        "rb",
        "rp",
        "rt",
        "s",
        "samp",
        "small",
        "source",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "time",
        "tt",
        "u",
        "var",
        "wbr",
    ]
)
# Elements whose content is not translated. Within a line, code is kept where it is in the sentence.
SILENT = {"code", "kbd", "math", "noscript", "object", "pre", "samp", "script", "style", "svg", "template"}
SILENT |= {"textarea", "tt", "var"}
BLOCKS = {"noscript", "object", "pre", "textarea"}
NOT_TRANSLATED = re.compile(r"""\stranslate\s*=\s*["']?no\b|\sclass\s*=\s*["'][^"']*\bnotranslate\b""", re.I)


class Scanner(HTMLParser):
    """Collects where tags, entities and text begin."""

    def __init__(self, document: str):
        super().__init__(convert_charrefs=False)
        self.lines = [0, *(found.end() for found in re.finditer("\n", document))]
        self.found: list[tuple[int, str, str]] = []  # offset, kind, name of the tag
        self.feed(document)
        self.close()

    def _add(self, kind: str, name: str = "") -> None:
        line, column = self.getpos()
        self.found.append((self.lines[line - 1] + column, kind, name))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._add("start", tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self._add("point", tag)

    def handle_endtag(self, tag: str) -> None:
        self._add("end", tag)

    def handle_data(self, data: str) -> None:
        self._add("data")

    def handle_entityref(self, name: str) -> None:
        self._add("entity")

    def handle_charref(self, name: str) -> None:
        self._add("entity")

    def handle_comment(self, data: str) -> None:
        self._add("comment")

    def handle_decl(self, decl: str) -> None:
        self._add("other")

    def handle_pi(self, data: str) -> None:
        self._add("other")

    def unknown_decl(self, data: str) -> None:
        self._add("other")

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """Keep a section such as `<![x]>`, which HTMLParser refuses and browsers skip."""
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:
            self._add("other")
            return self.rawdata.find(">", i) + 1 or len(self.rawdata)


def scan(document: str) -> list[tuple[str, str, str, int]]:
    """The parts of a document with kind, name and line; joined, they are the document."""
    scanner = Scanner(document)
    starts = [offset for offset, _, _ in scanner.found]
    ends = [*starts[1:], len(document)]
    parts, line, position = [], 1, 0
    for (_, kind, name), end in zip(scanner.found, ends):
        raw = document[position:end]  # nothing is lost, even if an offset is wrong
        if end > position:
            parts.append((raw, kind, name, line))
            line += raw.count("\n")
            position = end
    return parts if position == len(document) else [*parts, (document[position:], "other", "", line)]


def read_html(document: str) -> Parts:
    """The parts of a page. Attributes stay as they are, and so does what `translate="no"` is on."""
    parts: Parts = []
    silent: list[str] = []  # the element that is not translated, and those of the same name in it
    inside: list[tuple[str, str]] = []  # raw and text of its parts

    def add(*pieces: Piece, line: int) -> None:
        if not parts or isinstance(parts[-1], str):
            parts.append(Segment([], escape_html, line))
        parts[-1].pieces.extend(pieces)  # type: ignore[union-attr]

    for raw, kind, name, line in scan(document):
        if silent:
            inside.append((raw, unescape(raw) if kind in ("data", "entity") else ""))
            silent += [name] * (kind == "start" and name == silent[0])
            if kind == "end" and name == silent[0]:
                silent.pop()
            if not silent:
                whole, text = ("".join(column) for column in zip(*inside))
                if name in INLINE and text.strip():
                    add(opaque(whole, text), line=line)
                elif name in BLOCKS:
                    parts.append(whole)
                else:
                    add(Piece("point", whole), line=line)
        elif kind == "start" and (name in SILENT or NOT_TRANSLATED.search(raw)) and name not in VOID:
            silent, inside = [name], [(raw, "")]
        elif kind in ("start", "end") and name in INLINE:
            add(tag(raw), line=line)
        elif kind == "point" and name in INLINE:
            add(Piece("point", raw, " " * (name == "br")), line=line)
        elif kind == "data":
            add(*read_lines(raw), line=line)
        elif kind == "entity":
            add(Piece("text", raw, unescape(raw)), line=line)
        elif kind == "comment":
            add(Piece("point", raw), line=line)
        else:
            parts.append(raw)
    return parts + [raw for raw, _ in inside if silent]


def read_lines(text: str) -> list[Piece]:
    """The pieces of text, where the end of a line is a break."""
    pieces = []
    for index, part in enumerate(re.split(r"(\s*\n\s*)", text)):
        if index % 2:
            pieces.append(Piece("break", part, " "))
        else:
            pieces += read_inline(part, PLACEHOLDERS)
    return pieces
