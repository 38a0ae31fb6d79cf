"""Inline markup in a text: tags, entities, placeholders and addresses."""

import html
import re

from .pieces import Piece, Segment, opaque, plain

VOID = {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
TAG = r"""</?(?P<name>[A-Za-z][\w.:-]*|\d+)(?P<attributes>(?:[\s/.](?:[^<>"']|"[^"]*"|'[^']*')*)?)>"""
MATCH_TAG = re.compile(TAG)
ENTITY = r"&(?:[A-Za-z][A-Za-z0-9]*|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});"
ADDRESS = r"(?:https?://|www\.)[^\s<>\"{}|\\^`\[\]]*[\w/#=&~-]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
# {{x}} and {% x %} of templates; {name}, {0:.2f}, ${x}, %{x}, #{x}; ICU's {n, plural, one {…} other {…}};
# %s, %1$s, %(name)s, %5.2f of printf, but not "100 % sure" or "100% dead".
PLACEHOLDER = r"""
    \{\{[^{}]*\}\} | \{%.*?%\}
    | [$%\#]?\{ (?: \s*[\w.\[\]$@-]* (?:![a-z])? (?::[^{}\s]*)? \s*
                  | \s*\w+\s*,(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})* ) \}
    | %(?:\d+\$|\(\w+\))?[-+\#0]*\d*(?:\.\d+)?(?:hh?|ll?|[Lqjzt])?[diouxXeEfgGcs@](?![A-Za-z])
"""
OPAQUE = f"(?P<opaque>(?x:{PLACEHOLDER})|{ADDRESS})"
PLACEHOLDERS = re.compile(OPAQUE, re.DOTALL)
MARKUP = re.compile(
    f"(?P<comment><!--.*?-->)|(?P<tag>{TAG})|(?P<entity>{ENTITY})|{OPAQUE}",
    re.DOTALL,
)
PAIRS = {"(": ")", "[": "]", '"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "‘": "’", "`": "`"}


def read_inline(text: str, markup: re.Pattern[str] = MARKUP) -> list[Piece]:
    """The pieces of a text; one text piece if it has no markup.

    Args:
        markup: `MARKUP`, or `PLACEHOLDERS` for these and addresses only.
    """
    pieces, end = [], 0
    for found in markup.finditer(text):
        kind, (start, stop) = found.lastgroup, found.span()
        if kind == "opaque":  # with the brackets or quotes around it
            while start > end and stop < len(text) and PAIRS.get(text[start - 1]) == text[stop]:
                start, stop = start - 1, stop + 1
        if start > end:
            pieces.append(plain(text[end:start]))
        raw, end = text[start:stop], stop
        if kind == "tag":
            pieces.append(tag(raw))
        elif kind == "entity":
            pieces.append(Piece("text", raw, html.unescape(raw)))
        else:
            pieces.append(opaque(raw) if kind == "opaque" else Piece("point", raw))
    if end < len(text):
        pieces.append(plain(text[end:]))
    return pieces


def tag(raw: str) -> Piece:
    """The piece of a tag, such as `<b>` or `<br/>`."""
    found = MATCH_TAG.fullmatch(raw)
    name = found["name"].lower() if found else ""
    if not found or raw.endswith("/>") or name in VOID:
        return Piece("point", raw, " " if name == "br" else "")
    return Piece("close" if raw.startswith("</") else "open", raw, name=name)


def inline_segment(text: str) -> Segment:
    """The segment of a text; `<`, `>` and `&` are written as entities if the text has any."""
    pieces = read_inline(text)
    has_entities = any(piece.kind == "text" and piece.raw != piece.text for piece in pieces)
    return Segment(pieces, escape_html if has_entities else str)


def escape_html(text: str) -> str:
    return html.escape(text, quote=False)
