"""Two image data sets made from scikit-learn's 1,797 handwritten digits: single digits, and canvases."""

from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from ..epoch import Epoch
from ..extras import extra

DIGITS = [str(digit) for digit in range(10)]  # the names of the classes
SPLITS = ("train", "validation", "test")


def load_digits() -> dict[str, Dataset]:
    """Digits of 8 x 8 pixels: 1,438 to train on and 359 to validate, the same share of each class.

    The split is always the same. The same 43 people wrote both parts.
    """
    digits = _scikit_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (images, 8, 8), given as 0 to 16
    rows = Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in pixels], "label": digits.target},
        features=Features({"image": ImageFeature(), "label": ClassLabel(names=DIGITS)}),
    )
    parts = rows.train_test_split(359, seed=0, stratify_by_column="label")
    return {"train": parts["train"], "validation": parts["test"]}


class DigitCanvases(Epoch, torch.utils.data.Dataset):
    """Canvases of 96 x 96 pixels with one to six digits, 12 to 40 pixels high, none over another.

    Paper and ink have random colors. A canvas is a function of seed, split, epoch and index. Each of the
    1,797 digits occurs in one split only.
    """

    side, heights, most = 96, (12, 40), 6

    def __init__(self, split: str, length: int, seed: int = 0) -> None:
        super().__init__()
        digits = _scikit_digits()
        parts = np.split(np.random.default_rng(0).permutation(len(digits.target)), [1397, 1597])
        chosen = parts[SPLITS.index(split)]
        self.digits = [(_trim(digits.images[index]), int(digits.target[index])) for index in chosen]
        self.length, self.seed = length, (seed, SPLITS.index(split))

    def __len__(self) -> int:
        return self.length

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """The annotation of each canvas of this epoch."""
        return [self[index][1] for index in range(len(self))]

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        """A canvas and its annotation in COCO's form, as in `tasks.object_detection.AnnotatedImages`."""
        random = np.random.default_rng((*self.seed, self.epoch, index))
        paper, ink = random.uniform(0, 90, 3), random.uniform(130, 255, 3)
        strokes, objects = np.zeros((self.side, self.side)), []
        taken = np.zeros((self.side, self.side), dtype=bool)
        for _ in range(random.integers(1, self.most + 1)):
            digit, label = self.digits[random.integers(len(self.digits))]
            height = int(random.integers(self.heights[0], self.heights[1] + 1))
            width = max(4, round(height * digit.width / digit.height))
            for _ in range(20):  # after 20 occupied positions the canvas does without this digit
                left, top = (int(random.integers(self.side - length + 1)) for length in (width, height))
                area = np.s_[top : top + height, left : left + width]
                if not taken[area].any():
                    taken[area] = True
                    strokes[area] = np.asarray(digit.resize((width, height), Image.Resampling.BICUBIC)) / 255
                    box = {"bbox": [left, top, width, height], "area": width * height}
                    objects.append({**box, "category_id": label, "iscrowd": 0})
                    break
        pixels = paper + strokes[..., None] * (ink - paper) + random.normal(0, 10, (self.side, self.side, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        return image, {"image_id": index, "size": (self.side, self.side), "annotations": objects}


def _scikit_digits() -> Any:
    with extra("vision"):
        from sklearn import datasets  # slow to import

    return datasets.load_digits()


def _trim(digit: np.ndarray) -> Image.Image:
    """Cut off the empty rows and columns around a digit."""
    rows, columns = (np.flatnonzero(digit.max(axis) > 2) for axis in (1, 0))
    digit = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray((digit * (255 / 16)).astype(np.uint8))
