"""What is drawn: texts, numbers, JSON, and files that are damaged or half right."""

import json
from typing import Any

from hypothesis import strategies as st

CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("\n\r\t ,;\"'\\\0\ufeff\u2028\u2029\x85\x1c{}[]:*&!|>%@`-0.9eE"),
)
TEXT = st.text(CHARACTERS, max_size=40)
BROKEN_TEXT = st.text(st.one_of(CHARACTERS, st.characters(categories=["Cs"])), max_size=40)
NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from(
        [10**9, -(10**9), 2**31, 2**63, 10**30, 0.5, -0.0, 1e300, float("inf"), float("-inf"), float("nan")]
    ),
    st.floats(),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def damaged(draw: Any, valid: st.SearchStrategy[bytes]) -> bytes:
    """Valid bytes with a few of them deleted, inserted, changed or cut off."""
    content = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["delete", "insert", "change", "cut", "repeat"]))
        if kind == "delete":
            del content[place : place + draw(st.integers(1, 9))]
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=6))
        elif kind == "change":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "repeat":
            content[place:place] = content[place : place + 20] * 3
        else:
            del content[place:]
    return bytes(content)


@st.composite
def replaced(draw: Any, valid: Any) -> Any:
    """A valid JSON value with a few parts replaced by others, or removed."""
    whole = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(0, 3))):
        spot: Any = whole
        while True:
            keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(spot[key], dict | list) and draw(st.booleans()):
                spot = spot[key]
                continue
            if draw(st.integers(0, 4)) == 0:
                del spot[key]
            else:
                spot[key] = draw(JSON)
            break
    return whole if draw(st.integers(0, 30)) else draw(JSON)


def encoded(lines: list[str], ends: str, encoding: str) -> bytes:
    return ends.join(lines).encode(encoding, errors="replace")


FILES = st.one_of(
    st.binary(max_size=120),
    st.builds(
        encoded,
        st.lists(TEXT, max_size=6),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16"]),
    ),
)


def json_lines(rows: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    def write(values: list[Any]) -> bytes:
        return b"".join(json.dumps(value).encode() + b"\n" for value in values)

    whole = st.lists(rows, min_size=1, max_size=6).map(write)
    return st.one_of(whole, whole, damaged(whole), st.lists(JSON, max_size=4).map(write), FILES)


def table(columns: list[str], separator: str) -> st.SearchStrategy[bytes]:
    cell = st.one_of(TEXT, st.sampled_from(['"', 'a "b" c', '"a', 'b"', "07", "1.10", "NA", "true", ""]))

    def write(rows: list[list[str]]) -> bytes:
        lines = [separator.join(columns), *(separator.join(row) for row in rows)]
        return "\n".join(lines).encode()

    whole = st.lists(st.lists(cell, min_size=2, max_size=2), min_size=1, max_size=6).map(write)
    ragged = st.lists(st.lists(cell, min_size=1, max_size=3), max_size=6).map(write)
    return st.one_of(whole, ragged, damaged(whole), FILES)
