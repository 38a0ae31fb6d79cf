"""Images with boxes: COCO's JSON, Parquet and the Hub's, and handwritten digits on canvases.

`load_splits` gives every source the same form, `DetectionCollator` makes batches of it, and
`detection_metrics` scores what a model finds. What is left out is counted and logged; what cannot be meant is
an `InputError`.
"""

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import BaseImageProcessor

from ..image_processing_vanilla_transformer import VanillaTransformerImageProcessor, to_rgb
from .augmentation import Augmentation, AugmentationArguments
from .settings import InputError, nearest
from .sources import SPLITS, SourceArguments, load_rows

logger = logging.getLogger(__name__)

ORIENTATION = 0x0112  # of EXIF
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
SHOWN = 0.3  # the score above which a found object is told
CANVASES = "digits-detection"  # the set that scikit-learn's digits make
CANVASES_IN_SPLIT = {"train": 20000, "validation": 500, "test": 500}


@dataclass
class DetectionArguments(SourceArguments):
    """Where the images and their boxes come from, and how large they are shown to the model."""

    train_images: str | None = field(
        default=None,
        metadata={
            "help": "folder of the images that a COCO JSON train_file names; its own folder if not given"
        },
    )
    validation_images: str | None = field(default=None, metadata={"help": "as train_images, for validation"})
    test_images: str | None = field(default=None, metadata={"help": "as train_images, for the test"})
    image_column: str = field(default="image", metadata={"help": "column of the images"})
    objects_column: str = field(
        default="objects", metadata={"help": "column of the objects: `bbox` and `category` of each"}
    )
    box_format: Literal["xywh", "xyxy"] = field(
        default="xywh",
        metadata={
            "help": "what the four numbers of a box are, in pixels: left, top, width, height (xywh) or "
            "left, top, right, bottom (xyxy). COCO's JSON has xywh"
        },
    )
    image_height: int | None = field(
        default=None, metadata={"help": "in pixels: resize all images to image_height and image_width"}
    )
    image_width: int | None = field(default=None, metadata={"help": "in pixels, with image_height"})
    shortest_edge: int = field(
        default=480, metadata={"help": "in pixels: without image_height and image_width, resize to this ..."}
    )
    longest_edge: int = field(
        default=800, metadata={"help": "... or, if then the longer side were longer than this, to this"}
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.image_height is None) != (self.image_width is None):
            raise InputError("image_height and image_width belong together: set both or none")
        for name in ("image_height", "image_width", "shortest_edge", "longest_edge"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if self.streaming:
            raise InputError(
                "streaming: boxes are checked before training, for which the data are read whole"
            )

    @property
    def size(self) -> dict[str, int]:
        """As image processors have it."""
        if self.image_height:
            return {"height": self.image_height, "width": self.image_width}
        return {"shortest_edge": self.shortest_edge, "longest_edge": self.longest_edge}


class AnnotatedImages(torch.utils.data.Dataset):
    """Images and what is in them, one at a time: a `PIL.Image` in RGB and its annotation.

    Args:
        images: `images[index]` opens one, or raises OSError.
        annotations: as COCO has them, one for each image: `{"image_id": 7, "size": (height, width),
            "annotations": [{"bbox": [left, top, width, height], "category_id": 2, "area": 48.0, "iscrowd":
            0}, …]}`, in pixels; the image_id is the place in the split.

    Training sets `augmentation`.
    """

    augmentation: Augmentation | None = None

    def __init__(self, images: Sequence, annotations: Sequence[dict]):
        self.images, self.annotations = images, annotations
        self.broken = set()
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # workers that stay see it change

    def set_epoch(self, epoch: int):
        self._epoch.fill_(epoch)

    def __len__(self):
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict]:
        image, annotation = self._whole(index)
        if self.augmentation is None:
            return image, annotation
        columns = ("bbox", "category_id", "area", "iscrowd")
        objects = [np.hstack([one[name] for name in columns]) for one in annotation["annotations"]]
        image, objects = self.augmentation(image, int(self._epoch), index, np.array(objects).reshape(-1, 7))
        objects = [
            dict(zip(columns, (row[:4].tolist(), int(row[4]), row[5], int(row[6])))) for row in objects
        ]
        return image, {**annotation, "size": (image.height, image.width), "annotations": objects}

    def _whole(self, index: int) -> tuple[Image.Image, dict]:
        """As stored; in place of an image that turns out to be broken, the next."""
        for place in (index, *range(index + 1, len(self)), *range(index)):
            try:
                return to_rgb(self.images[place]), self.annotations[place]
            except UNREADABLE as error:
                if place not in self.broken:
                    self.broken.add(place)
                    logger.warning("image %d is broken (%s): the next is shown in its place", place, error)
        raise InputError("no image can be read")


