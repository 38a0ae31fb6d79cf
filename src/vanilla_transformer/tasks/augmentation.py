"""Random changes of training images; the boxes in an image move with it.

A change is a function of (seed, epoch, index) alone, so it does not depend on processes, workers or
interruptions. Pillow does the work.

Boxes are rows of (left, top, width, height, ...) in pixels, as in COCO. Further columns, such as a class,
stay with their box. A box is dropped when less than a quarter of it remains in the image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.nn import functional as F

from .settings import InputError

Boxes = np.ndarray  # (boxes, 4 or more)

LEAST_VISIBLE = 0.25  # share of a box that must stay in the image
LIMITS = {"flip": 1, "flip_vertical": 1, "shift": 1, "rotate": 180, "crop": 1, "color": 1, "erase": 1}
LIMITS |= {"rand_augment": 14, "rand_augment_strength": 10}


@dataclass
class AugmentationArguments:
    """How training changes its images. By default it does not."""

    _argument_group_name = "augmentation"

    flip: float = field(default=0.0, metadata={"help": "probability of a flip from left to right"})
    flip_vertical: float = field(default=0.0, metadata={"help": "probability of a flip upside down"})
    shift: float = field(
        default=0.0, metadata={"help": "move each image by up to this share of its width and of its height"}
    )
    rotate: float = field(default=0.0, metadata={"help": "rotate each image by up to this many degrees"})
    crop: float = field(
        default=1.0,
        metadata={"help": "cut out a random part of at least this share of the area (Inception: 0.08)"},
    )
    color: float = field(
        default=0.0, metadata={"help": "change brightness, contrast and saturation by up to this share"}
    )
    rand_augment: int = field(
        default=0, metadata={"help": "number of RandAugment's changes of shape and color for each image"}
    )
    rand_augment_strength: float = field(
        default=9.0, metadata={"help": "strength of RandAugment's changes, from 0 to 10"}
    )
    erase: float = field(default=0.0, metadata={"help": "probability that noise replaces a random rectangle"})

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            if not 0 <= getattr(self, name) <= limit:
                raise InputError(f"{name}={getattr(self, name)} must be between 0 and {limit}")
        if self.crop == 0:
            raise InputError("crop=0.0 leaves nothing of an image: set it above 0; 1 turns cropping off")


@dataclass
class MixArguments(AugmentationArguments):
    """Images of one class each can also be mixed with each other."""

    mixup: float = field(
        default=0.0, metadata={"help": "alpha of mixup, which blends two images and their labels; 0 for none"}
    )
    cutmix: float = field(
        default=0.0,
        metadata={
            "help": "alpha of CutMix, which pastes a part of one image into another; 0 for none. With mixup "
            "too, each batch draws one of them"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mixup", "cutmix"):
            if not getattr(self, name) >= 0:  # nor NaN
                raise InputError(f"{name}={getattr(self, name)} must be at least 0")


class Augmentation:
    """Change one image at a time."""

    def __init__(self, settings: AugmentationArguments, seed: int) -> None:
        self.settings = settings
        self.seed = seed

    def __call__(
        self, image: Image.Image, epoch: int, index: int, boxes: Boxes | None = None
    ) -> tuple[Image.Image, Boxes | None]:
        """Return the changed image and its boxes.

        Args:
            image: an image in RGB.
            epoch, index: the epoch, and the image's index in the data set. With the seed they determine the
                change.
        """
        random, how = np.random.default_rng((self.seed, epoch, index)), self.settings
        if how.crop < 1:
            image, boxes = crop(image, boxes, *random_part(image.size, how.crop, random))
        if how.flip and random.random() < how.flip:
            image, boxes = flip(image, boxes)
        if how.flip_vertical and random.random() < how.flip_vertical:
            image, boxes = flip_vertical(image, boxes)
        if how.shift:
            shares = random.uniform(-how.shift, how.shift, 2) * image.size
            image, boxes = shift(image, boxes, *(int(share) for share in shares.round()))
        if how.rotate:
            image, boxes = affine(image, boxes, rotation(random.uniform(-how.rotate, how.rotate)))
        if how.color:
            image = recolor(image, *random.uniform(1 - how.color, 1 + how.color, 3))
        if how.rand_augment:
            for name in random.choice(list(RAND_AUGMENT), how.rand_augment):
                strength = how.rand_augment_strength / 10 * random.choice((-1, 1))
                image, boxes = RAND_AUGMENT[name](image, boxes, strength)
        if how.erase and random.random() < how.erase:
            image = erase(image, *random_part(image.size, 0.02, random, most=1 / 3, flattest=0.3), random)
        return image, boxes


def flip(image: Image.Image, boxes: Boxes | None = None) -> tuple[Image.Image, Boxes | None]:
    """Flip from left to right."""
    if boxes is not None:
        boxes = boxes.copy()
        boxes[:, 0] = image.width - boxes[:, 0] - boxes[:, 2]
    return ImageOps.mirror(image), boxes


def flip_vertical(image: Image.Image, boxes: Boxes | None = None) -> tuple[Image.Image, Boxes | None]:
    """Flip upside down."""
    if boxes is not None:
        boxes = boxes.copy()
        boxes[:, 1] = image.height - boxes[:, 1] - boxes[:, 3]
    return ImageOps.flip(image), boxes


def shift(image: Image.Image, boxes: Boxes | None, right: int, down: int) -> tuple[Image.Image, Boxes | None]:
    """Move the image by whole pixels. The border is repeated to fill the gap."""
    rows = (np.arange(image.height) - down).clip(0, image.height - 1)
    columns = (np.arange(image.width) - right).clip(0, image.width - 1)
    moved = Image.fromarray(np.asarray(image)[rows[:, None], columns])
    if boxes is not None:
        boxes = boxes.copy()
        boxes[:, :2] += (right, down)
        boxes = visible(boxes, *image.size)
    return moved, boxes


def crop(
    image: Image.Image, boxes: Boxes | None, left: int, top: int, width: int, height: int
) -> tuple[Image.Image, Boxes | None]:
    """Cut out a part."""
    if boxes is not None:
        boxes = boxes.copy()
        boxes[:, :2] -= (left, top)
        boxes = visible(boxes, width, height)
    return image.crop((left, top, left + width, top + height)), boxes


def random_part(
    size: tuple[int, int],
    least: float,
    random: np.random.Generator,
    most: float = 1.0,
    flattest: float = 3 / 4,
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random part of an image of size (width, height).

    Args:
        least, most: limits of the part's share of the area.
        flattest: least ratio of the part's sides, relative to the ratio of the image's sides.
    """
    share = random.uniform(least, most)
    ratio = math.exp(random.uniform(math.log(flattest), -math.log(flattest)))
    shares = np.array([share * ratio, share / ratio]) ** 0.5  # of the width and of the height
    width, height = np.clip(np.round(shares * size), 1, size).astype(int).tolist()
    left, top = random.integers(0, [size[0] - width + 1, size[1] - height + 1]).tolist()
    return left, top, width, height


