"""Images that training changes at random, so that few of them go further; boxes follow.

Pillow changes the images. What is done to one is a function of (seed, epoch, index) alone: the same whatever
the number of processes and workers, and after an interruption.

Boxes are rows of (left, top, width, height, ...) in pixels, as in COCO; what comes after, such as a class,
stays with its box. A box that has left the image, or most of which has, is left out.
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


@dataclass
class AugmentationArguments:
    """How training changes its images; without these keys, not at all."""

    _argument_group_name = "augmentation"

    flip: float = field(
        default=0.0, metadata={"help": "probability that an image is mirrored, left for right"}
    )
    flip_vertical: float = field(
        default=0.0, metadata={"help": "probability that an image is turned upside down, as cells may be"}
    )
    shift: float = field(
        default=0.0, metadata={"help": "moves the image by up to this share of its height and of its width"}
    )
    rotate: float = field(default=0.0, metadata={"help": "turns the image by up to this many degrees"})
    crop: float = field(
        default=1.0,
        metadata={
            "help": "cuts out a part of at least this share of the image, 0.08 as in Inception's crops"
        },
    )
    color: float = field(
        default=0.0, metadata={"help": "changes brightness, contrast and saturation by up to this share"}
    )
    rand_augment: int = field(
        default=0, metadata={"help": "number of RandAugment's changes of shape and color for each image"}
    )
    rand_augment_strength: float = field(default=9.0, metadata={"help": "of these changes, from 0 to 10"})
    erase: float = field(
        default=0.0, metadata={"help": "probability that a random rectangle is replaced by noise"}
    )
    mixup: float = field(
        default=0.0,
        metadata={"help": "alpha of mixup, which blends two images and their labels; 0 for none"},
    )
    cutmix: float = field(
        default=0.0,
        metadata={
            "help": "alpha of cut-mix, which pastes a part of one image into another. With mixup as "
            "well, either is chosen for each batch"
        },
    )

    def __post_init__(self):
        limits = {"flip": 1, "flip_vertical": 1, "shift": 1, "rotate": 180, "crop": 1, "color": 1, "erase": 1}
        limits |= {"rand_augment": 14, "rand_augment_strength": 10, "mixup": math.inf, "cutmix": math.inf}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise InputError(f"{name}={getattr(self, name)} is not between 0 and {limit}")
        if self.crop == 0:
            raise InputError("crop=0.0 would leave nothing of an image")


class Augmentation:
    """What the arguments ask for, done to one image at a time."""

    def __init__(self, settings: AugmentationArguments, seed: int):
        self.settings = settings
        self.seed = seed

    def __call__(
        self, image: Image.Image, epoch: int, index: int, boxes: Boxes | None = None
    ) -> tuple[Image.Image, Boxes | None]:
        """
        Args:
            image: in RGB.
            epoch, index: which image of which epoch this is: they and the seed decide what is done.
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
    """Left for right."""
    if boxes is not None:
        boxes = boxes.copy()
        boxes[:, 0] = image.width - boxes[:, 0] - boxes[:, 2]
    return ImageOps.mirror(image), boxes


def flip_vertical(image: Image.Image, boxes: Boxes | None = None) -> tuple[Image.Image, Boxes | None]:
    """Top for bottom."""
    if boxes is not None:
        boxes = boxes.copy()
        boxes[:, 1] = image.height - boxes[:, 1] - boxes[:, 3]
    return ImageOps.flip(image), boxes


def shift(image: Image.Image, boxes: Boxes | None, right: int, down: int) -> tuple[Image.Image, Boxes | None]:
    """Moves the image by whole pixels; its border is repeated where nothing else is."""
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
    """Cuts a part out."""
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
        least, most: its share of the area.
        flattest: least ratio of its sides, relative to those of the image.
    """
    share = random.uniform(least, most)
    ratio = math.exp(random.uniform(math.log(flattest), -math.log(flattest)))
    part = np.array([share * ratio, share / ratio]) ** 0.5  # shares of the width and of the height
    part = np.clip(np.round(part * size), 1, size).astype(int)
    corner = random.integers(0, np.array(size) - part + 1)
    return (*corner.tolist(), *part.tolist())


def affine(image: Image.Image, boxes: Boxes | None, matrix: np.ndarray) -> tuple[Image.Image, Boxes | None]:
    """Turns, shears or moves the image about its middle; the corners get the mean color of its border.

    Args:
        matrix: `(2, 3)`, from places (right, down) of the image given, measured from its middle, to those of
            the new one. A box becomes the smallest one around what it was.
    """
    middle = np.array(image.size) / 2
    back = np.linalg.inv(matrix[:, :2])  # Pillow asks where the pixels of the new image come from
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
    """Clockwise."""
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])


def border(image: Image.Image) -> tuple[int, ...]:
    """The mean color of the outermost pixels."""
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(edge.mean(0).round().astype(int).tolist())


def visible(boxes: Boxes, width: int, height: int) -> Boxes:
    """The boxes clipped to an image of that size, those left out of which little remains."""
    first = boxes[:, :2].clip(0, (width, height))
    last = (boxes[:, :2] + boxes[:, 2:4]).clip(0, (width, height))
    sides = last - first
    area = boxes[:, 2] * boxes[:, 3]
    kept = (sides.prod(1) >= LEAST_VISIBLE * area) & (sides > 0).all(1)
    clipped = np.column_stack([first, sides, boxes[:, 4:]]).astype(boxes.dtype)
    return clipped[kept]


def recolor(image: Image.Image, brightness: float, contrast: float, saturation: float) -> Image.Image:
    """Factors, of which 1 changes nothing."""
    image = ImageEnhance.Brightness(image).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    return ImageEnhance.Color(image).enhance(saturation)


def erase(
    image: Image.Image, left: int, top: int, width: int, height: int, random: np.random.Generator
) -> Image.Image:
    """Replaces a part by noise (Zhong et al. 2017)."""
    image = image.copy()
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image.paste(Image.fromarray(noise), (left, top))
    return image


def _of_shape(matrix: Callable[[float, tuple[int, int]], list]) -> Callable:
    def change(image, boxes, strength):
        return affine(image, boxes, np.array(matrix(strength, image.size), dtype=float))

    return change


def _of_color(change: Callable[[Image.Image, float], Image.Image]) -> Callable:
    return lambda image, boxes, strength: (change(image, strength), boxes)


# RandAugment (Cubuk et al. 2020), with strengths from -1 to 1 in the ranges of the paper's table.
RAND_AUGMENT: dict[str, Callable] = {
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
    """Mixup (Zhang et al. 2018) and cut-mix (Yun et al. 2019) of a batch.

    Args:
        classes: how many there are.
    """

    def __init__(self, settings: AugmentationArguments, seed: int, classes: int):
        self.alphas = {"mixup": settings.mixup, "cutmix": settings.cutmix}
        self.seed = seed
        self.classes = classes

    def __call__(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, epoch: int, indices: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each image mixed with another of the batch, and their labels.

        Args:
            pixel_values: `(batch, channels, height, width)`.
            labels: class ids `(batch,)`; what is returned are shares of the classes, `(batch, classes)`.
            epoch, indices: which images these are: they and the seed decide what is done.
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
