"""Bring boxes to the pixels of the upright image, and find boxes that are in another format than stated."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..image_processing_vanilla_transformer import orientation, upright_size
from .settings import InputError

logger = logging.getLogger(__name__)

TOLERANCE = 2.0  # pixels that a box may reach beyond the image without a word
SUSPICIOUS = 0.3  # share of boxes that do not fit the stated format, above which it is a mistake

Size = tuple[float, float]  # width, height


class Fit(NamedTuple):
    """How boxes of an image become boxes of the upright image: turn them, then scale them.

    Args:
        size: of the image that the boxes are meant for.
        upright: size of the upright image.
        turn: EXIF's orientation if the boxes are meant for the image as stored; otherwise 1.
    """

    size: Size
    upright: tuple[int, int]
    turn: int = 1

    @property
    def scales(self) -> bool:
        """Whether the boxes change their size."""
        turned = self.size[::-1] if self.turn > 4 else self.size
        return any(abs(one - other) > 1 for one, other in zip(turned, self.upright))


def fit(image: Image.Image, stated: Size | None) -> Fit | None:
    """Return how boxes that are meant for an image of the `stated` size become boxes of this one.

    The stated size may be that of the upright image or of the image as stored, or either of them before it
    was resized. It is None if the data state none; the boxes are then meant for the upright image.

    Returns:
        None if the stated size has another shape than the image.
    """
    upright = upright_size(image)
    if stated is None or _same_shape(stated, upright):
        return Fit(stated or upright, upright)
    turn = orientation(image)
    if turn > 4 and _same_shape(stated, upright[::-1]):
        return Fit(stated, upright, turn)
    return None


def _same_shape(stated: Size, size: tuple[int, int]) -> bool:
    """Return whether the sizes differ by one factor, up to rounding to whole pixels."""
    factor = max(size) / max(stated)
    rounding = max(1.0, factor) + 1e-6  # pixels
    return all(abs(one * factor - other) <= rounding for one, other in zip(stated, size))


def fitted(boxes: np.ndarray, how: Fit) -> np.ndarray:
    """Return boxes (boxes, 4) as (left, top, right, bottom) in pixels of the upright image, which cuts them.

    Args:
        boxes: (left, top, right, bottom) in pixels of the image that they are meant for.
    """
    width, height = how.size
    if how.turn > 4:
        across, down = boxes[:, 0::2], boxes[:, 1::2]  # (boxes, 2)
        if how.turn in (6, 7):
            down = height - down
        if how.turn in (7, 8):
            across = width - across
        boxes = np.stack([down.min(1), across.min(1), down.max(1), across.max(1)], 1)
        width, height = height, width
    scale = np.array(how.upright) / (width, height) if how.scales else np.ones(2)
    return (boxes * np.tile(scale, 2)).clip(0, np.tile(how.upright, 2))


def as_corners(boxes: np.ndarray, box_format: str) -> np.ndarray:
    """Return boxes (boxes, 4) in `box_format`, xywh or xyxy, as (left, top, right, bottom)."""
    if box_format == "xyxy":
        return boxes
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def check_format(boxes: np.ndarray, sizes: Sequence[Size], box_format: str, where: str) -> None:
    """Raise InputError if the boxes of a split are shares of the image, or in the other format.

    Args:
        boxes: (boxes, 4), all boxes of the split.
        sizes: the size of the image of each box.
        where: the source, for messages.
    """
    if not len(boxes):
        return
    limits = np.asarray(sizes, dtype=np.float64)  # (boxes, 2)
    if boxes.min() >= 0 and boxes.max() <= 1 and limits.min() > TOLERANCE:
        raise InputError(
            f"{where}: all numbers of the boxes are between 0 and 1, like shares of the image; multiply them "
            "by its width and height, because box_format is in pixels: left, top, width, height (xywh) or "
            "left, top, right, bottom (xyxy)"
        )
    other = "xywh" if box_format == "xyxy" else "xyxy"
    beyond = ~_fits(boxes, limits, box_format)
    share = beyond.mean()
    if share > SUSPICIOUS and _fits(boxes, limits, other).all():
        first = boxes[beyond][0].tolist()
        raise InputError(
            f"{where}: {int(beyond.sum())} of {len(boxes)} boxes do not fit into their image as {box_format} "
            f"(such as {first}), but all do as {other}; set box_format to {other}"
        )
    if beyond.any():
        logger.warning(
            "%s: %d of %d boxes reach beyond their image or have no area, and are cut (such as %s). If these "
            "are many, check box_format=%s",
            where,
            beyond.sum(),
            len(boxes),
            boxes[beyond][0].tolist(),
            box_format,
        )


def _fits(boxes: np.ndarray, limits: np.ndarray, box_format: str) -> np.ndarray:
    """Return for each box whether it lies in its image and has an area, read in this format."""
    corners = as_corners(boxes, box_format)
    inside = (corners[:, 2:] <= limits + TOLERANCE).all(1) & (corners[:, :2] >= -TOLERANCE).all(1)
    return np.asarray(inside & (corners[:, 2:] > corners[:, :2]).all(1))
