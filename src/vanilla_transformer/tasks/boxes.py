"""Read images and their boxes from COCO's JSON, from Parquet files or from the Hub."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets import ClassLabel
from datasets import Image as ImageFeature

from .images import FileInFolder, StoredImage
from .settings import InputError
from .sources import SPLITS, SourceArguments, load_rows, require_column

Objects = list[list[dict[str, Any]]]  # for each image, its objects: bbox, category (a name), area, iscrowd
Loaded = dict[str, tuple[Sequence[StoredImage], Objects, str]]  # split -> images, objects, source for errors


@dataclass
class DetectionArguments(SourceArguments):
    """Where images and boxes come from, and the size at which the model sees the images."""

    train_images: str | None = field(
        default=None,
        metadata={"help": "folder of the images of a COCO JSON train_file; by default the file's own folder"},
    )
    validation_images: str | None = field(default=None, metadata={"help": "as train_images, for validation"})
    test_images: str | None = field(default=None, metadata={"help": "as train_images, for the test"})
    image_column: str = field(default="image", metadata={"help": "column of the images"})
    allow_outside_images: bool = field(
        default=False,
        metadata={"help": "open images that a COCO JSON names outside the folder of the images"},
    )
    objects_column: str = field(
        default="objects", metadata={"help": "column of the objects: `bbox` and `category` of each"}
    )
    box_format: Literal["xywh", "xyxy"] = field(
        default="xywh",
        metadata={
            "help": "the four numbers of a box, in pixels: left, top, width, height (xywh) or left, top, "
            "right, bottom (xyxy). COCO's JSON has xywh"
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


def read_boxes(data: DetectionArguments) -> tuple[Loaded, list[str]]:
    """Return the splits that `data` names, and the names of the labels, without opening the images.

    Raises:
        InputError: a file or column is missing, or an object has no box or label.
    """
    files = [path for name in SPLITS for path in getattr(data, f"{name}_file") or ()]
    return _from_coco(data) if files and all(map(_is_coco, files)) else _from_rows(data)


def _is_coco(path: str) -> bool:
    """Return whether a file is one JSON object with COCO's keys, and not JSON lines."""
    if Path(path).suffix != ".json" or not Path(path).is_file():
        return False
    with open(path, encoding="utf-8") as file:
        try:
            whole = json.load(file)
        except ValueError:
            return False
    return isinstance(whole, dict) and {"images", "annotations"} <= whole.keys()


def _from_coco(data: DetectionArguments) -> tuple[Loaded, list[str]]:
    loaded: Loaded = {}
    names: list[str] = []
    for name in SPLITS:
        paths = getattr(data, f"{name}_file")
        if not paths:
            continue
        if len(paths) > 1:
            raise InputError(f"{name}_file: give one COCO JSON file for each split, not {', '.join(paths)}")
        with open(paths[0], encoding="utf-8") as file:
            whole = json.load(file)
        folder = Path(getattr(data, f"{name}_images") or Path(paths[0]).parent)
        try:
            categories = {category["id"]: category["name"] for category in whole["categories"]}
            file_names = {image["id"]: image["file_name"] for image in whole["images"]}
            images: dict[Any, StoredImage] = {
                key: folder / name if data.allow_outside_images else FileInFolder(folder, name)
                for key, name in file_names.items()
            }
            items = [(item["image_id"], item["category_id"], item) for item in whole["annotations"]]
        except KeyError as error:
            raise InputError(f"{paths[0]}: not in COCO's format: the key {error} is missing") from error
        except TypeError as error:
            raise InputError(f"{paths[0]}: not in COCO's format: {error}") from error
        objects: dict[Any, list] = {image: [] for image in images}
        for number, (image, category, item) in enumerate(items):
            for key, value, known in (("image_id", image, images), ("category_id", category, categories)):
                if value not in known:
                    raise InputError(f"{paths[0]}, annotation {number}: there is no {key} {value!r}")
            objects[image].append({**item, "category": categories[category]})
        names = names or [categories[key] for key in sorted(categories)]
        limit = getattr(data, f"max_{name}_samples")
        loaded[name] = list(images.values())[:limit], list(objects.values())[:limit], paths[0]
    return loaded, names


def _from_rows(data: DetectionArguments) -> tuple[Loaded, list[str]]:
    loaded: Loaded = {}
    names: list[str] | None = None
    for name, (rows, where) in load_rows(data).items():
        for key in ("image_column", "objects_column"):
            require_column(rows.column_names, getattr(data, key), key, where)
        objects = [_as_list(image, where) for image in rows[data.objects_column]]
        if names is None:
            names = _label_names(rows.features[data.objects_column], objects, where)
        for item in (item for image in objects for item in image):
            if not isinstance(item["category"], str) and 0 <= item["category"] < len(names):
                item["category"] = names[item["category"]]
            if data.box_format == "xyxy":
                left, top, right, bottom = item["bbox"]
                item["bbox"] = [left, top, right - left, bottom - top]
        images = rows.select_columns(data.image_column)
        images = images.cast_column(data.image_column, ImageFeature(decode=False))[data.image_column]
        loaded[name] = images, objects, where
    return loaded, names or []


def _as_list(objects: Any, where: str) -> list[dict[str, Any]]:
    """One dictionary for each object. `datasets` returns these, or one dictionary of lists."""
    if isinstance(objects, dict):
        objects = [dict(zip(objects, values)) for values in zip(*objects.values())]
    for item in objects:
        if "category" not in item and "category_id" in item:
            item["category"] = item["category_id"]
        if not {"bbox", "category"} <= item.keys():
            raise InputError(f"{where}: an object needs `bbox` and `category`, but has {', '.join(item)}")
    return list(objects)


def _label_names(feature: Any, objects: Objects, where: str) -> list[str]:
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
    return [str(number) for number in range(max(found) + 1)]
