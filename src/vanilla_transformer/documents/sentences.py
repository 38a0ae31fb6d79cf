"""Sentences with their markup: what the model sees of one, and the translation with the markup in it."""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal, NamedTuple

from ..alignments import word_spans
from ..terms import UNSPACED
from .pieces import Piece, plain
from .projection import Links, Node, place_nodes, proportional_links

Span = tuple[int, int]
UNITS = re.compile(f"[{UNSPACED}]|[^{UNSPACED}]+")  # a character is a word where none has spaces around it
CHARACTER = re.compile(r".", re.DOTALL)
UNSPACED_WORD = re.compile(f"[{UNSPACED}]")
CLOSING = re.compile(r"[.,:;!?…。，、；：！？)\]}»”’%]")
OPENING = re.compile(r"[(\[{«“„¿¡]+")


class Mark(NamedTuple):
    """What is written between two words: a tag or a point, with its node."""

    kind: str
    raw: str
    node: Node


class Sentence:
    """A sentence of a document.

    Args:
        pieces: of the sentence, with the spaces around it.
        escape: writes text of the model into the document.
        line: of the document.
        hidden: whether the model sees the opaque pieces; they become points if it does not.

    Attributes:
        text: what the model sees.
    """

    def __init__(
        self, pieces: Sequence[Piece], escape: Callable[[str], str] = str, line: int = 1, hidden: bool = False
    ):
        self.raw = "".join(piece.raw for piece in pieces)
        self.escape, self.line, self.hidden = escape, line, hidden
        self.before, self.pieces = without_spaces(list(pieces), 0)
        self.after, self.pieces = without_spaces(self.pieces, -1)
        self.text, self.spans = self._text()
        opaque = [] if hidden else self._opaque()
        self.words, self.owners = words_of(self.text, opaque, apart=hidden) if self._is_placed() else ([], [])

    @property
    def has_words(self) -> bool:
        return any(character.isalpha() for character in self.text)

    @property
    def is_plain(self) -> bool:
        """Whether it is text without any markup."""
        return all(piece.kind == "text" and piece.raw == piece.text for piece in self.pieces)

    def _is_placed(self) -> bool:
        """Whether something must be written at a place within the translation."""
        return any(piece.kind != "text" for piece in self.pieces)

    @property
    def is_marked(self) -> bool:
        """Whether markup must be placed by alignments."""
        return any(piece.kind not in ("text", "break") for piece in self.pieces)

    def without_opaque(self) -> "Sentence":
        """The sentence that hides its opaque pieces from the model."""
        pieces = [Piece("break", self.before, " "), *self.pieces, Piece("break", self.after, " ")]
        return Sentence(pieces, self.escape, self.line, hidden=True)

    def _text(self) -> tuple[str, list[Span]]:
        """The text with single spaces, and where each piece is in it."""
        text = ""
        spans: list[Span] = []
        last = ""  # kind of the last piece that is no tag
        for piece in self.pieces:
            start = len(text)
            if piece.kind == "opaque" and not self.hidden:
                text += piece.text
            elif piece.kind != "opaque":
                if last == "opaque" and self.hidden and text.endswith(" ") and CLOSING.match(piece.text):
                    text, start = text[:-1], start - 1
                    spans = [(min(first, start), min(last, start)) for first, last in spans]
                for character in piece.text:
                    if not character.isspace():
                        text += character
                    elif text and not text.endswith(" "):
                        text += " "
            spans.append((start, len(text)))
            last = last if piece.kind in ("open", "close") else piece.kind
        text = text.rstrip(" ")
        return text, [(min(start, len(text)), min(end, len(text))) for start, end in spans]

    def write(self, translation: str, alignment: str | None = None) -> str | None:
        """The translation with the markup of the sentence; None if an opaque piece is not in it as it was.

        Args:
            alignment: links between the words of `text` and of the translation, as a pipeline returns them.
        """
        translation = " ".join(translation.split())
        if translation == self.text:
            return self.raw
        if not self._is_placed():
            return self.before + self.escape(translation) + self.after
        opaque = [] if self.hidden else [piece for piece in self.pieces if piece.kind == "opaque"]
        copies = find_copies(opaque, self.text, translation)
        if copies is None or (None in copies and alignment is None):
            return None
        words, owners = words_of(translation, [span for span in copies if span], apart=self.hidden)
        links = self._links(alignment, words, owners)
        texts = [translation[slice(*span)] for span in words]
        self._drop_noise(links, texts)
        for copy, place in zip(copies, self._opaque()):
            if copy:
                links[words.index(copy)] = {self.words.index(place)}
        root, missing = self._tree(copies)
        root.place = 0, len(words)
        place_nodes(root, links)
        copied = {words.index(span): piece.raw for span, piece in zip(copies, opaque) if span}
        replaced = {word for node in missing for word in range(*node.place)}
        rest = "".join(text for word, text in enumerate(texts) if word not in {*copied, *replaced})
        linked = all(is_linked(node, links) for node in missing)
        if not linked or (missing and is_spoiled(rest, self._visible())):
            return None
        ends = [0, *(end for _, end in words)]
        spaces = [translation[end:start] for end, (start, _) in zip(ends, words)] + [""]
        for node in missing:
            first, last = node.place
            copied |= dict.fromkeys(range(first, last), "") | {first: node.close}
            spaces[first + 1 : last] = [""] * (last - first - 1)
            if first and node.spaced[0] and not OPENING.fullmatch(texts[first - 1]):
                spaces[first] = spaces[first] or " "
            if last < len(texts) and node.spaced[1] and not CLOSING.match(texts[last]):
                spaces[last] = spaces[last] or " "
            node.close = ""
        breaks = self._breaks(words, texts, spaces)
        marks: list[list[Mark]] = [[] for _ in range(len(words) + 1)]
        collect_marks(root, marks)
        parts: list[tuple[str, bool]] = [(self.before, False)]  # with whether it is text of the model
        for gap, of_gap in enumerate(marks):
            around = texts[gap - 1] if gap else "", texts[gap] if gap < len(texts) else ""
            space = "".join(breaks.get(gap, [])) or spaces[gap]
            parts.append((gap_with_marks(of_gap, space, *around), not (of_gap or gap in breaks)))
            if gap < len(words):
                parts.append((copied.get(gap, around[1]), gap not in copied))
        runs = (
            ("".join(text for text, _ in run), of_model) for of_model, run in groupby(parts, itemgetter(1))
        )
        return "".join(self.escape(run) if of_model else run for run, of_model in runs) + self.after

    def _visible(self) -> str:
        return "".join(piece.text for piece in self.pieces if piece.kind == "text")

    def _opaque(self) -> list[Span]:
        return [span for span, piece in zip(self.spans, self.pieces) if piece.kind == "opaque"]

    def _links(self, alignment: str | None, words: list[Span], owners: list[list[int]]) -> Links:
        links = proportional_links(self.words, words) if alignment is None else [set() for _ in words]
        for link in (alignment or "").split():
            source, target = map(int, link.split("-"))
            if source < len(self.owners) and target < len(owners):
                for word in owners[target]:
                    links[word].update(self.owners[source])
        return links

    def _drop_noise(self, links: Links, texts: list[str]) -> None:
        """Drops links between words and punctuation, and links the last marks of both sentences."""
        opaque = set(self._opaque())
        marks = {
            word
            for word, span in enumerate(self.words)
            if span not in opaque and is_mark(self.text[slice(*span)])
        }
        for word, text in enumerate(texts):
            links[word] = links[word] & marks if is_mark(text) else links[word] - marks
        last = len(self.words) - 1
        if texts and last in marks and is_mark(texts[-1]):
            for of_word in links:
                of_word.discard(last)
            links[-1] = {last}

    def _tree(self, copies: list[Span | None]) -> tuple[Node, list[Node]]:
        """The elements and points over the words of the sentence, and those of opaque pieces to replace."""
        missing: list[Node] = []
        copied = iter(copies)
        starts, ends = [start for start, _ in self.words], [end for _, end in self.words]
        root = Node(0, len(self.words))
        stack: list[tuple[Node, str, int]] = []  # with the name and the index of the piece that opened it

        def children() -> list[Node]:
            return stack[-1][0].children if stack else root.children

        for index, (piece, (start, end)) in enumerate(zip(self.pieces, self.spans)):
            word = bisect_left(starts, end)  # behind those that begin before the piece ends
            if piece.kind == "open":
                word = bisect_right(ends, start)
                node = Node(word, word, piece.raw, to_end=True)
                children().append(node)
                stack.append((node, piece.name, index))
            elif piece.kind == "close" and any(name == piece.name for _, name, _ in stack):
                while stack[-1][1] != piece.name:  # an element that never ends
                    self._dissolve(stack.pop()[0], children())
                node, _, opened = stack.pop()
                node.end, node.close, node.to_end = word, piece.raw, False
                if node.is_point:
                    inside = [each.raw for each in self.pieces[opened : index + 1] if each.kind != "break"]
                    children()[-1] = self._point("".join(inside), node.start, opened, index)
            elif piece.kind == "close" and not stack:  # of an element that began in an earlier sentence
                root.children = [Node(0, word, close=piece.raw, from_start=True, children=root.children)]
            elif piece.kind in ("point", "close") or (piece.kind == "opaque" and self.hidden):
                children().append(self._point(piece.raw, word, index, index))
            elif piece.kind == "opaque" and next(copied) is None:
                spaced = self._point(piece.raw, word, index, index).spaced
                missing.append(Node(word - 1, word, close=piece.raw, spaced=spaced))
                children().append(missing[-1])
        for node, _, _ in stack:
            node.end = len(self.words)
        return root, missing

    def _dissolve(self, node: Node, siblings: list[Node]) -> None:
        """Makes a point of an opening tag, and its children children of its parent."""
        siblings.remove(node)
        siblings += [Node(node.start, node.start, node.open), *node.children]

    def _point(self, raw: str, word: int, first: int, last: int) -> Node:
        """The point that pieces become, with the spaces around them."""
        before = next((piece.text[-1] for piece in reversed(self.pieces[:first]) if piece.text), " ")
        after = next((piece.text[0] for piece in self.pieces[last + 1 :] if piece.text), " ")
        if any(piece.kind == "opaque" for piece in self.pieces[first : last + 1]):
            after = CLOSING.sub(" ", after)  # punctuation follows a word without a space
        spaced = before.isspace(), after.isspace()
        return Node(word, word, raw, spaced=spaced, separates=self.pieces[first].text == " ")

    def _breaks(self, words: list[Span], texts: list[str], spaces: list[str]) -> dict[int, list[str]]:
        """Line breaks by their gaps, at the same share of the text, in order."""
        breaks = [
            (span[0], piece.raw) for span, piece in zip(self.spans, self.pieces) if piece.kind == "break"
        ]
        share = words[-1][1] / max(1, len(self.text)) if words else 0.0
        possible = [gap for gap in range(1, len(words)) if spaces[gap] or UNSPACED_WORD.match(texts[gap])]
        found: dict[int, list[str]] = {}
        for index, (place, raw) in enumerate(breaks):
            later = len(breaks) - index - 1  # each of them needs a gap too
            choice = possible[: max(1, len(possible) - later)]
            gap = min(choice, key=lambda gap: abs(words[gap][0] - place * share), default=len(words))
            found.setdefault(gap, []).append(raw)
            possible = [other for other in possible if other > gap]
        return found