def affine(image: Image.Image, boxes: Boxes | None, matrix: np.ndarray) -> tuple[Image.Image, Boxes | None]:
    """Rotate, shear or move the image about its middle. The gaps get the mean color of the border.

    A box becomes the smallest upright box around the changed one.

    Args:
        matrix: `(2, 3)`, from a point (right, down) of the old image to its point in the new one, both
            measured from the middle.
    """
    middle = np.array(image.size) / 2
    back = np.linalg.inv(matrix[:, :2])  # Pillow maps points of the new image to the old one
    offset = middle - back @ (middle + matrix[:, 2])
    from_new = np.column_stack([back, offset]).flatten()
    changed = image.transform(
        image.size,
        Image.Transform.AFFINE,
        tuple(from_new),
        Image.Resampling.BILINEAR,
        fillcolor=border(image),
    )
    if boxes is not None:
        left, top, width, height = boxes[:, :4].T
        corners = np.array(
            [[left, left + width, left, left + width], [top, top, top + height, top + height]]
        )  # (2, 4 corners, boxes)
        corners = np.tensordot(matrix[:, :2], corners - middle[:, None, None], 1)
        corners += (middle + matrix[:, 2])[:, None, None]
        first, last = corners.min(1), corners.max(1)  # (2, boxes)
        boxes = np.column_stack([*first, *(last - first), boxes[:, 4:]]).astype(boxes.dtype)
        boxes = visible(boxes, *image.size)
    return changed, boxes


def rotation(degrees: float) -> np.ndarray:
    """The matrix of a clockwise rotation, `(2, 3)`."""
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])


def border(image: Image.Image) -> tuple[int, ...]:
    """Return the mean color of the outermost pixels."""
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(edge.mean(0).round().astype(int).tolist())


def visible(boxes: Boxes, width: int, height: int) -> Boxes:
    """Clip boxes to an image of this size, and drop those with less than `LEAST_VISIBLE` of their area."""
    first = boxes[:, :2].clip(0, (width, height))
    last = (boxes[:, :2] + boxes[:, 2:4]).clip(0, (width, height))
    sides = last - first
    area = boxes[:, 2] * boxes[:, 3]
    kept = (sides.prod(1) >= LEAST_VISIBLE * area) & (sides > 0).all(1)
    clipped = np.column_stack([first, sides, boxes[:, 4:]]).astype(boxes.dtype)
    return clipped[kept]


