"""Read images and their boxes from COCO's JSON, from Parquet files or from the Hub."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from datasets import ClassLabel, Dataset

from .images import StoredImage, StoredImageArguments, with_paths
from .settings import InputError
from .sources import load_rows, require_column

MOST_LABELS = 10_000  # of labels without names


class AnnotatedSplit(NamedTuple):
    """What the data say about a split, before an image is opened.

    Args:
        objects: for each image, its objects: `bbox` as the data have it (four numbers), `category` (a name),
            `area` and `iscrowd`, and `where` the object is stated, for errors.
        facts: for each image what the data say of it: `id`, `file_name`, and `size`, (width, height).
        where: the source, for messages.
    """

    images: Sequence[StoredImage]
    objects: list[list[dict[str, Any]]]
    facts: list[dict[str, Any]]
    where: str


@dataclass
class DetectionArguments(StoredImageArguments):
    """Where images and boxes come from, and the size at which the model sees the images."""

    dataset: str | None = field(default=None, metadata={"help": "Hub name, or digits-detection (canvases)"})
    train_images: str | None = field(
        default=None,
        metadata={"help": "folder of the images of a COCO JSON train_file; by default the file's own folder"},
    )
    validation_images: str | None = field(default=None, metadata={"help": "as train_images, for validation"})
    test_images: str | None = field(default=None, metadata={"help": "as train_images, for the test"})
    objects_column: str = field(
        default="objects", metadata={"help": "column of the objects: `bbox` and `category` of each"}
    )
    box_format: Literal["xywh", "xyxy"] = field(
        default="xywh",
        metadata={
            "help": "the four numbers of a box, in pixels: left, top, width, height (xywh) or left, top, "
            "right, bottom (xyxy)"
        },
    )
    image_height: int | None = field(
        default=None, metadata={"help": "in pixels: resize all images to image_height and image_width"}
    )
    image_width: int | None = field(default=None, metadata={"help": "in pixels, with image_height"})
    shortest_edge: int = field(
        default=480,
        metadata={"help": "in pixels: without image_height, resize the shorter side to this ..."},
    )
    longest_edge: int = field(
        default=800, metadata={"help": "... or the longer side to this, if it would be longer"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.image_height is None) != (self.image_width is None):
            raise InputError("image_height and image_width belong together: set both or none")
        for name in ("image_height", "image_width", "shortest_edge", "longest_edge"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if self.streaming:
            raise InputError("streaming: all boxes are checked before training; set streaming to false")

    @property
    def size(self) -> dict[str, int]:
        """The `size` of an image processor."""
        if self.image_height and self.image_width:
            return {"height": self.image_height, "width": self.image_width}
        return {"shortest_edge": self.shortest_edge, "longest_edge": self.longest_edge}


def four_numbers(box: Any, where: str) -> list[float]:
    """Return a box as four numbers. Numbers may be written as text.

    Raises:
        InputError: it is something else; the message starts with `where`.
    """
    try:
        numbers = [float(side) for side in box]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != 4 or isinstance(box, str | dict) or not all(map(math.isfinite, numbers)):
        raise InputError(f"{where}: a box has four finite numbers, not {str(box)[:80]}")
    return numbers


def number_or_none(value: Any) -> float | None:
    """Return a finite number, which may be written as text, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_crowd(value: Any) -> int:
    """Return 1 if the value says that a box is around a group: 1, true, or these as text. Otherwise 0."""
    return int(str(value).strip().lower() in ("1", "1.0", "true"))


def size_or_none(width: Any, height: Any) -> tuple[float, float] | None:
    """Return the (width, height) that the data state, or None if they state none that can be."""
    sides = number_or_none(width), number_or_none(height)
    return sides if all(side is not None and side > 0 for side in sides) else None  # type: ignore[return-value]


