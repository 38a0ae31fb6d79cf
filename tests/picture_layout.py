"""Whether the texts of a figure can be read: none over another one, none cut off."""

from itertools import combinations
from unittest import mock

import numpy as np
from matplotlib.text import Text

SLACK = 0.5  # pixels


def drawn_texts(figure) -> list[Text]:
    """The texts that drawing the figure draws; an axis also has labels outside its limits, which are not."""
    drawn: list[Text] = []
    draw = Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        draw(text, renderer)

    with mock.patch.object(Text, "draw", record):
        figure.draw_without_rendering()
        drawn.clear()  # the first time settles the layout
        figure.draw_without_rendering()
    return drawn


def corners(text: Text) -> np.ndarray:
    """The corners of the box of a text in pixels, `(4, 2)`, also of a slanted one."""
    angle = text.get_rotation()
    if angle % 90 == 0:
        return text.get_window_extent().padded(-SLACK).corners()[[0, 1, 3, 2]]
    assert text.get_rotation_mode() == "anchor"
    text.set_rotation(0)
    box = text.get_window_extent().padded(-SLACK).corners()[[0, 1, 3, 2]]
    text.set_rotation(angle)
    anchor = text.get_transform().transform(text.get_unitless_position())
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return anchor + (box - anchor) @ np.array([[cosine, sine], [-sine, cosine]])


def overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two rectangles share a point: no side of either separates them."""
    for box in (one, other):
        for normal in (box[1] - box[0], box[2] - box[1]):
            first, second = one @ normal, other @ normal
            if first.max() <= second.min() or second.max() <= first.min():
                return False
    return True


def assert_legible(figure) -> None:
    texts = drawn_texts(figure)
    assert texts
    boxes = [corners(text) for text in texts]
    for text, box in zip(texts, boxes):
        within = (box >= -SLACK).all() and (box <= np.array(figure.bbox.size) + SLACK).all()
        assert within, f"{text.get_text()!r} is cut off"
    for (one, first), (other, second) in combinations(zip(texts, boxes), 2):
        assert not overlap(first, second), f"{one.get_text()!r} is over {other.get_text()!r}"
