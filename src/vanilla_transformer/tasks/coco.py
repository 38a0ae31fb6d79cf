"""Read COCO's JSON: images, annotations and categories, with the oddities that annotation tools write."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import AnnotatedSplit, DetectionArguments, four_numbers, is_crowd, number_or_none, size_or_none
from .images import FileInFolder, StoredImage
from .settings import InputError
from .sources import check_splits, matching_files

logger = logging.getLogger(__name__)


def read_coco(
    data: DetectionArguments, names: list[str] | None = None
) -> tuple[dict[str, AnnotatedSplit], list[str]] | None:
    """Return the splits and the names of the labels, without opening the images; None if it is not COCO's.

    Args:
        names: of the labels that a model knows; by default the categories of the first file.

    Raises:
        InputError: a file is not in COCO's format; the message names the file and the entry.
    """
    check_splits(data)
    paths = {
        name: [path for pattern in getattr(data, f"{name}_file") for path in matching_files(name, pattern)]
        for name in data.splits
        if getattr(data, f"{name}_file")
    }
    wholes = {path: _whole(path) for path in dict.fromkeys(path for some in paths.values() for path in some)}
    if not wholes or None in wholes.values():
        return None
    loaded: dict[str, AnnotatedSplit] = {}
    names = list(names or ())
    for name, files in paths.items():
        if len(files) > 1:
            raise InputError(f"{name}_file: give one COCO JSON file for each split, not {', '.join(files)}")
        whole, path = wholes[files[0]], files[0]
        assert whole is not None  # as tested above
        categories = _categories(whole, path)
        names = names or list(dict.fromkeys(categories[key] for key in sorted(categories, key=_order)))
        folder = Path(getattr(data, f"{name}_images") or Path(path).parent)
        split = _split(whole, categories, path, folder, data)
        limit = getattr(data, f"max_{name}_samples")
        loaded[name] = AnnotatedSplit(split.images[:limit], split.objects[:limit], split.facts[:limit], path)
    return loaded, names


def _whole(path: str) -> dict[str, Any] | None:
    """Return the content of a file that is one JSON object with COCO's keys, and not JSON lines."""
    if Path(path).suffix.lower() != ".json":
        return None
    try:
        with open(path, encoding="utf-8-sig") as file:
            whole = json.load(file)
    except (ValueError, RecursionError):  # JSON lines, or damaged: the reader of tables says what is wrong
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return whole if isinstance(whole, dict) and {"images", "annotations"} <= whole.keys() else None