def without_spaces(pieces: list[Piece], end: Literal[0, -1]) -> tuple[str, list[Piece]]:
    """Removes the spaces at one end of a sentence; tags do not count. Returns the spaces, as they were."""
    spaces, kept = "", []
    while pieces and pieces[end].kind != "opaque":
        piece = pieces.pop(end)
        kept.append(piece)
        if piece.kind in ("text", "break"):
            kept.pop()
            rest = piece.text.rstrip() if end else piece.text.lstrip()
            if rest and piece.raw != piece.text:  # such as an entity
                kept.append(piece)
                break
            found = piece.raw if not rest else piece.raw[len(rest) :] if end else piece.raw[: -len(rest)]
            spaces = found + spaces if end else spaces + found
            if rest:
                kept.append(plain(rest))
                break
    return spaces, pieces + kept[::-1] if end else kept + pieces


def words_of(text: str, protected: list[Span], apart: bool = False) -> tuple[list[Span], list[list[int]]]:
    """The words of a text, where each protected span is one word.

    Args:
        apart: each character of punctuation is a word.

    Returns:
        the words, and for each word of `split_words` those that have a part of it.
    """
    spans = word_spans(text)
    taken = [False] * len(text)
    for start, end in protected:
        taken[start:end] = [True] * (end - start)
    words = list(protected)
    for start, end in spans:
        units = CHARACTER if apart and is_mark(text[start:end]) else UNITS
        for found in units.finditer(text, start, end):
            first = found.start()
            for place in range(first, found.end() + 1):
                if place == found.end() or taken[place]:
                    if first < place:
                        words.append((first, place))
                    first = place + 1
    words.sort()
    starts, ends = [start for start, _ in words], [end for _, end in words]
    return words, [list(range(bisect_right(ends, start), bisect_left(starts, end))) for start, end in spans]