# Where images and boxes come from


def load_splits(data: DetectionArguments, seed: int = 0) -> tuple[dict[str, AnnotatedImages], list[str]]:
    """The splits that `data` names, those of train, validation and test that exist, and the labels' names.

    Images that cannot be opened, and boxes without area within their image, are left out and counted.

    Raises:
        InputError: a file or column is missing, an object is not a box and a label, or a label is unknown.
    """
    if data.dataset == CANVASES:
        return _canvases(data, seed), [str(digit) for digit in range(10)]
    files = [path for name in SPLITS for path in getattr(data, f"{name}_file") or ()]
    if files and all(_is_coco(path) for path in files):
        loaded, names = _from_coco(data)
    else:
        loaded, names = _from_rows(data)
    splits = {name: _checked(*split, names, thorough=name != "train") for name, split in loaded.items()}
    if not any(one["annotations"] for one in splits["train"].annotations):
        raise InputError("no training image has an object: there is nothing to learn")
    trained = _count_labels(splits["train"])
    for name, split in splits.items():
        if unseen := [names[label] for label in sorted(_count_labels(split).keys() - trained.keys())]:
            logger.warning("%s has objects that train has none of: %s", name, ", ".join(unseen))
    return splits, names


def _count_labels(split: AnnotatedImages) -> Counter:
    return Counter(one["category_id"] for image in split.annotations for one in image["annotations"])


def _is_coco(path: str) -> bool:
    """Whether a file is one JSON object with COCO's keys, and not JSON lines."""
    if Path(path).suffix != ".json" or not Path(path).is_file():
        return False
    with open(path, encoding="utf-8") as file:
        try:
            whole = json.load(file)
        except ValueError:
            return False
    return isinstance(whole, dict) and {"images", "annotations"} <= whole.keys()


class FileImages(Sequence):
    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.open(self.paths[index])