def read_rows(
    data: DetectionArguments, names: list[str] | None = None
) -> tuple[dict[str, AnnotatedSplit], list[str]]:
    """Return the splits of a table or of the Hub, and the names of the labels, without opening the images.

    Args:
        names: of the labels that a model knows; by default those of the first split.

    Raises:
        InputError: a file or column is missing, or an object has no box or label.
    """
    loaded: dict[str, AnnotatedSplit] = {}
    for name, (rows, where) in load_rows(data).items():
        for key in ("image_column", "objects_column"):
            require_column(rows.column_names, getattr(data, key), key, where)
        listed = rows[data.objects_column]
        objects = [_as_list(image, f"{where}, image {index}") for index, image in enumerate(listed)]
        if names is None:
            names = _label_names(rows.features[data.objects_column], objects, where)
        for item in (item for image in objects for item in image):
            if isinstance(item["category"], int) and 0 <= item["category"] < len(names):
                item["category"] = names[item["category"]]
        rows = with_paths(rows, where, data, name)
        loaded[name] = AnnotatedSplit(rows[data.image_column], objects, _facts(rows, data), where)
    return loaded, names or []


def _facts(rows: Dataset, data: DetectionArguments) -> list[dict[str, Any]]:
    """Return what the columns `image_id`, `width` and `height` say, and the names of the files."""
    other = [name for name in ("image_id", "width", "height") if name in rows.column_names]
    facts = []
    values = rows.select_columns(other) if other else [{}] * len(rows)
    for row, image in zip(values, rows[data.image_column]):
        fact = {"id": row.get("image_id"), "size": size_or_none(row.get("width"), row.get("height"))}
        fact["file_name"] = (image or {}).get("path")
        facts.append({key: value for key, value in fact.items() if value is not None})
    return facts


def _as_list(objects: Any, where: str) -> list[dict[str, Any]]:
    """One dictionary for each object. `datasets` returns these, or one dictionary of lists."""
    if isinstance(objects, dict):
        columns = {key: values for key, values in objects.items() if values is not None}
        if not all(isinstance(values, list) for values in columns.values()):
            raise InputError(f"{where}: objects are a list of dictionaries, or a dictionary of lists")
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{key} {len(values)}" for key, values in columns.items())
            raise InputError(f"{where}: the lists of the objects differ in length: {lengths}")
        objects = [dict(zip(columns, values)) for values in zip(*columns.values())]
    if objects is None:
        return []
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        raise InputError(f"{where}: objects are a list of dictionaries, not {str(objects)[:80]}")
    return [_as_object(item, where) for item in objects]


def _as_object(item: dict[str, Any], where: str) -> dict[str, Any]:
    category = item.get("category", item.get("category_id"))
    if category is None or item.get("bbox") is None:
        raise InputError(f"{where}: an object needs `bbox` and `category`, but has {', '.join(item)}")
    if isinstance(category, float) and category.is_integer():
        category = int(category)
    if isinstance(category, bool) or not isinstance(category, str | int):
        raise InputError(f"{where}: the category of an object is text or a whole number, not {category!r}")
    return {
        "bbox": four_numbers(item["bbox"], where),
        "category": category,
        "area": number_or_none(item.get("area")),
        "iscrowd": is_crowd(item.get("iscrowd")),
        "where": where,
    }


def _label_names(feature: Any, objects: list[list[dict[str, Any]]], where: str) -> list[str]:
    """Return the declared names of the labels, or the sorted text labels, or the numbers 0 to the largest."""
    feature = getattr(feature, "feature", feature)  # of a list of objects
    label = feature.get("category", feature.get("category_id")) if isinstance(feature, dict) else None
    label = getattr(label, "feature", label)
    if isinstance(label, ClassLabel):
        return list(label.names)
    found = {item["category"] for image in objects for item in image}
    if not found:
        raise InputError(f"{where}: no image has an object; check that the annotations are not empty")
    if all(isinstance(category, str) for category in found):
        return sorted(found)
    numbers = [category for category in found if isinstance(category, int)]
    if len(numbers) < len(found):
        word = next(category for category in found if isinstance(category, str))
        raise InputError(
            f"{where}: the categories are numbers and text ({numbers[0]}, {word!r}); use one kind"
        )
    if min(numbers) < 0 or max(numbers) > MOST_LABELS:
        raise InputError(
            f"{where}: the category numbers are {min(numbers)} to {max(numbers)}; number them from 0, or "
            "give their names"
        )
    return [str(number) for number in range(max(numbers) + 1)]
