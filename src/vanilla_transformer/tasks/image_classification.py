"""Images with a label each: what is read, what is left out, and how it becomes batches.

They come from the Hub, Parquet files, a folder with a folder for each class, or scikit-learn's handwritten
digits. A file that is no image is left out and counted; what cannot be meant is an `InputError`.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import get_worker_info
from transformers import BaseImageProcessor

from ..image_processing_vanilla_transformer import to_rgb
from ..losses import IGNORE_INDEX
from .augmentation import Augmentation, Mix
from .labels import LabelArguments, check_classes, class_ids, class_names, hold_out, tell_skipped
from .settings import InputError, nearest
from .sources import Rows, Skips, load_rows

logger = logging.getLogger(__name__)


@dataclass
class ImageArguments(LabelArguments):
    """Where images and their labels come from."""

    image_column: str = field(default="image", metadata={"help": "column of the images"})
    keep_decoded: bool = field(
        default=False,
        metadata={"help": "hold all images decoded in memory (3 bytes a pixel): for small pictures"},
    )
    preprocessing_workers: int | None = field(
        default=None, metadata={"help": "processes that look for files that are no images"}
    )

    def __post_init__(self):
        super().__post_init__()
        for key in ("validation_share", "balance_classes", "keep_decoded"):
            if self.streaming and getattr(self, key):
                raise InputError(f"{key} needs the data as a whole, and streaming has never seen it all")


def load_splits(data: ImageArguments, seed: int = 0) -> dict[str, Rows]:
    """The splits that `data` names, those of train, validation and test that exist and have labels.

    Each has the columns `image`, not yet decoded, and `label`, of class labels. Rows without an image that
    can be read, or without a label, are left out and counted: at once, or, in a stream, on the way.

    Args:
        seed: of the choice that `validation_share` makes.

    Raises:
        InputError: a column is missing or holds something else; a label does not occur in train, or only one.
    """
    splits, names = {}, []
    for split, (rows, where) in _sources(data).items():
        _check_columns(rows, where, data)
        rows = rows.cast_column(data.image_column, ImageFeature(decode=False))
        if isinstance(rows, IterableDataset):
            names = _declared_names(rows, where, data)
            splits[split] = rows.select_columns([data.image_column, data.label_column]).rename_columns(
                _renamed(data)
            )
            continue
        if split == "train":
            names = class_names(rows, data.label_column, where)
        labels = np.array(class_ids(rows, data.label_column, where, names), dtype=np.int64)
        readable = _readable(rows.select_columns(data.image_column), where, data)
        tell_skipped(
            where, {"whose image cannot be read": ~readable, "without a label": labels == IGNORE_INDEX}
        )
        kept = np.flatnonzero(readable & (labels != IGNORE_INDEX))
        if split == "train":
            check_classes(labels[kept], names, where)
        elif not len(kept):
            logger.warning("%s: nothing is left to score", where)
            continue
        rows = rows.select(kept).select_columns(data.image_column)
        rows = rows.rename_columns({data.image_column: "image"} if data.image_column != "image" else {})
        splits[split] = rows.add_column("label", labels[kept], feature=ClassLabel(names=names))
    if data.validation_share and "validation" not in splits:
        splits |= hold_out(splits["train"], data.validation_share, seed)
    return splits


def load_digits() -> dict[str, Dataset]:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: 1,438 to train on and 359 to validate.

    The same share of each digit is chosen at random; the same 43 people wrote both.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (images, 8, 8), given as 0 to 16
    rows = Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in pixels], "label": digits.target},
        features=Features({"image": ImageFeature(), "label": ClassLabel(names=[*map(str, range(10))])}),
    )
    return hold_out(rows, 0.2, seed=0)


def open_image(image: dict | Image.Image) -> Image.Image:
    """An undecoded image of `datasets` in RGB; raises OSError or ValueError if it is none."""
    if isinstance(image, dict):
        image = Image.open(image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"]))
    return to_rgb(image)


class LabelledImages(torch.utils.data.Dataset):
    """Images and labels, one at a time.

    Args:
        rows: what `load_splits` gives.
        augmentation: how training changes them.
        keep_decoded: whether to decode them now, once for all.
    """

    def __init__(self, rows: Dataset, augmentation: Augmentation | None = None, keep_decoded: bool = False):
        self.rows = rows
        self.labels = np.array(rows["label"])
        self.augmentation = augmentation
        self.kept = [np.asarray(open_image(row["image"])) for row in rows] if keep_decoded else None
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # workers that stay see it change

    def set_epoch(self, epoch: int):
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        if self.kept is None:
            image = open_image(self.rows[int(index)]["image"])
        else:
            image = Image.fromarray(self.kept[index])
        example = {"image": image, "labels": int(self.labels[index])}
        return _augmented(example, self.augmentation, int(self._epoch), int(index))


class ImageStream(torch.utils.data.IterableDataset):
    """As `LabelledImages`, of a stream; what cannot be read is left out and counted."""

    def __init__(self, rows: IterableDataset, augmentation: Augmentation | None = None):
        self.rows = rows
        self.augmentation = augmentation
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int):
        self._epoch.fill_(epoch)
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict]:
        skips = Skips("the stream: skipped %d rows without a label or an image that can be read so far")
        worker = get_worker_info()
        step, first = (worker.num_workers, worker.id) if worker else (1, 0)
        for number, row in enumerate(self.rows):
            if row["label"] is None or row["label"] < 0 or (image := _opened(row["image"])) is None:
                skips.add(1)
                continue
            example = {"image": image, "labels": row["label"]}
            yield _augmented(example, self.augmentation, int(self._epoch), number * step + first)


def _augmented(example: dict, augmentation: Augmentation | None, epoch: int, index: int) -> dict:
    if augmentation is None:
        return example
    image, _ = augmentation(example["image"], epoch, index)
    return {**example, "image": image, "epoch": epoch, "index": index}


class ImageCollator:
    """Examples to batches.

    Args:
        mix: what is done to batches of augmented examples, if anything.
    """

    def __init__(self, image_processor: BaseImageProcessor, mix: Mix | None = None):
        self.image_processor = image_processor
        self.mix = mix

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
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
        name: (rows if limits[name] is None else rows.take(limits[name]), f"digits ({name})")
        for name, rows in load_digits().items()
    }


def _check_columns(rows: Rows, where: str, data: ImageArguments):
    columns = rows.column_names
    if columns is None or rows.features is None:
        raise InputError(f"streaming: {where} does not say what its columns hold; read it as a whole")
    for key in ("image_column", "label_column"):
        column = getattr(data, key)
        if column not in columns:
            near, held = nearest(column, columns), ", ".join(columns)
            raise InputError(f"{key}: {where} has no column {column!r}{near} (it has {held})")
    kind = rows.features[data.image_column]
    if not isinstance(kind, ImageFeature) and not _is_encoded(kind):
        raise InputError(
            f"{where}: image_column {data.image_column!r} holds {kind}, not images: they are stored as "
            "{bytes, path}, as bytes, or as the names of their files"
        )


def _is_encoded(kind) -> bool:
    """Whether `datasets` can read a column of this kind as images."""
    if isinstance(kind, dict):
        return {"bytes", "path"} == set(kind)
    return getattr(kind, "dtype", None) in ("binary", "large_binary", "string", "large_string")


def _declared_names(rows: IterableDataset, where: str, data: ImageArguments) -> list[str]:
    kind = rows.features[data.label_column]
    if not isinstance(kind, ClassLabel):
        raise InputError(
            f"streaming: {where} does not name the classes of {data.label_column!r}; read it as a whole"
        )
    return list(kind.names)


def _renamed(data: ImageArguments) -> dict[str, str]:
    names = {data.image_column: "image", data.label_column: "label"}
    return {name: new for name, new in names.items() if name != new}


def _opened(image: dict | None) -> Image.Image | None:
    if image is None:
        return None
    try:
        return open_image(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _readable(rows: Dataset, where: str, data: ImageArguments) -> np.ndarray:
    """Of each row, whether its image can be read to its end."""

    def look(images: dict) -> dict:
        return {"readable": [_opened(image) is not None for image in images[data.image_column]]}

    looked = rows.map(
        look,
        batched=True,
        batch_size=100,
        remove_columns=data.image_column,
        num_proc=data.preprocessing_workers,
        desc=f"Looking at the images of {where}",
    )
    return np.array(looked["readable"], dtype=bool)