def _entries(whole: dict[str, Any], key: str, path: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the place, for errors, and the content of each entry of a list."""
    if key not in whole:
        raise InputError(f"{path}: not in COCO's format: the key {key!r} is missing")
    if not isinstance(whole[key], list):
        raise InputError(f"{path}: not in COCO's format: {key!r} is {_kind(whole[key])}, not a list")
    entries = []
    for number, entry in enumerate(whole[key]):
        where = f"{path}, {_singular(key)} {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: not in COCO's format: it is {_kind(entry)}, not an object")
        entries.append((where, entry))
    return entries


def _singular(key: str) -> str:
    return "category" if key == "categories" else key.removesuffix("s")


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:60]}"


def _id(entry: dict[str, Any], key: str, where: str) -> Any:
    """Return an id. The text "7" and 7.0 equal the number 7."""
    value = entry.get(key)
    if key not in entry:
        raise InputError(f"{where}: not in COCO's format: the key {key!r} is missing")
    if isinstance(value, str) and value.isdecimal() and value == str(int(value)):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{where}: {key!r} is {_kind(value)}, not a number or text")
    return value


def _order(key: int | str) -> tuple[bool, int, str]:
    return (True, 0, key) if isinstance(key, str) else (False, key, "")


def _categories(whole: dict[str, Any], path: str) -> dict[Any, str]:
    """Return id -> name. A category without a name has its id as its name."""
    categories: dict[Any, str] = {}
    for where, entry in _entries(whole, "categories", path):
        key, name = _id(entry, "id", where), entry.get("name")
        name = key if name is None else name
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise InputError(f"{where}: 'name' is {_kind(name)}, not text")
        if categories.setdefault(key, str(name)) != str(name):
            raise InputError(f"{where}: the id {key!r} has two names, {categories[key]!r} and {str(name)!r}")
    for name, count in Counter(categories.values()).items():
        if count > 1:
            logger.warning("%s: %d categories have the name %r; they are one label", path, count, name)
    return categories


def _split(
    whole: dict[str, Any], categories: dict[Any, str], path: str, folder: Path, data: DetectionArguments
) -> AnnotatedSplit:
    images: dict[Any, StoredImage] = {}
    facts: dict[Any, dict[str, Any]] = {}
    for where, entry in _entries(whole, "images", path):
        key = _id(entry, "id", where)
        name = entry.get("file_name")
        if not isinstance(name, str):
            raise InputError(f"{where}: 'file_name' is {_kind(name)}, not text")
        if key in images:
            raise InputError(f"{where}: another image has the id {key!r} too")
        images[key] = folder / name if data.allow_outside_images else FileInFolder((folder,), name)
        size = size_or_none(entry.get("width"), entry.get("height"))
        facts[key] = {"id": entry["id"], "file_name": name} | ({"size": size} if size else {})
    objects: dict[Any, list] = {key: [] for key in images}
    drawn = 0
    for where, entry in _entries(whole, "annotations", path):
        image, category = (_id(entry, key, where) for key in ("image_id", "category_id"))
        for key, value, known in (("image_id", image, images), ("category_id", category, categories)):
            if value not in known:
                raise InputError(f"{where}: there is no {key} {value!r}")
        box = entry.get("bbox")
        if box is None or box == []:
            left, top, width, height = _box_around(entry.get("segmentation"), where)
            corners = data.box_format == "xyxy"
            box = [left, top, left + width, top + height] if corners else [left, top, width, height]
            drawn += 1
        objects[image].append(
            {
                "bbox": four_numbers(box, where),
                "category": categories[category],
                "area": number_or_none(entry.get("area")),
                "iscrowd": is_crowd(entry.get("iscrowd")),
                "where": where,
            }
        )
    if drawn:
        logger.warning("%s: %d annotations have no bbox; it is drawn around their segmentation", path, drawn)
    return AnnotatedSplit(list(images.values()), list(objects.values()), list(facts.values()), path)


def _box_around(segmentation: Any, where: str) -> list[float]:
    """Return (left, top, width, height) of polygons, or of a mask as run lengths.

    Raises:
        InputError: there is neither, or the run lengths are compressed.
    """
    try:
        if isinstance(segmentation, dict):
            return _box_around_mask(segmentation)
        polygons = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]
        points = np.concatenate(polygons)  # (points, 2)
        corner, opposite = points.min(0), points.max(0)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise InputError(
            f"{where}: the key 'bbox' is missing, and 'segmentation' has no polygon to draw a box around; "
            "give bbox: [left, top, width, height]"
        ) from error
    return [*corner.tolist(), *(opposite - corner).tolist()]


def _box_around_mask(mask: dict[str, Any]) -> list[float]:
    height, width = (int(side) for side in mask["size"])
    counts = np.asarray(mask["counts"], dtype=np.int64)  # of 0, of 1, of 0, ..., down the columns
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError("the run lengths do not fill the mask")
    ends = counts.cumsum()
    starts, lasts = ends[:-1:2], ends[1::2] - 1
    kept = lasts >= starts[: len(lasts)]
    starts, lasts = starts[: len(lasts)][kept], lasts[kept]
    left, right = starts.min() // height, lasts.max() // height
    over = starts // height != lasts // height  # a run over several columns touches top and bottom
    top = 0 if over.any() else (starts % height).min()
    bottom = height - 1 if over.any() else (lasts % height).max()
    return [float(left), float(top), float(right - left + 1), float(bottom - top + 1)]