class ColumnImages(Sequence):
    """The images of a column of `datasets`, which would open them all to give one."""

    def __init__(self, rows: Dataset, column: str):
        self.rows = rows.select_columns(column).cast_column(column, ImageFeature(decode=False))
        self.column = column

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index: int) -> Image.Image:
        stored = self.rows[index][self.column]
        if stored is None:
            raise OSError("there is no image")
        return Image.open(stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"]))


def _from_coco(data: DetectionArguments) -> tuple[dict, list[str]]:
    loaded, names = {}, None
    for name in SPLITS:
        paths = getattr(data, f"{name}_file")
        if not paths:
            continue
        if len(paths) > 1:
            raise InputError(f"{name}_file: {', '.join(paths)}: COCO's JSON is one file for a split")
        with open(paths[0], encoding="utf-8") as file:
            whole = json.load(file)
        folder = Path(getattr(data, f"{name}_images") or Path(paths[0]).parent)
        try:
            categories = {one["id"]: one["name"] for one in whole["categories"]}
            images = {one["id"]: folder / one["file_name"] for one in whole["images"]}
            annotations = [(one["image_id"], one["category_id"], one) for one in whole["annotations"]]
        except KeyError as error:
            raise InputError(f"{paths[0]}: not as COCO has it: the key {error} is missing") from error
        except TypeError as error:
            raise InputError(f"{paths[0]}: not as COCO has it: {error}") from error
        objects = {image: [] for image in images}
        for number, (image, category, one) in enumerate(annotations):
            for key, value, known in (("image_id", image, images), ("category_id", category, categories)):
                if value not in known:
                    raise InputError(f"{paths[0]}, annotation {number}: there is no {key} {value!r}")
            objects[image].append({**one, "category": categories[category]})
        names = names or [categories[key] for key in sorted(categories)]
        loaded[name] = FileImages(list(images.values())), list(objects.values()), paths[0]
        limit = getattr(data, f"max_{name}_samples")
        if limit is not None:
            images, objects, where = loaded[name]
            loaded[name] = FileImages(images.paths[:limit]), objects[:limit], where
    if names is None or "train" not in loaded:
        raise InputError("no data: set train_file")
    return loaded, names


def _from_rows(data: DetectionArguments) -> tuple[dict, list[str]]:
    loaded, names = {}, None
    for name, (rows, where) in load_rows(data).items():
        for column in (data.image_column, data.objects_column):
            if column not in rows.column_names:
                meant = nearest(column, rows.column_names)
                raise InputError(
                    f"{where} has no column {column!r}{meant} (it has {', '.join(rows.column_names)}): set "
                    "image_column and objects_column"
                )
        objects = [_as_list(one, where) for one in rows[data.objects_column]]
        if names is None:
            names = _label_names(rows.features[data.objects_column], objects, where)
        for one in (one for image in objects for one in image):
            if not isinstance(one["category"], str) and 0 <= one["category"] < len(names):
                one["category"] = names[one["category"]]
            if data.box_format == "xyxy":
                left, top, right, bottom = one["bbox"]
                one["bbox"] = [left, top, right - left, bottom - top]
        loaded[name] = ColumnImages(rows, data.image_column), objects, where
    return loaded, names


def _as_list(objects, where: str) -> list[dict]:
    """`datasets` gives a list of objects as a dictionary of lists, or as it is."""
    if isinstance(objects, dict):
        objects = [dict(zip(objects, values)) for values in zip(*objects.values())]
    for one in objects:
        if "category" not in one and "category_id" in one:
            one["category"] = one["category_id"]
        if not {"bbox", "category"} <= one.keys():
            raise InputError(f"{where}: an object is a `bbox` and a `category`, but has {', '.join(one)}")
    return list(objects)


def _label_names(feature, objects: list[list[dict]], where: str) -> list[str]:
    """Of class labels; else those that occur, in order."""
    feature = getattr(feature, "feature", feature)  # of a list of objects
    label = feature.get("category", feature.get("category_id")) if isinstance(feature, dict) else None
    label = getattr(label, "feature", label)
    if isinstance(label, ClassLabel):
        return list(label.names)
    found = {one["category"] for image in objects for one in image}
    if not found:
        raise InputError(f"{where}: no image has an object: there is nothing to learn")
    if all(isinstance(one, str) for one in found):
        return sorted(found)
    return [str(number) for number in range(max(found) + 1)]


def _checked(
    images: Sequence, objects: list[list[dict]], where: str, names: list[str], thorough: bool
) -> AnnotatedImages:
    """Without what cannot be used, of which it tells; `thorough` reads the images to their end."""
    ids = {name: number for number, name in enumerate(names)}
    kept, annotations, unreadable, dropped, first = [], [], 0, 0, ""
    for index, one in enumerate(objects):
        try:
            image = images[index]
            if thorough:
                image.load()
            width, height = image.size
            if image.getexif().get(ORIENTATION, 1) > 4:  # stored lying on its side
                width, height = height, width
        except UNREADABLE as error:
            unreadable += 1
            first = first or f" (the first is number {index}: {error})"
            continue
        boxes = []
        for thing in one:
            if thing["category"] not in ids:
                meant = nearest(str(thing["category"]), ids)
                raise InputError(
                    f"{where}, image {index}: the label {thing['category']!r} does not occur in train{meant}"
                )
            box = _clipped(thing["bbox"], width, height, f"{where}, image {index}")
            if box is None:
                dropped += 1
                continue
            area = thing.get("area") or box[2] * box[3]
            crowd = int(thing.get("iscrowd") or 0)
            label = ids[thing["category"]]
            boxes.append({"bbox": box, "category_id": label, "area": area, "iscrowd": crowd})
        annotations.append({"image_id": len(kept), "size": (height, width), "annotations": boxes})
        kept.append(index)
    for count, what in (
        (unreadable, f"images that cannot be opened{first}"),
        (dropped, "boxes without area"),
    ):
        if count:
            logger.warning("%s: left out %d %s", where, count, what)
    if not kept:
        raise InputError(f"{where}: no image is left{first}")
    return AnnotatedImages(images if len(kept) == len(objects) else Chosen(images, kept), annotations)


def _clipped(box, width: int, height: int, where: str) -> list[float] | None:
    """The part of a box within the image, None if that is nothing."""
    box = np.asarray(box, dtype=np.float64)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise InputError(f"{where}: a box is four numbers, not {box.tolist()}")
    corners = np.concatenate([box[:2], box[:2] + box[2:]]).clip(0, [width, height, width, height])
    sides = corners[2:] - corners[:2]
    return [*corners[:2].tolist(), *sides.tolist()] if (sides > 0).all() else None


class Chosen(Sequence):
    """Some of a sequence."""

    def __init__(self, whole: Sequence, chosen: list[int]):
        self.whole, self.chosen = whole, chosen

    def __len__(self):
        return len(self.chosen)

    def __getitem__(self, index: int):
        return self.whole[self.chosen[index]]


class DigitCanvases(torch.utils.data.Dataset):
    """scikit-learn's handwritten digits (8 x 8 pixels, 1,797 of them) on canvases of 96 x 96 pixels.

    One to six digits, 12 to 40 pixels high, in the ink and on the paper of chance, none over another. A
    canvas is a function of seed, split, epoch and index; the digits of one split are in no other.
    """

    side, heights, most = 96, (12, 40), 6

    def __init__(self, split: str, length: int, seed: int = 0):
        from sklearn.datasets import load_digits

        digits = load_digits()
        parts = np.split(np.random.default_rng(0).permutation(len(digits.target)), [1397, 1597])
        mine = parts[SPLITS.index(split)]
        self.digits = [(_trimmed(digits.images[index]), int(digits.target[index])) for index in mine]
        self.length, self.seed, self.epoch = length, (seed, SPLITS.index(split)), 0

    def __len__(self):
        return self.length

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    @property
    def annotations(self) -> list[dict]:
        return [self[index][1] for index in range(len(self))]

    def __getitem__(self, index: int) -> tuple[Image.Image, dict]:
        chance = np.random.default_rng((*self.seed, self.epoch, index))
        paper, ink = chance.uniform(0, 90, 3), chance.uniform(130, 255, 3)
        strokes, objects = np.zeros((self.side, self.side)), []
        taken = np.zeros((self.side, self.side), dtype=bool)
        for _ in range(chance.integers(1, self.most + 1)):
            digit, label = self.digits[chance.integers(len(self.digits))]
            height = int(chance.integers(self.heights[0], self.heights[1] + 1))
            width = max(4, round(height * digit.width / digit.height))
            for _ in range(20):  # places, before it is given up
                left, top = (int(chance.integers(self.side - length + 1)) for length in (width, height))
                place = np.s_[top : top + height, left : left + width]
                if not taken[place].any():
                    taken[place] = True
                    strokes[place] = np.asarray(digit.resize((width, height), Image.Resampling.BICUBIC)) / 255
                    box = {"bbox": [left, top, width, height], "area": width * height}
                    objects.append({**box, "category_id": label, "iscrowd": 0})
                    break
        pixels = paper + strokes[..., None] * (ink - paper) + chance.normal(0, 10, (self.side, self.side, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        return image, {"image_id": index, "size": (self.side, self.side), "annotations": objects}


def _trimmed(digit: np.ndarray) -> Image.Image:
    """Without the empty rows and columns around it."""
    rows, columns = (np.flatnonzero(digit.max(axis) > 2) for axis in (1, 0))
    digit = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray((digit * (255 / 16)).astype(np.uint8))


def _canvases(data: DetectionArguments, seed: int) -> dict[str, DigitCanvases]:
    """The held-out canvases are the same for every seed."""
    limits = {name: getattr(data, f"max_{name}_samples") for name in SPLITS}
    return {
        name: DigitCanvases(name, min(length, limits[name] or length), seed if name == "train" else 0)
        for name, length in CANVASES_IN_SPLIT.items()
    }


# What a model is shown


class DetectionCollator:
    """`(image, annotation)` pairs to a batch, by the image processor."""

    def __init__(self, processor: BaseImageProcessor):
        self.processor = processor

    def __call__(self, examples: Sequence[tuple[Image.Image, dict]]) -> dict:
        images, annotations = zip(*examples)
        return dict(self.processor(images=list(images), annotations=list(annotations), return_tensors="pt"))


def get_image_processor(data: DetectionArguments) -> BaseImageProcessor:
    """For images of one size, or of several, which are padded."""
    return VanillaTransformerImageProcessor(
        size=data.size, resample=Image.Resampling.BILINEAR, do_pad="height" not in data.size
    )


def augment(split: torch.utils.data.Dataset, settings: AugmentationArguments, seed: int):
    """Has the images of training changed at random, if the settings want it."""
    if settings == AugmentationArguments():
        return
    if isinstance(split, DigitCanvases):
        raise InputError(f"{CANVASES} draws new canvases in each epoch, which need no augmentation")
    if mixed := [name for name in ("mixup", "cutmix") if getattr(settings, name)]:
        raise InputError(f"{' and '.join(mixed)}: images with boxes cannot be mixed")
    split.augmentation = Augmentation(settings, seed)


# What it found


def detection_metrics(
    processor: BaseImageProcessor,
    annotations: Sequence[dict],
    names: Sequence[str],
    path: str | Path | None = None,
) -> Callable:
    """A `compute_metrics` for `batch_eval_metrics=True`: COCO's numbers, and `map_50` of each label.

    Args:
        annotations: of the images of the evaluation set, by image_id.
        names: of the labels.
        path: a file for what is found in each image, as it comes: a line of JSON with the `image_id`, the
            objects found with a score above `SHOWN`, and those that are there, boxes in pixels as (left, top,
            right, bottom).
    """
    from ..metrics import load_metric

    metric = load_metric("mean_average_precision")
    if path:
        Path(path).unlink(missing_ok=True)

    def compute(prediction, compute_result: bool) -> dict[str, float]:
        logits, boxes = (one.detach().cpu().float() for one in prediction.predictions)
        images = prediction.label_ids.tolist()
        found = processor.post_process_object_detection(
            SimpleNamespace(logits=logits, pred_boxes=boxes),
            threshold=0.0,
            target_sizes=[annotations[image]["size"] for image in images],
        )
        truth = [_reference(annotations[image]["annotations"]) for image in images]
        metric.add_batch(predictions=found, references=truth)
        if path:
            with open(path, "a", encoding="utf-8") as file:
                for image, *sides in zip(images, found, truth):
                    seen, there = (_listed(side, names) for side in sides)
                    line = {"image_id": image, "found": seen, "there": there}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if not compute_result:
            return {}
        scores = metric.compute()
        by_label = scores.pop("map_50_per_class")
        del scores["map_per_class"]
        return scores | {f"map_50_{names[label]}": score for label, score in by_label.items()}

    return compute


def _listed(objects: dict, names: Sequence[str]) -> list[dict]:
    scores = objects.get("scores")
    lines = []
    for index, (label, box) in enumerate(zip(objects["labels"], objects["boxes"])):
        line = {"label": names[int(label)], "box": [round(float(side), 1) for side in box]}
        if scores is not None:
            line["score"] = round(float(scores[index]), 4)
            if line["score"] <= SHOWN:  # the surest come first
                break
        lines.append(line)
    return lines


def _reference(objects: list[dict]) -> dict:
    boxes = np.array([one["bbox"] for one in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "boxes": boxes,
        "labels": [one["category_id"] for one in objects],
        "area": [one["area"] for one in objects],
        "iscrowd": [one["iscrowd"] for one in objects],
    }