def find_copies(opaque: list[Piece], source: str, translation: str) -> list[Span | None] | None:
    """Where each opaque piece is in a translation; None for one that is not.

    Returns:
        None if one of them is not there as often as in the source.
    """
    counts = Counter(piece.text for piece in opaque)
    places: dict[str, list[Span]] = {}
    for text, count in counts.items():
        bounds = r"(?<!\w)" * text[:1].isalnum(), r"(?!\w)" * text[-1:].isalnum()
        pattern = re.compile(re.escape(text).join(bounds))
        places[text] = [found.span() for found in pattern.finditer(translation)]
        if len(pattern.findall(source)) != count or len(places[text]) not in (0, count):
            return None
    spans = sorted(span for of_text in places.values() for span in of_text)
    if any(end > start for (_, end), (start, _) in zip(spans, spans[1:])):
        return None
    return [places[piece.text].pop(0) if places[piece.text] else None for piece in opaque]


def is_mark(text: str) -> bool:
    return not any(character.isalnum() for character in text)


def is_linked(node: Node, links: Links) -> bool:
    return any(of_word & set(range(node.start, node.end)) for of_word in links[slice(*node.place)])


def is_spoiled(text: str, source: str) -> bool:
    """Whether a text has parts of placeholders which its source does not have."""
    return any(text.count(character) > source.count(character) for character in "{}%$@<>`")


