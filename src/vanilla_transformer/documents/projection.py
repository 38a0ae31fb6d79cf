"""Where the markup of a text goes in its translation.

Tags become a tree of nodes over the words of the source. Each node gets a run of words of the target: the
run with the most links into the node, less those that lead out of it. Runs of siblings never overlap, and
those of children lie within their parent's. So every tag is written once, and tags stay nested.
"""

from bisect import bisect_right
from collections.abc import Sequence
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
    if not (source and target):
        return [set() for _ in target]
    longer = source[-1][1] / target[-1][1]
    starts = [start for start, _ in source[1:]]
    return [{bisect_right(starts, (start + end) / 2 * longer)} for start, end in target]


def place_nodes(parent: Node, links: Links) -> None:
    """Gives a place to all nodes below one that has a place."""
    low, high = parent.place
    elements = [child for child in parent.children if not child.is_point]
    gains = {id(child): [gain(of_word, child) for of_word in links[low:high]] for child in elements}
    # The ends of elements of other sentences come first, then those with most to gain.
    elements.sort(
        key=lambda child: (
            not (child.from_start or child.to_end),
            -sum(value for value in gains[id(child)] if value > 0),
        )
    )
    free = [True] * (high - low)
    inner: set[int] = set()  # gaps between words of one element
    for child in elements:
        start, end = place_of(child, parent, gains[id(child)], free, inner)
        free[start:end] = [False] * (end - start)
        inner.update(range(start + 1, end))
        child.place = low + start, low + end
        place_nodes(child, links)
    for child in parent.children:
        if child.is_point:
            costs = crossings(child, links[low:high])
            best = low + min(
                (gap for gap in range(high - low + 1) if gap not in inner), key=lambda gap: costs[gap]
            )
            child.place = best, best


def gain(of_word: set[int], node: Node) -> float:
    """From 1 for a word whose links all lead into the node, to -1 if none does."""
    if not of_word:
        return -0.01
    return 2 * sum(node.start <= word < node.end for word in of_word) / len(of_word) - 1


def place_of(
    node: Node, parent: Node, gains: list[float], free: list[bool], inner: set[int]
) -> tuple[int, int]:
    """The best run of words of the target that its parent has and no sibling, counted from the parent's."""
    count = len(gains)
    covers_start = node.from_start or node.start <= parent.start
    covers_end = node.to_end or node.end >= parent.end
    if covers_start and covers_end and all(free):
        return 0, count
    share = count / max(1, parent.end - parent.start)
    first, last = ((word - parent.start) * share for word in (node.start, node.end))
    if node.from_start:
        runs = first_runs(gains, free)
    elif node.to_end:
        runs = [
            (total, count - end, count - start) for total, start, end in first_runs(gains[::-1], free[::-1])
        ]
    else:
        runs = best_runs(gains, free)

    def distance(run: tuple[float, int, int]) -> float:
        return abs(run[1] - first) + abs(run[2] - last)

    best = max(runs, key=lambda run: (run[0], -distance(run)), default=(0.0, 0, 0))
    if best[0] > 0:
        return best[1:]
    # No word of the target is linked to it: the nearest free word, or none.
    if node.from_start or node.to_end:
        return min(runs, key=distance)[1:]
    middle = (first + last) / 2
    if any(free):
        word = min((word for word in range(count) if free[word]), key=lambda word: abs(word + 0.5 - middle))
        return word, word + 1
    gap = min((gap for gap in range(count + 1) if gap not in inner), key=lambda gap: abs(gap - middle))
    return gap, gap


def first_runs(gains: list[float], free: list[bool]) -> list[tuple[float, int, int]]:
    """The runs from the first word on, with their sums, as far as words are free; the first has no word."""
    runs = [(0.0, 0, 0)]
    for word, (value, is_free) in enumerate(zip(gains, free)):
        if not is_free:
            break
        runs.append((runs[-1][0] + value, 0, word + 1))
    return runs


def best_runs(gains: list[float], free: list[bool]) -> list[tuple[float, int, int]]:
    """For each free word, the run with the largest sum that ends with it."""
    runs = []
    total, start = 0.0, 0
    for word, (value, is_free) in enumerate(zip(gains, free)):
        if total <= 0 or not is_free:
            total, start = 0.0, word + (not is_free)
        if is_free:
            total += value
            runs.append((total, start, word + 1))
    return runs


def crossings(point: Node, links: Links) -> list[float]:
    """How many links cross a point at each gap between words; those of words near to the point count most."""
    weights = [[0.0, 0.0] for _ in links]  # of links to words before and behind the point
    for weight, of_word in zip(weights, links):
        for word in of_word:
            behind = word >= point.start
            distance = word - point.start + 1 if behind else point.start - word
            touches = distance == 1 and not point.spaced[behind]
            weight[behind] += (1 + touches) / distance / len(of_word)
    costs = [sum(before for before, _ in weights)]
    for before, after in weights:
        costs.append(costs[-1] - before + after)
    return [round(cost, 9) for cost in costs]  # equal ones are equal
