"""Images with boxes: COCO's JSON, Parquet files, the Hub, and handwritten digits on canvases.

`load_splits` brings every source into one form, `DetectionCollator` makes batches, and `detection_metrics`
scores the model's detections. Images and boxes that cannot be used are skipped and counted. Wrong settings
raise an `InputError`.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Subset

from ..corpora.digits import DIGITS, DigitCanvases
from ..epoch import Epoch
from ..image_processing_vanilla_transformer import VanillaTransformerImageProcessor, to_rgb, upright_size
from .augmentation import Augmentation, AugmentationArguments
from .box_fitting import Fit, as_corners, check_format, fit, fitted
from .boxes import AnnotatedSplit, DetectionArguments, read_rows
from .coco import read_coco
from .images import UNREADABLE, StoredImage, open_image
from .settings import InputError, nearest

logger = logging.getLogger(__name__)

LEAST_SCORE = 0.3  # detections_*.jsonl lists objects with a higher score
CANVASES = "digits-detection"  # the `dataset` of digits on canvases
CANVASES_IN_SPLIT = {"train": 20000, "validation": 500, "test": 500}

Images = Sequence[StoredImage] | Subset[StoredImage]


class AnnotatedImages(Epoch, torch.utils.data.Dataset):
    """Images in RGB and their annotations, one pair at a time.

    Args:
        images: stored images, for `open_image`.
        annotations: one for each image, in pixels and in COCO's form: `{"image_id": 7, "size": (height,
            width), "annotations": [{"bbox": [left, top, width, height], "category_id": 2, "area": 48.0,
            "iscrowd": 0}, …]}`. The image_id is the index in the split. `id` and `file_name` are those of
            the data.
        augmentation: how training changes the images.
    """

    def __init__(
        self,
        images: Images,
        annotations: Sequence[dict[str, Any]],
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.images, self.annotations, self.augmentation = images, annotations, augmentation
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        image, annotation = self._readable(index)
        if self.augmentation is None:
            return image, annotation
        columns = ("bbox", "category_id", "area", "iscrowd")
        rows = [np.hstack([item[name] for name in columns]) for item in annotation["annotations"]]
        image, boxes = self.augmentation(image, self.epoch, index, np.array(rows).reshape(-1, 7))
        assert boxes is not None  # as given
        objects = [dict(zip(columns, (row[:4].tolist(), int(row[4]), row[5], int(row[6])))) for row in boxes]
        return image, {**annotation, "size": (image.height, image.width), "annotations": objects}

    def _readable(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        """Return the pair at `index` or, if its image is broken, the next readable pair."""
        for candidate in (index, *range(index + 1, len(self)), *range(index)):
            try:
                return to_rgb(open_image(self.images[candidate])), self.annotations[candidate]
            except UNREADABLE as error:
                if candidate not in self.broken:
                    self.broken.add(candidate)
                    logger.warning("image %d is broken (%s): the next one replaces it", candidate, error)
        raise InputError("no image can be read")


# Reading images and boxes


def load_splits(
    data: DetectionArguments,
    augmentation: AugmentationArguments | None = None,
    seed: int = 0,
    names: list[str] | None = None,
) -> tuple[Mapping[str, AnnotatedImages | DigitCanvases], list[str]]:
    """Return those of the splits train, validation and test that exist, and the names of the labels.

    Images that cannot be opened, and boxes without area in their image, are skipped and counted.

    Args:
        augmentation: how training changes its images and boxes.
        seed: seed of the augmentation and of the training canvases.
        names: of the labels that a model knows, to score it.

    Raises:
        InputError: a file or column is missing, an object has no box or label, or a label is unknown.
    """
    change = None
    if augmentation is not None and augmentation != AugmentationArguments():
        change = Augmentation(augmentation, seed)
    if data.dataset == CANVASES:
        if change is not None:
            raise InputError(f"{CANVASES} draws new canvases in every epoch: remove the augmentation keys")
        return _canvases(data, seed), DIGITS
    loaded, names = read_coco(data, names) or read_rows(data, names)
    splits = {
        name: AnnotatedImages(
            *_checked(split, names, data.box_format, thorough=name != "train"),
            change if name == "train" else None,
        )
        for name, split in loaded.items()
    }
    if "train" not in splits:
        return splits, names
    if not any(image["annotations"] for image in splits["train"].annotations):
        where = loaded["train"].where
        raise InputError(f"{where}: no image has an object; check that the annotations are not empty")
    trained = _count_labels(splits["train"])
    for name, split in splits.items():
        if unseen := [names[label] for label in sorted(_count_labels(split).keys() - trained.keys())]:
            logger.warning("%s has labels that no training image shows: %s", name, ", ".join(unseen))
    return splits, names


def _canvases(data: DetectionArguments, seed: int) -> dict[str, DigitCanvases]:
    """Return images of digits on a canvas for each split. Only the training images depend on the seed."""
    limits = {name: getattr(data, f"max_{name}_samples") for name in data.splits}
    return {
        name: DigitCanvases(name, min(length, limits[name] or length), seed if name == "train" else 0)
        for name, length in CANVASES_IN_SPLIT.items()
        if name in limits
    }


def _count_labels(split: AnnotatedImages) -> Counter[int]:
    return Counter(item["category_id"] for image in split.annotations for item in image["annotations"])


def _checked(
    split: AnnotatedSplit, names: list[str], box_format: str, thorough: bool
) -> tuple[Images, list[dict[str, Any]]]:
    """Skip images and boxes that cannot be used, and return the other images and their annotations.

    Boxes that are meant for an image before it was turned or resized are turned and resized too.

    Args:
        thorough: decodes every image completely. Otherwise only its header is read.
    """
    fits, skipped = _fits(split, thorough)
    where = split.where
    if not fits:
        raise InputError(f"{where}: no image can be used{skipped}")
    objects = [item for index in fits for item in split.objects[index]]
    sizes = [fits[index].size for index in fits for _ in split.objects[index]]
    given = np.array([item["bbox"] for item in objects], dtype=np.float64).reshape(-1, 4)
    check_format(given, sizes, box_format, where)

    ids = {name: number for number, name in enumerate(names)}
    annotations, empty = [], 0
    for number, (index, how) in enumerate(fits.items()):
        items = split.objects[index]
        boxes = np.array([item["bbox"] for item in items], dtype=np.float64).reshape(-1, 4)
        corners = fitted(as_corners(boxes, box_format), how)
        growth = float(np.prod(how.upright) / np.prod(how.size)) if how.scales else 1.0
        kept = []
        for item, box in zip(items, corners):
            if item["category"] not in ids:
                meant = nearest(str(item["category"]), ids)
                raise InputError(
                    f"{item['where']}: the label {item['category']!r} does not occur in train{meant}"
                )
            sides = box[2:] - box[:2]
            if (sides <= 0).any():
                empty += 1
                continue
            area = growth * item["area"] if item["area"] and item["area"] > 0 else float(sides.prod())
            kept.append({"bbox": [*box[:2].tolist(), *sides.tolist()], "category_id": ids[item["category"]]})
            kept[-1] |= {"area": area, "iscrowd": item["iscrowd"]}
        facts = {key: value for key, value in split.facts[index].items() if key != "size"}
        width, height = how.upright
        annotations.append({**facts, "image_id": number, "size": (height, width), "annotations": kept})
    if empty:
        logger.warning("%s: skipped %d boxes without area", where, empty)
    if len(fits) == len(split.objects):
        return split.images, annotations
    return Subset(split.images, list(fits)), annotations  # type: ignore[arg-type]  # it takes any sequence


def _fits(split: AnnotatedSplit, thorough: bool) -> tuple[dict[int, Fit], str]:
    """Return, for the index of each image that can be used, how its boxes fit it, and why others cannot.

    Images that cannot be used, and those whose boxes change, are counted.
    """
    fits: dict[int, Fit] = {}
    unreadable, strange, first, odd = 0, 0, "", ""
    for index, (stored, fact) in enumerate(zip(split.images, split.facts)):
        try:
            image = open_image(stored)
            if thorough:
                to_rgb(image)
            how = fit(image, fact.get("size"))
        except UNREADABLE as error:
            unreadable += 1
            first = first or f" (the first is image {index}: {error})"
            continue
        if how is None:
            strange += 1
            width, height = upright_size(image)
            name = fact.get("file_name") or index
            stated = "{:g} x {:g}".format(*fact["size"])
            odd = odd or f" (the first is {name}, {width} x {height} pixels, where the data say {stated})"
            continue
        fits[index] = how
    where = split.where
    if unreadable:
        logger.warning("%s: skipped %d images that cannot be opened%s", where, unreadable, first)
    if strange:
        logger.warning("%s: skipped %d images of another shape than the data say%s", where, strange, odd)
    if turned := sum(how.turn > 1 for how in fits.values()):
        logger.warning("%s: turned the boxes of %d images, as EXIF turns the images", where, turned)
    if scaled := sum(how.scales for how in fits.values()):
        logger.warning("%s: scaled the boxes of %d images that were resized after annotation", where, scaled)
    return fits, first or odd


def warn_crowded(splits: Mapping[str, AnnotatedImages | DigitCanvases], queries: int) -> None:
    """Warn about images with more objects than the model has queries."""
    for name, split in splits.items():
        if isinstance(split, AnnotatedImages):
            counts = [len(image["annotations"]) for image in split.annotations]
            if crowded := sum(count > queries for count in counts):
                text = (
                    "%s: %d images have more objects than the model can find (num_queries=%d; the most is %d)"
                )
                logger.warning(text + "; raise model.num_queries", name, crowded, queries, max(counts))


# Batches


class DetectionCollator:
    """Make batches of pairs of an image and its annotation.

    `image_ids` `(batch,)` go to `detection_metrics` as the labels (`label_names`). The model ignores them.
    """

    def __init__(self, processor: VanillaTransformerImageProcessor) -> None:
        self.processor = processor

    def __call__(self, examples: Sequence[tuple[Image.Image, dict[str, Any]]]) -> dict[str, Any]:
        images, annotations = zip(*examples)
        batch = self.processor.preprocess(list(images), list(annotations), return_tensors="pt")
        ids = torch.tensor([annotation["image_id"] for annotation in annotations])
        return {**batch, "image_ids": ids}


def get_image_processor(data: DetectionArguments) -> VanillaTransformerImageProcessor:
    """Resize to `data.size`. Batches with images of different sizes are padded."""
    return VanillaTransformerImageProcessor(
        size=data.size, resample=Image.Resampling.BILINEAR, do_pad="height" not in data.size
    )


# Scores


def detection_metrics(
    processor: VanillaTransformerImageProcessor,
    annotations: Sequence[dict[str, Any]],
    names: Sequence[str],
    path: str | Path | None = None,
) -> Callable[..., dict[str, float]]:
    """A `compute_metrics` for `batch_eval_metrics=True`: COCO's numbers, and `map_50` of each label.

    It scores the best 100 detections of an image, as COCO does, or as many as an image has objects if those
    are more.

    Args:
        annotations: the annotations of the evaluation set, by image_id.
        names: the names of the labels.
        path: writes one line of JSON for each image to this file, batch by batch: its `image_id` and
            `file_name`, as the data have them (or its index in the split), the objects `found` with a score
            above `LEAST_SCORE`, and those that are `there`. Boxes are (left, top, right, bottom) in pixels.
    """
    from ..metrics import load_metric

    most = max(100, *(len(image["annotations"]) for image in annotations), 0)
    metric = load_metric("mean_average_precision", max_detections=most)
    if path:
        Path(path).unlink(missing_ok=True)

    def compute(prediction: Any, compute_result: bool) -> dict[str, float]:
        logits, boxes = (output.detach().cpu().float() for output in prediction.predictions)
        images = prediction.label_ids.tolist()
        found = processor.post_process_object_detection(
            SimpleNamespace(logits=logits, pred_boxes=boxes),
            threshold=0.0,
            top_k=most,
            target_sizes=[annotations[image]["size"] for image in images],
        )
        truth = [_reference(annotations[image]["annotations"]) for image in images]
        metric.add_batch(predictions=found, references=truth)
        if path:
            with open(path, "a", encoding="utf-8") as file:
                for image, *sides in zip(images, found, truth):
                    seen, there = (_as_json(side, names) for side in sides)
                    fact = annotations[image]
                    line = {"image_id": fact.get("id", image)}
                    line |= {key: fact[key] for key in ("file_name",) if key in fact}
                    line |= {"found": seen, "there": there}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if not compute_result:
            return {}
        scores = metric.compute()
        by_label = scores.pop("map_50_per_class")
        del scores["map_per_class"]
        return scores | {f"map_50_{names[label]}": score for label, score in by_label.items()}

    return compute


def _as_json(objects: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    scores = objects.get("scores")
    lines = []
    for index, (label, box) in enumerate(zip(objects["labels"], objects["boxes"])):
        line: dict[str, Any] = {"label": names[int(label)], "box": [round(float(side), 1) for side in box]}
        if scores is not None:
            line["score"] = round(float(scores[index]), 4)
            if line["score"] <= LEAST_SCORE:  # the highest scores come first
                break
        lines.append(line)
    return lines


def _reference(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """One image's objects as a reference of `mean_average_precision`."""
    boxes = np.array([item["bbox"] for item in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "boxes": boxes,
        "labels": [item["category_id"] for item in objects],
        "area": [item["area"] for item in objects],
        "iscrowd": [item["iscrowd"] for item in objects],
    }
