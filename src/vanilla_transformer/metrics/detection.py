"""Metrics of object detection, by COCO's protocol and its own program, pycocotools."""

import contextlib
import io
from collections import defaultdict

import evaluate
import numpy as np
from datasets import Features, List, Value
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .offline import OfflineMetric

BOXES = List(List(Value("float64"), length=4))
FOUND = {"boxes": BOXES, "scores": List(Value("float64")), "labels": List(Value("int64"))}
TRUE = {"boxes": BOXES, "labels": List(Value("int64"))}

# What COCO calls its twelve numbers, in the order of its `stats`.
SUMMARY = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)


class MeanAveragePrecision(OfflineMetric):
    """COCO's mean average precision: `map` over IoU .50, .55, … .95, `map_50`, `map_75`, its ten fellows, and
    `map_per_class`, `map_50_per_class` by label.

    Each batch is matched to the truth as it comes, and only scores and verdicts are kept: neither pixels nor
    boxes of what was seen before. Boxes are (left, top, right, bottom) in pixels, for COCO's small, medium
    and large are in pixels too. A number that nothing stands for, such as `map_small` without small objects,
    is -1, as with COCO.

    Predictions have `boxes`, `scores` and `labels` for each image; of each label the best hundred count.
    References have `boxes`, `labels` and, if there are any, `iscrowd`, boxes around many objects that were
    not told apart, and `area`, where that is not the box's.
    """

    name = "mean_average_precision"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.num_process > 1:
            raise ValueError(
                "mean_average_precision counts what it is given: gather the batches, num_process=1"
            )
        self._forget()

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
            inputs_description="predictions: boxes, scores, labels; references: boxes, labels",
            features=Features({"predictions": FOUND, "references": TRUE}),
            reference_urls=["https://cocodataset.org/#detection-eval"],
        )

    def _forget(self):
        self.images = 0
        self.verdicts = defaultdict(dict)  # (label, area range) -> {image: what pycocotools found there}

    def __len__(self):
        return self.images

    # `evaluate` adds to the docstrings of these three, so that each has one.

    def add(self, *, prediction=None, reference=None, **kwargs):
        """One image."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Match the images of a batch, and keep the verdicts."""
        if kwargs:
            raise ValueError(f"{self.name} has no input {sorted(kwargs)}, only predictions and references")
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions, but {len(references)} references")
        numbers = range(self.images, self.images + len(references))
        truth, found = [], []
        for image, reference, prediction in zip(numbers, references, predictions):
            crowds = _column(reference, "iscrowd", np.zeros(len(reference["labels"])))
            objects = _objects(image, reference, iscrowd=crowds)
            for one, area in zip(objects, _column(reference, "area", [one["area"] for one in objects])):
                truth.append(one | {"area": float(area)})
            found += _objects(image, prediction, score=prediction["scores"])
        scorer = _scorer(numbers, truth, found)
        scorer.params.imgIds = list(numbers)
        scorer.params.catIds = sorted({one["category_id"] for one in truth + found})
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            scorer.evaluate()
        for verdict in filter(None, scorer.evalImgs):
            key = verdict["category_id"], tuple(verdict["aRng"])
            self.verdicts[key][verdict["image_id"]] = {
                "dtScores": np.array(verdict["dtScores"]),
                "dtMatches": verdict["dtMatches"] > 0,
                "dtIgnore": verdict["dtIgnore"].astype(bool),
                "gtIgnore": verdict["gtIgnore"].astype(bool),
            }
        self.images += len(references)

    def compute(self, *, predictions=None, references=None, **kwargs):
        """As any metric's; takes no options, and forgets all batches."""
        if kwargs:
            raise TypeError(f"{self.name} has no option {sorted(kwargs)}")
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if not self.images:
            raise ValueError(f"{self.name} has nothing to score: no images were given")
        scorer = _scorer(range(self.images), [], [])
        settings = scorer.params
        settings.imgIds = list(range(self.images))
        labels = settings.catIds = sorted({int(label) for label, _ in self.verdicts})
        scorer.evalImgs = [
            self.verdicts[label, tuple(area)].get(image)
            for label in settings.catIds
            for area in settings.areaRng
            for image in settings.imgIds
        ]
        scorer._paramsEval = settings
        self._forget()
        if not settings.catIds:  # nothing was there and nothing was found
            return dict.fromkeys(SUMMARY, -1.0) | {"map_per_class": {}, "map_50_per_class": {}}
        with contextlib.redirect_stdout(io.StringIO()):
            scorer.accumulate()
            scorer.summarize()
        precision = scorer.eval["precision"][..., 0, -1]  # (IoU, recall, label), all areas, 100 detections
        there = [index for index in range(len(labels)) if (precision[..., index] > -1).any()]
        return dict(zip(SUMMARY, scorer.stats.tolist())) | {
            "map_per_class": {labels[index]: float(precision[..., index].mean()) for index in there},
            "map_50_per_class": {labels[index]: float(precision[0, :, index].mean()) for index in there},
        }


def _column(values: dict, name: str, default):
    return default if values.get(name) is None else np.asarray(values[name])


def _objects(image: int, given: dict, **columns) -> list[dict]:
    """Boxes of one image as COCO's annotations; ids are left to `_scorer`."""
    boxes = np.asarray(given["boxes"], dtype=np.float64).reshape(-1, 4)
    labels = np.asarray(given["labels"])
    for name, column in {"labels": labels, **columns}.items():
        if len(column) != len(boxes):
            raise ValueError(f"image {image} has {len(boxes)} boxes, but {len(column)} of {name}")
    objects = []
    for box, label, *rest in zip(boxes, labels, *columns.values()):
        left, top, right, bottom = box.tolist()
        width, height = right - left, bottom - top
        objects.append(
            {"image_id": image, "category_id": int(label), "bbox": [left, top, width, height]}
            | {"area": width * height, **{name: float(value) for name, value in zip(columns, rest)}}
        )
    return objects


def _scorer(images: range, truth: list[dict], found: list[dict]) -> COCOeval:
    sides = []
    for objects in (truth, found):
        side = COCO()
        annotations = [{"iscrowd": 0, **one, "id": number} for number, one in enumerate(objects, start=1)]
        labels = {one["category_id"] for one in objects}
        side.dataset = {
            "images": [{"id": image} for image in images],
            "annotations": annotations,
            "categories": [{"id": label} for label in labels],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            side.createIndex()
        sides.append(side)
    return COCOeval(*sides, iouType="bbox")
