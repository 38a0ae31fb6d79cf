"""Where the markup of a text goes in its translation.

Tags become a tree of nodes over the words of the source. Each node gets a run of words of the target: the
run with the most links into the node, less those that lead out of it. Runs of siblings never overlap, and
those of children lie within their parent's. So every tag is written once, and tags stay nested.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Links = list[set[int]]  # of each word of the target, the words of the source


@dataclass
class Node:
    """An element, or a point if it has no words.

    Args:
        start, end: its words in the source.
        open, close: what is written before and after its words; a point has `open` only.
        from_start, to_end: the element began in an earlier sentence, or ends in a later one.
        spaced: whether a space is before and behind a point.
        separates: a point that ends a word, such as a line break.
        place: its words in the target, once it has a place.
    """

    start: int
    end: int
    open: str = ""
    close: str = ""
    from_start: bool = False
    to_end: bool = False
    spaced: tuple[bool, bool] = (True, True)
    separates: bool = False
    children: list["Node"] = field(default_factory=list)
    place: tuple[int, int] = (0, 0)

    @property
    def is_point(self) -> bool:
        return self.start >= self.end and not (self.from_start or self.to_end)


def proportional_links(source: Sequence[tuple[int, int]], target: Sequence[tuple[int, int]]) -> Links:
    """Links of words, given by their places in the texts, at the same share of the length."""
    if not source:
        return [set() for _ in target]
    longer = source[-1][1] / max(1, target[-1][1]) if target else 1.0
    middles = [(start + end) / 2 * longer for start, end in target]
    return [{sum(start <= middle for start, _ in source[1:])} for middle in middles]


def place_nodes(parent: Node, links: Links) -> None:
    """Gives a place to all nodes below one that has a place."""
    low, high = parent.place
    elements = [child for child in parent.children if not child.is_point]
    gains = {id(child): [gain(of_word, child) for of_word in links] for child in elements}
    # The ends of elements of other sentences come first, then those with most to gain.
    elements.sort(
        key=lambda child: (
            not (child.from_start or child.to_end),
            -sum(value for value in gains[id(child)][low:high] if value > 0),
        )
    )
    placed: list[Node] = []
    for child in elements:
        child.place = place_of(child, parent, gains[id(child)], placed)
        placed.append(child)
        place_nodes(child, links)
    for child in parent.children:
        if child.is_point:
            best = min(
                outer_gaps(parent, placed), key=lambda gap: crossings(gap, child, links[low:high], low)
            )
            child.place = best, best


def gain(of_word: set[int], node: Node) -> float:
    """From 1 for a word whose links all lead into the node, to -1 if none does."""
    if not of_word:
        return -0.01
    return 2 * sum(node.start <= word < node.end for word in of_word) / len(of_word) - 1


def place_of(node: Node, parent: Node, gains: list[float], placed: list[Node]) -> tuple[int, int]:
    """The best run of words of the target that its parent has and no sibling."""
    low, high = parent.place
    covers_start = node.from_start or node.start <= parent.start
    covers_end = node.to_end or node.end >= parent.end
    if covers_start and covers_end and not placed:
        return low, high
    free = [not any(start <= word < end for start, end in (other.place for other in placed))
            for word in range(high)]  # fmt: skip
    share = (high - low) / max(1, parent.end - parent.start)
    first, last = (low + (word - parent.start) * share for word in (node.start, node.end))
    if node.from_start:
        runs = [(low, end) for end in range(low, high + 1) if all(free[low:end])]
    elif node.to_end:
        runs = [(start, high) for start in range(low, high + 1) if all(free[start:high])]
    else:
        runs = list(best_runs(gains, free, low, high))

    def quality(run: tuple[int, int]) -> tuple[float, float]:
        return sum(gains[slice(*run)]), -abs(run[0] - first) - abs(run[1] - last)

    best = max(runs, key=quality, default=(low, low))
    if sum(gains[slice(*best)]) > 0:
        return best
    # No word of the target is linked to it: the nearest free word, or none.
    if node.from_start or node.to_end:
        return max(runs, key=lambda run: quality(run)[1])
    middle = (first + last) / 2
    if any(free[low:high]):
        word = min(
            (word for word in range(low, high) if free[word]), key=lambda word: abs(word + 0.5 - middle)
        )
        return word, word + 1
    gap = min(outer_gaps(parent, placed), key=lambda gap: abs(gap - middle))
    return gap, gap


def best_runs(gains: list[float], free: list[bool], low: int, high: int) -> Iterator[tuple[int, int]]:
    """For each free word, the best run that ends with it."""
    total, start = 0.0, low
    for word in range(low, high):
        if total <= 0 or not free[word]:
            total, start = 0.0, word
        if free[word]:
            total += gains[word]
            yield start, word + 1
        else:
            start = word + 1


def outer_gaps(parent: Node, placed: list[Node]) -> list[int]:
    """The gaps between words of a parent that are not within one of its elements."""
    low, high = parent.place
    inner = {gap for other in placed for gap in range(other.place[0] + 1, other.place[1])}
    return [gap for gap in range(low, high + 1) if gap not in inner]


def crossings(gap: int, point: Node, links: Links, low: int) -> float:
    """How many links cross a point at this gap; those of words near to the point count most."""
    cost = 0.0
    for place, of_word in enumerate(links, low):
        for word in of_word:
            behind = word >= point.start
            if behind != (place >= gap):
                distance = word - point.start + 1 if behind else point.start - word
                touches = distance == 1 and not point.spaced[behind]
                cost += (1 + touches) / distance / len(of_word)
    return cost
