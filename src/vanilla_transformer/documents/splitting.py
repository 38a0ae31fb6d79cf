"""Segments cut into sentences."""

from collections.abc import Iterator

from ..extras import extra
from .pieces import Piece, Segment, plain
from .sentences import Sentence


def split_segment(segment: Segment, language: str) -> list[Sentence]:
    """The sentences of a segment; their raw texts joined are the segment's."""
    with extra("documents"):
        import sentencex

    # Nothing within an opaque piece ends a sentence.
    text = "".join(
        "x" * len(piece.text) if piece.kind == "opaque" else piece.text for piece in segment.pieces
    )
    ends, end = [], 0
    for sentence in sentencex.segment(language, text):
        end += len(sentence)
        ends.append(end)
    line, sentences = segment.line, []
    for pieces in cut(segment.pieces, ends):
        sentences.append(Sentence(pieces, segment.escape, line))
        line += sentences[-1].raw.count("\n")
    return sentences


def cut(pieces: list[Piece], ends: list[int]) -> Iterator[list[Piece]]:
    """Yields the pieces of each sentence. Text and entities are cut, other pieces stay whole."""
    current: list[Piece] = []
    position = 0
    ends = list(ends)
    for piece in pieces:
        while ends and ends[0] <= position:
            if ends[0] == position and current and piece.kind != "close":
                yield current
                current = []
            if ends[0] == position and piece.kind == "close":
                break
            ends.pop(0)
        while piece.kind == "text" and ends and position < ends[0] < position + len(piece.text):
            size = ends.pop(0) - position
            yield [*current, plain(piece.text[:size])]
            current, piece, position = [], plain(piece.text[size:]), position + size
        current.append(piece)
        position += len(piece.text)
    if current:
        yield current