def recolor(image: Image.Image, brightness: float, contrast: float, saturation: float) -> Image.Image:
    """Multiply brightness, contrast and saturation by these factors."""
    image = ImageEnhance.Brightness(image).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    return ImageEnhance.Color(image).enhance(saturation)


def erase(
    image: Image.Image, left: int, top: int, width: int, height: int, random: np.random.Generator
) -> Image.Image:
    """Replace a part with noise (Zhong et al. 2017)."""
    image = image.copy()
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image.paste(Image.fromarray(noise), (left, top))
    return image


Change = Callable[[Image.Image, Boxes | None, float], tuple[Image.Image, Boxes | None]]


def _of_shape(matrix: Callable[[float, tuple[int, int]], Sequence[Sequence[float]] | np.ndarray]) -> Change:
    def change(image: Image.Image, boxes: Boxes | None, strength: float) -> tuple[Image.Image, Boxes | None]:
        return affine(image, boxes, np.array(matrix(strength, image.size), dtype=float))

    return change


def _of_color(change: Callable[[Image.Image, float], Image.Image]) -> Change:
    return lambda image, boxes, strength: (change(image, strength), boxes)


# RandAugment (Cubuk et al. 2020). Strengths from -1 to 1 cover the ranges of the paper's table.
RAND_AUGMENT: dict[str, Change] = {
    "identity": lambda image, boxes, strength: (image, boxes),
    "auto_contrast": _of_color(lambda image, _: ImageOps.autocontrast(image)),
    "equalize": _of_color(lambda image, _: ImageOps.equalize(image)),
    "solarize": _of_color(lambda image, strength: ImageOps.solarize(image, round(256 * (1 - abs(strength))))),
    "posterize": _of_color(lambda image, strength: ImageOps.posterize(image, round(8 - 4 * abs(strength)))),
    "color": _of_color(lambda image, strength: ImageEnhance.Color(image).enhance(1 + 0.9 * strength)),
    "contrast": _of_color(lambda image, strength: ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength)),
    "brightness": _of_color(
        lambda image, strength: ImageEnhance.Brightness(image).enhance(1 + 0.9 * strength)
    ),
    "sharpness": _of_color(lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength)),
    "rotate": _of_shape(lambda strength, size: rotation(30 * strength)),
    "shear_x": _of_shape(lambda strength, size: [[1, 0.3 * strength, 0], [0, 1, 0]]),
    "shear_y": _of_shape(lambda strength, size: [[1, 0, 0], [0.3 * strength, 1, 0]]),
    "shift_x": _of_shape(lambda strength, size: [[1, 0, 0.3 * strength * size[0]], [0, 1, 0]]),
    "shift_y": _of_shape(lambda strength, size: [[1, 0, 0], [0, 1, 0.3 * strength * size[1]]]),
}


class Mix:
    """Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of a batch.

    Args:
        classes: number of classes.
    """

    def __init__(self, settings: MixArguments, seed: int, classes: int) -> None:
        self.alphas = {"mixup": settings.mixup, "cutmix": settings.cutmix}
        self.seed = seed
        self.classes = classes

    def __call__(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, epoch: int, indices: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix each image, and its label, with another of the batch.

        Args:
            pixel_values: `(batch, channels, height, width)`.
            labels: class ids `(batch,)`.
            epoch, indices: the epoch, and the images' indices. With the seed they determine the mixture.

        Returns:
            the mixed images and the share of each class in them, `(batch, classes)`.
        """
        random = np.random.default_rng((self.seed, epoch, *indices))
        name = random.choice([name for name, alpha in self.alphas.items() if alpha])
        share = random.beta(self.alphas[name], self.alphas[name])
        others = torch.from_numpy(random.permutation(len(labels)))
        if name == "mixup":
            pixel_values = share * pixel_values + (1 - share) * pixel_values[others]
        else:
            height, width = pixel_values.shape[-2:]
            sides = np.round(np.sqrt(1 - share) * np.array([height, width])).astype(int)
            top, left = random.integers(0, np.array([height, width]) - sides + 1)
            part = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
            pixel_values = pixel_values.clone()
            pixel_values[part] = pixel_values[others][part]
            share = 1 - sides.prod() / (height * width)
        shares = F.one_hot(labels, self.classes).float()
        return pixel_values, share * shares + (1 - share) * shares[others]
