"""Subtitles, SubRip (.srt) and WebVTT (.vtt): a sentence may span several cues; times and tags stay."""

import re

from .inline import escape_html, read_inline
from .pieces import Parts, Piece, Segment

TIME = r"(?:(\d+):)?(\d\d?):(\d\d?)[.,](\d{1,3})"
TIMES = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}\b.*\s*")
LINE = re.compile(r"[^\n]*\n|[^\n]+")
CODE = re.compile(r"(\{\\[^{}]*\}|<\d[\d:.]*>)")  # {\an8} of SubStation, <00:01.500> of WebVTT
DASH = re.compile(r"\s*(?:-+|–|—|♪|#|\*|>>+)?\s*")
ENDED = re.compile(r"""[.!?:;…。！？♪\])"”»—-]["'”’»)\]]*\s*$""")
STARTS = re.compile(r"\s*[-–—♪#*>\[(]")
PAUSE = 2.0  # seconds; a sentence does not go on behind a longer pause
LONGEST = 300  # characters of a sentence that goes on in another cue


def read_subtitles(document: str) -> Parts:
    """The parts of a file of subtitles, SubRip or WebVTT.

    A sentence goes on in the next cue if nothing ends it and the pause is short.
    """
    escape = escape_html if document.removeprefix("\ufeff").startswith("WEBVTT") else str
    parts: Parts = []
    segment: Segment | None = None
    kept = ""  # since the last line of text
    in_cue, ended = False, 0.0
    for number, line in enumerate(LINE.findall(document), 1):
        times = TIMES.fullmatch(line)
        if times or not in_cue or not line.strip():
            kept += line
            if times:
                start, end = seconds(*times.groups()[:4]), seconds(*times.groups()[4:])
                if segment is not None and (start - ended > PAUSE or length(segment) > LONGEST):
                    segment = None
                ended = end
            in_cue = bool(times) or (in_cue and bool(line.strip()))
            continue
        text = line.rstrip()
        if segment is not None and (ENDED.search(shown(segment)) or STARTS.match(text)):
            segment = None
        if segment is None:
            dash = DASH.match(text)
            kept += dash[0] if dash else ""
            text = text[dash.end() :] if dash else text
            segment = Segment([], escape, number)
            parts += [kept, segment]
        else:
            segment.pieces.append(Piece("break", kept, " "))
        segment.pieces += pieces_of(text)
        kept = line[len(line.rstrip()) :]
    return [*parts, kept]


def pieces_of(text: str) -> list[Piece]:
    pieces = []
    for index, part in enumerate(CODE.split(text)):
        pieces += [Piece("point", part)] if index % 2 else read_inline(part)
    return pieces


def shown(segment: Segment) -> str:
    return "".join(piece.text for piece in segment.pieces)


def length(segment: Segment) -> int:
    return sum(len(piece.text) for piece in segment.pieces)


def seconds(hours: str | None, minutes: str, whole: str, thousandths: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(whole) + int(thousandths) / 1000