def collect_marks(node: Node, marks: list[list[Mark]]) -> None:
    """Sorts what is written for the nodes below one by the gaps between words."""
    for child in sorted(node.children, key=lambda child: child.place):  # stable
        start, end = child.place
        if child.is_point:
            marks[start].append(Mark("point", child.open, child))
        else:
            marks[start].append(Mark("open", child.open, child))
            collect_marks(child, marks)
            marks[end].append(Mark("close", child.close, child))


def gap_with_marks(marks: list[Mark], space: str, before: str, after: str) -> str:
    """What is written between two words.

    Args:
        space: between the words, or a line break.
        before, after: the words, empty at the ends of the sentence.
    """
    raws = [mark.raw for mark in marks]
    opens = [index for index, mark in enumerate(marks) if mark.kind == "open"]
    closes = [index for index, mark in enumerate(marks) if mark.kind == "close"]
    points = [index for index, mark in enumerate(marks) if mark.kind == "point"]
    if not points:
        middle = opens[0] if opens else len(marks)
        return "".join(raws[:middle]) + space + "".join(raws[middle:])
    left, right = min([*opens, points[0]]), max([*closes, points[-1]]) + 1
    first, last = marks[points[0]].node, marks[points[-1]].node
    is_before, is_after = first.spaced[0], last.spaced[1]
    if space and is_before:
        sides = space, " " if is_after else ""
    elif space:
        sides = "", "" if last.separates and space == " " and not is_after else space
    else:
        opens_word = OPENING.fullmatch(before) is not None
        sides = (
            " " if is_before and before and not opens_word else "",
            " " if is_after and after and (opens_word or not before) else "",
        )
    inner = ""
    for index in range(left, right):
        is_spaced = index in points and index - 1 in points and marks[index].node.spaced[0]
        inner += " " * (is_spaced and marks[index - 1].node.spaced[1]) + raws[index]
    return "".join(raws[:left]) + sides[0] + inner + sides[1] + "".join(raws[right:])
