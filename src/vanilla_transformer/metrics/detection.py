"""Mean average precision of object detection, computed by COCO's own program, pycocotools."""

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .offline import OfflineMetric, checked_options

BOXES = List(List(Value("float64"), length=4))
FOUND = {"boxes": BOXES, "scores": List(Value("float64")), "labels": List(Value("int64"))}
TRUE = {"boxes": BOXES, "labels": List(Value("int64"))}

# The names of COCO's twelve numbers, in the order of its `stats`.
SUMMARY = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
    *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
)


class MeanAveragePrecision(OfflineMetric):
    """COCO's mean average precision: `map` over IoU .50, .55, … .95, and COCO's eleven other numbers.

    `map_per_class` and `map_50_per_class` are dictionaries from label to score. A number that has no objects
    to score, such as `map_small` without small objects, is -1, as in COCO.

    Predictions have `boxes`, `scores` and `labels` for each image; COCO takes the 100 best boxes of each
    label, this class the best `max_detections`, also for `mar_100`. References have `boxes` and `labels`.
    They can have `iscrowd`, which marks a box around a group of objects, and `area`, if it differs from the
    box's. Boxes are (left, top, right, bottom) in pixels, because COCO's sizes small, medium and large are.

    `add_batch` matches boxes at once and keeps only scores and matches, so memory does not grow with the
    number of pixels.
    """

    name = "mean_average_precision"

    def __init__(self, max_detections: int = 100, **kwargs: Any):
        super().__init__(**kwargs)
        if max_detections < 100:
            raise ValueError(f"{max_detections=} must be at least 100")
        self.max_detections = max_detections
        if self.num_process > 1:
            raise ValueError(
                "mean_average_precision needs num_process=1: gather the batches of all processes first"
            )
        self._reset()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
            inputs_description="predictions: boxes, scores, labels; references: boxes, labels",
            features=Features({"predictions": FOUND, "references": TRUE}),
            reference_urls=["https://cocodataset.org/#detection-eval"],
        )

    def _reset(self) -> None:
        self.images = 0
        # (label, area range) -> {image: pycocotools' matches of this image}
        self.matches: dict[tuple[int, tuple[float, ...]], dict[int, dict]] = defaultdict(dict)

    def __len__(self) -> int:
        return self.images

    # `evaluate` extends the docstrings of these three methods, so each needs one.

    def add(self, *, prediction: dict | None = None, reference: dict | None = None, **kwargs: Any) -> None:
        """Add one image."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def add_batch(
        self, *, predictions: Sequence[Any] = (), references: Sequence[Any] = (), **kwargs: Any
    ) -> None:
        """Match the boxes of a batch of images, and keep the matches."""
        checked_options(self.name, kwargs, ("predictions", "references"))
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions, but {len(references)} references")
        numbers = range(self.images, self.images + len(references))
        truth: list[dict] = []
        found: list[dict] = []
        for image, reference, prediction in zip(numbers, references, predictions):
            crowds = _column(reference, "iscrowd", np.zeros(len(reference["labels"])))
            objects = _objects(image, reference, iscrowd=crowds)
            for one, area in zip(objects, _column(reference, "area", [one["area"] for one in objects])):
                truth.append(one | {"area": float(area)})
            found += _objects(image, prediction, score=prediction["scores"])
        scorer = _scorer(numbers, truth, found)
        scorer.params.imgIds = list(numbers)
        scorer.params.maxDets = [1, 10, self.max_detections]
        scorer.params.catIds = sorted({one["category_id"] for one in truth + found})
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            scorer.evaluate()
        for match in filter(None, scorer.evalImgs):
            key = match["category_id"], tuple(match["aRng"])
            self.matches[key][match["image_id"]] = {
                "dtScores": np.array(match["dtScores"]),
                "dtMatches": match["dtMatches"] > 0,
                "dtIgnore": match["dtIgnore"].astype(bool),
                "gtIgnore": match["gtIgnore"].astype(bool),
            }
        self.images += len(references)

    def compute(
        self, *, predictions: Sequence[Any] = (), references: Sequence[Any] = (), **kwargs: Any
    ) -> dict[str, Any]:
        """Return the scores of all images added so far, and start again. Takes no options."""
        self.add_batch(predictions=predictions, references=references, **kwargs)
        if not self.images:
            raise ValueError(f"{self.name} has nothing to score: add images first")
        scorer = _scorer(range(self.images), [], [])
        settings = scorer.params
        settings.imgIds = list(range(self.images))
        settings.maxDets = [1, 10, self.max_detections]
        labels = settings.catIds = sorted({int(label) for label, _ in self.matches})
        scorer.evalImgs = [
            self.matches[label, tuple(area)].get(image)
            for label in settings.catIds
            for area in settings.areaRng
            for image in settings.imgIds
        ]
        scorer._paramsEval = settings
        self._reset()
        if not settings.catIds:  # no objects and no predictions
            return dict.fromkeys(SUMMARY, -1.0) | {"map_per_class": {}, "map_50_per_class": {}}
        with contextlib.redirect_stdout(io.StringIO()):
            scorer.accumulate()
            scorer.summarize()
        precision = scorer.eval["precision"][..., 0, -1]  # (IoU, recall, label), all areas, most detections
        scorer.stats[0] = precision[precision > -1].mean() if (precision > -1).any() else -1
        scored = [index for index in range(len(labels)) if (precision[..., index] > -1).any()]
        return dict(zip(SUMMARY, scorer.stats.tolist())) | {
            "map_per_class": {labels[index]: float(precision[..., index].mean()) for index in scored},
            "map_50_per_class": {labels[index]: float(precision[0, :, index].mean()) for index in scored},
        }


def _column(values: dict, name: str, default: Any) -> Any:
    return default if values.get(name) is None else np.asarray(values[name])


def _objects(image: int, values: dict, **columns: Any) -> list[dict]:
    """Return the boxes of one image as COCO annotations without ids; `_scorer` adds those."""
    boxes = np.asarray(values["boxes"], dtype=np.float64).reshape(-1, 4)
    labels = np.asarray(values["labels"])
    for name, column in {"labels": labels, **columns}.items():
        if len(column) != len(boxes):
            raise ValueError(f"image {image} has {len(boxes)} boxes but {len(column)} values in {name!r}")
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
    """Return pycocotools' scorer of these annotations and predictions."""
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
