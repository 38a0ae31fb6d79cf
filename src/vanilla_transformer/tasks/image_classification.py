"""Images with one label each: reading them, skipping what cannot be used, and making batches.

They come from the Hub, Parquet files, a folder with one folder for each class, or scikit-learn's handwritten
digits. Files that are no images are skipped and counted. Wrong settings raise an `InputError`.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, IterableDataset
from PIL import Image
from torch.utils.data import get_worker_info
from transformers import BaseImageProcessor

from ..corpora.digits import load_digits
from ..epoch import Epoch
from ..image_processing_vanilla_transformer import to_rgb
from ..losses import IGNORE_INDEX
from .augmentation import Augmentation, Mix
from .images import UNREADABLE, StoredImage, StoredImageArguments, open_image, with_paths
from .labels import LabelArguments, check_classes, class_ids, class_names, hold_out, warn_skipped
from .settings import InputError
from .sources import Rows, Skips, first_rows, load_rows, require_column

logger = logging.getLogger(__name__)


@dataclass
class ImageArguments(LabelArguments, StoredImageArguments):
    """Where images and their labels come from."""

    dataset: str | None = field(default=None, metadata={"help": "Hub name, folder, or digits (shipped)"})
    keep_decoded: bool = field(
        default=False,
        metadata={"help": "keep all images decoded in memory (3 bytes a pixel); for small images"},
    )
    preprocessing_workers: int | None = field(
        default=None, metadata={"help": "number of processes that check which images can be read"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("validation_share", "balance_classes", "keep_decoded"):
            if self.streaming and getattr(self, key):
                raise InputError(f"{key} needs all the data at once: set streaming to false, or remove {key}")


def load_splits(data: ImageArguments, seed: int = 0, names: list[str] | None = None) -> dict[str, Rows]:
    """Return those of the splits train, validation and test that exist and have labels.

    Each has the columns `image`, not yet decoded, and `label`, of class labels. Rows without a label or a
    readable image are skipped and counted. A stream skips them while it is read.

    Args:
        seed: decides which examples `validation_share` holds out.
        names: of the classes that a model knows, to score it; by default those of train.

    Raises:
        InputError: a column is missing or has the wrong kind, a label does not occur in train, or train has
            one class only.
    """
    splits: dict[str, Rows] = {}
    names = list(names or ())
    for split, (rows, where) in _sources(data).items():
        _check_columns(rows, where, data)
        rows = with_paths(rows, where, data, split)
        if isinstance(rows, IterableDataset):
            names = _declared_names(rows, where, data)
            columns = {data.image_column: "image", data.label_column: "label"}
            rows = rows.select_columns(list(columns))
            splits[split] = rows.rename_columns({old: new for old, new in columns.items() if old != new})
            continue
        if split == "train":
            names = class_names(rows, data.label_column, where)
        labels = np.array(class_ids(rows, data.label_column, where, names), dtype=np.int64)
        readable = _readable(rows.select_columns(data.image_column), where, data)
        warn_skipped(
            where, {"whose image cannot be read": ~readable, "without a label": labels == IGNORE_INDEX}
        )
        kept = np.flatnonzero(readable & (labels != IGNORE_INDEX))
        if split == "train":
            check_classes(labels[kept], names, where, data.balance_classes)
        elif not len(kept):
            logger.warning("%s: no row can be scored, so this split is ignored", where)
            continue
        rows = rows.select(kept).select_columns(data.image_column)
        if data.image_column != "image":
            rows = rows.rename_column(data.image_column, "image")
        splits[split] = rows.add_column("label", labels[kept], feature=ClassLabel(names=names))
    if data.validation_share and "validation" not in splits and "train" in splits:
        splits |= hold_out(splits["train"], data.validation_share, seed)
    return splits


class LabelledImages(Epoch, torch.utils.data.Dataset):
    """Images and labels, one at a time.

    Args:
        rows: a split of `load_splits`.
        augmentation: how training changes the images.
        keep_decoded: decodes all images now and keeps them in memory.
    """

    def __init__(
        self, rows: Dataset, augmentation: Augmentation | None = None, keep_decoded: bool = False
    ) -> None:
        super().__init__()
        self.rows = rows
        self.labels = np.array(rows["label"])
        self.augmentation = augmentation
        self.kept = [np.asarray(to_rgb(open_image(row["image"]))) for row in rows] if keep_decoded else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.kept is None:
            image = to_rgb(open_image(self.rows[int(index)]["image"]))
        else:
            image = Image.fromarray(self.kept[index])
        example = {"image": image, "labels": int(self.labels[index])}
        return _augmented(example, self.augmentation, self.epoch, int(index))


class ImageStream(Epoch, torch.utils.data.IterableDataset):
    """A stream of images and labels. Rows that cannot be used are skipped and counted."""

    def __init__(self, rows: IterableDataset, augmentation: Augmentation | None = None) -> None:
        super().__init__()
        self.rows = rows
        self.augmentation = augmentation

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        skips = Skips("the stream: skipped %d rows so far, without a label or a readable image")
        worker = get_worker_info()
        step, first = (worker.num_workers, worker.id) if worker else (1, 0)
        for number, row in enumerate(self.rows):
            if row["label"] is None or row["label"] < 0 or (image := _opened(row["image"])) is None:
                skips.add(1)
                continue
            example = {"image": image, "labels": row["label"]}
            yield _augmented(example, self.augmentation, self.epoch, number * step + first)


def _augmented(
    example: dict[str, Any], augmentation: Augmentation | None, epoch: int, index: int
) -> dict[str, Any]:
    if augmentation is None:
        return example
    image, _ = augmentation(example["image"], epoch, index)
    return {**example, "image": image, "epoch": epoch, "index": index}


class ImageCollator:
    """Make batches of examples.

    Args:
        mix: mixes the images of a training batch. Without it they stay as they are.
    """

    def __init__(self, image_processor: BaseImageProcessor, mix: Mix | None = None) -> None:
        self.image_processor = image_processor
        self.mix = mix

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [example["image"] for example in examples]
        pixel_values = self.image_processor(images, return_tensors="pt")["pixel_values"]
        labels = torch.tensor([example["labels"] for example in examples])
        if self.mix is not None and "index" in examples[0]:
            indices = [example["index"] for example in examples]
            pixel_values, labels = self.mix(pixel_values, labels, examples[0]["epoch"], indices)
        return {"pixel_values": pixel_values, "labels": labels}


def _sources(data: ImageArguments) -> dict[str, tuple[Rows, str]]:
    if data.dataset != "digits":
        return load_rows(data)
    limits = {"train": data.max_train_samples, "validation": data.max_validation_samples}
    return {
        name: (first_rows(rows, limits[name]), f"digits ({name})")
        for name, rows in load_digits().items()
        if name in data.splits
    }


def _check_columns(rows: Rows, where: str, data: ImageArguments) -> None:
    columns = rows.column_names
    if columns is None or rows.features is None:
        raise InputError(f"streaming: {where} does not declare its columns; set streaming to false")
    for key in ("image_column", "label_column"):
        require_column(columns, getattr(data, key), key, where)


def _declared_names(rows: IterableDataset, where: str, data: ImageArguments) -> list[str]:
    kind = rows.features[data.label_column]
    if not isinstance(kind, ClassLabel):
        raise InputError(
            f"streaming: {where} does not declare the classes of {data.label_column!r}; set streaming to "
            "false"
        )
    return list(kind.names)


def _opened(stored: StoredImage) -> Image.Image | None:
    try:
        return to_rgb(open_image(stored))
    except UNREADABLE:
        return None


def _readable(rows: Dataset, where: str, data: ImageArguments) -> np.ndarray:
    """Return for each row whether its image can be decoded completely."""

    def decode(images: dict[str, list]) -> dict[str, list[bool]]:
        opened = [_opened(image) for image in images[data.image_column]]
        return {
            "readable": [image is not None for image in opened],
            "blank": [image is not None and _has_one_color(image) for image in opened],
        }

    decoded = rows.map(
        decode,
        batched=True,
        batch_size=100,
        remove_columns=data.image_column,
        num_proc=data.preprocessing_workers,
        desc=f"Checking the images of {where}",
    )
    if blank := sum(decoded["blank"]):
        text = "%s: %d of %d images have one color only (what is transparent becomes white)"
        logger.warning(text, where, blank, len(rows))
    return np.array(decoded["readable"], dtype=bool)


def _has_one_color(image: Image.Image) -> bool:
    ranges: Any = image.getextrema()  # a pair for each of the three channels
    return all(low == high for low, high in ranges)
