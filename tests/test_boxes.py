"""Boxes: the oddities of annotation tools, images turned or resized, and boxes in another format."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from vanilla_transformer.tasks.box_fitting import Fit, fitted
from vanilla_transformer.tasks.images import FileInFolder
from vanilla_transformer.tasks.object_detection import DetectionArguments, load_splits
from vanilla_transformer.tasks.settings import InputError

ORIENTATION = 0x0112  # of EXIF
BOX = [10, 5, 20, 12]


RUNS = [405, *[12, 28] * 19, 12, 1223]  # BOX as a mask of 40 x 60, down the columns


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def photo(path, size=(60, 40), orientation=1):
    """An image whose object, of 255, is in BOX of the stored pixels of 60 x 40."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[5:17, 10:30] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).resize(size).save(path, exif=exif)


def coco(folder, **changes):
    """Write COCO's JSON of one image and one box, with these changes; the values `...` are removed."""
    if not (folder / "1.png").exists():
        photo(folder / "1.png")
    image = {"id": 1, "file_name": "1.png", "width": 60, "height": 40}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 240, "iscrowd": 0}
    category = {"id": 1, "name": "lamp", "supercategory": "things"}
    parts = {"image": image, "annotation": annotation, "category": category}
    for name, part in parts.items():
        changed = part | changes.get(name, {})
        parts[name] = {key: value for key, value in changed.items() if value is not ...}
    whole = {
        "images": [parts["image"]],
        "annotations": [parts["annotation"]],
        "categories": [parts["category"]],
    }
    path = folder / "boxes.json"
    path.write_text(json.dumps(whole | changes.get("whole", {})))
    return str(path)


def load(path, **settings):
    splits, names = load_splits(DetectionArguments(train_file=[path], **settings))
    return splits["train"], names


@pytest.mark.parametrize(
    "changes",
    [
        {"image": {"id": "1"}},
        {"annotation": {"image_id": "1", "category_id": "1"}},
        {"annotation": {"image_id": 1.0, "category_id": 1.0}, "category": {"id": "1"}},
        {"image": {"id": 0}, "annotation": {"image_id": 0, "category_id": 0}, "category": {"id": 0}},
        {"image": {"id": "a-7"}, "annotation": {"image_id": "a-7"}},
        {"annotation": {"bbox": ["10", "5.0", "20", " 12"], "area": "240"}},
        {"annotation": {"area": None, "iscrowd": None}},
        {"annotation": {"area": ..., "iscrowd": ..., "id": ...}},
        {"annotation": {"iscrowd": False}},
        {"annotation": {"iscrowd": "0", "segmentation": {"counts": "abc", "size": [40, 60]}}},
        {"category": {"supercategory": ...}},
        {"image": {"width": ..., "height": ...}},
        {"image": {"width": None, "height": "?"}},
        {"image": {"width": "60", "height": 40.0}},
        {"annotation": {"bbox": ..., "segmentation": [[10, 5, 30, 5, 30, 17, 10, 17]]}},
        {"annotation": {"bbox": None, "segmentation": [[10, 5, 15, 5, 15, 17], [30, 5, 30, 17, 29, 9]]}},
        {
            "annotation": {
                "bbox": [],
                "segmentation": {"size": [40, 60], "counts": [405, *[12, 28] * 19, 12, 1223]},
            }
        },
    ],
    ids=str,
)
def test_oddities_of_annotation_tools_are_read(tmp_path, changes):
    split, names = load(coco(tmp_path, **changes))
    (read,) = split[0][1]["annotations"]
    assert read["bbox"] == BOX and read["area"] == 240 and read["iscrowd"] == 0 and names == ["lamp"]


@pytest.mark.parametrize("crowd", [1, True, "1", 1.0, "true"])
def test_crowds_are_stated_in_many_ways(tmp_path, crowd):
    split, _ = load(coco(tmp_path, annotation={"iscrowd": crowd}))
    assert split[0][1]["annotations"][0]["iscrowd"] == 1


@pytest.mark.parametrize("name", ["sub/1.png", "sub\\1.png", "./sub/../sub/1.png"])
def test_file_names_may_have_folders_and_backslashes(tmp_path, name):
    photo(tmp_path / "sub" / "1.png")
    split, _ = load(coco(tmp_path, image={"file_name": name}))
    assert split[0][1]["file_name"] == name and len(split) == 1


def test_categories_of_one_name_are_one_label_and_a_category_without_name_has_its_id(tmp_path, caplog):
    categories = [
        {"id": 4, "name": "b"},
        {"id": 1, "name": "a"},
        {"id": 2, "name": "b"},
        {"id": 3},
        {"id": 9, "name": 5},
    ]
    path = coco(tmp_path, whole={"categories": categories}, annotation={"category_id": 4})
    split, names = load(path)
    assert names == ["a", "b", "3", "5"] and split[0][1]["annotations"][0]["category_id"] == 1
    assert "2 categories have the name 'b'" in caplog.text


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"whole": {"images": {}}}, "'images' is dict"),
        ({"whole": {"annotations": None}}, "'annotations' is null"),
        ({"whole": {"annotations": [None]}}, "annotation 0: .* null"),
        ({"whole": {"annotations": [[1]]}}, "annotation 0: .* list"),
        ({"whole": {"images": ["1.png"]}}, "image 0: .* str"),
        ({"whole": {"categories": [5]}}, "category 0: .* int"),
        ({"image": {"id": [1]}}, "image 0: 'id' is list"),
        ({"image": {"id": {}}}, "image 0: 'id' is dict"),
        ({"image": {"id": True}}, "image 0: 'id' is bool"),
        ({"image": {"id": float("nan")}}, "image 0: 'id' is float"),
        ({"image": {"file_name": {"a": 1}}}, "image 0: 'file_name' is dict"),
        ({"image": {"file_name": ...}}, "image 0: 'file_name' is null"),
        ({"category": {"name": {"en": "lamp"}}}, "category 0: 'name' is dict"),
        ({"category": {"id": None}}, "category 0: 'id' is null"),
        ({"annotation": {"image_id": None}}, "annotation 0: 'image_id' is null"),
        ({"annotation": {"image_id": [1]}}, "annotation 0: 'image_id' is list"),
        ({"annotation": {"bbox": ...}}, "annotation 0: the key 'bbox' is missing"),
        (
            {"annotation": {"bbox": None, "segmentation": {"counts": "x", "size": [4, 6]}}},
            "annotation 0: the key",
        ),
        ({"annotation": {"bbox": None, "segmentation": [[1, 2, 3]]}}, "annotation 0: the key"),
        ({"annotation": {"bbox": [1, 2, 3]}}, "annotation 0: a box has four finite numbers"),
        ({"annotation": {"bbox": [1, [2], 3, 4]}}, "annotation 0: a box has four finite numbers"),
        ({"annotation": {"bbox": {"x": 1, "y": 2, "w": 3, "h": 4}}}, "annotation 0: a box has four"),
        ({"annotation": {"bbox": "1234"}}, "annotation 0: a box has four finite numbers"),
        ({"annotation": {"bbox": [1, 2, float("inf"), 4]}}, "annotation 0: a box has four finite numbers"),
        ({"whole": {"images": [{"id": 1, "file_name": "1.png"}] * 2}}, "image 1: another image has the id 1"),
        (
            {"whole": {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}},
            "category 1: .* two names",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_read_names_the_file_and_the_entry(tmp_path, changes, named):
    with pytest.raises(InputError, match=f"boxes.json.*{named}"):
        load(coco(tmp_path, **changes))


# Images that were turned or resized


def brightness(split):
    image, annotation = split[0]
    left, top, width, height = (round(side) for side in annotation["annotations"][0]["bbox"])
    pixels = np.asarray(image)
    assert pixels.shape[:2] == annotation["size"]
    inside = pixels[top : top + height, left : left + width]
    return inside.mean(), pixels.sum() - inside.sum(dtype=np.int64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff"])
def test_boxes_of_the_stored_image_turn_with_it(tmp_path, orientation, suffix, caplog):
    photo(tmp_path / f"a.{suffix}", orientation=orientation)
    image = {"file_name": f"a.{suffix}"}
    if orientation in (1, 5, 6, 7, 8):  # with others the sizes do not say for which image boxes are meant
        inside, outside = brightness(load(coco(tmp_path, image=image))[0])
        assert inside > 245 and outside < (1 if suffix != "jpg" else 60_000)
        assert ("turned the boxes of 1 images" in caplog.text) == (orientation > 4)
    if orientation == 6:  # the data mean the upright image, and say so or say nothing
        for size in ({"width": 40, "height": 60}, {"width": ..., "height": ...}):
            box = {"bbox": [40 - 5 - 12, 10, 12, 20]}
            assert brightness(load(coco(tmp_path, image=image | size, annotation=box))[0])[0] > 245


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_turn_as_pixels_do(orientation):
    turned = fitted(np.array([[10.0, 5.0, 30.0, 17.0]]), Fit((60, 40), (40, 60), orientation))
    assert (
        turned.shape == (1, 4)
        and (turned >= 0).all()
        and (turned[0, 2:] - turned[0, :2]).tolist() == [12, 20]
    )


@pytest.mark.parametrize("stated", [(60, 40), (120, 80), (30, 20), (90, 60)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_of_a_resized_image_are_scaled(tmp_path, stated, orientation, caplog):
    photo(tmp_path / "a.png", orientation=orientation)
    factor = stated[0] / 60
    changes = {"width": stated[0], "height": stated[1], "file_name": "a.png"}
    box = {"bbox": [side * factor for side in BOX], "area": 240 * factor**2}
    split, _ = load(coco(tmp_path, image=changes, annotation=box))
    assert brightness(split)[0] > 245
    assert split[0][1]["annotations"][0]["area"] == pytest.approx(240)
    assert ("scaled the boxes of 1 images" in caplog.text) == (factor != 1)


def test_images_of_another_shape_are_skipped_and_counted(tmp_path, caplog):
    photo(tmp_path / "2.png")
    images = [
        {"id": number, "file_name": f"{number}.png", "width": 60, "height": 20 + 20 * number}
        for number in (1, 2)
    ]
    split, _ = load(coco(tmp_path, whole={"images": images}))
    assert len(split) == 1
    assert "skipped 1 images of another shape" in caplog.text
    assert "2.png, 60 x 40 pixels, where the data say 60 x 60" in caplog.text


# Boxes in another format


def table(folder, boxes, **columns):
    photo(folder / "1.png")
    objects = [{"bbox": [list(map(float, box))], "category": [0]} for box in boxes]
    names = ["1.png"] * len(boxes)
    path = folder / "boxes.parquet"
    Dataset.from_dict({"image": names, "objects": objects, **columns}).to_parquet(path)
    return str(path)


CORNERS = [(30, 20, 50, 35), (5, 5, 25, 18), (20, 10, 58, 39)]
SIDES = [(left, top, right - left, bottom - top) for left, top, right, bottom in CORNERS]


def test_boxes_in_another_format_name_it(tmp_path):
    with pytest.raises(InputError, match="boxes.parquet: 2 of 3 boxes .* set box_format to xyxy"):
        load(table(tmp_path, CORNERS))
    with pytest.raises(InputError, match="boxes.parquet: 1 of 3 boxes .* set box_format to xywh"):
        load(table(tmp_path, SIDES), box_format="xyxy")
    read = [
        load(table(tmp_path, boxes), box_format=form)[0].annotations
        for boxes, form in ((CORNERS, "xyxy"), (SIDES, "xywh"))
    ]
    assert read[0] == read[1]
    whole = {"annotations": [{"image_id": 1, "category_id": 1, "bbox": box} for box in CORNERS]}
    with pytest.raises(InputError, match="boxes.json: .* set box_format to xyxy"):
        load(coco(tmp_path, whole=whole))
    split, _ = load(coco(tmp_path, whole=whole), box_format="xyxy")
    assert [item["bbox"] for item in split[0][1]["annotations"]] == [list(map(float, box)) for box in SIDES]


@pytest.mark.parametrize("form", ["xywh", "xyxy"])
def test_shares_of_the_image_raise(tmp_path, form):
    with pytest.raises(InputError, match="between 0 and 1.*box_format"):
        load(table(tmp_path, [(0.1, 0.2, 0.5, 0.5), (0.3, 0.3, 0.4, 1)]), box_format=form)


def test_some_boxes_beyond_the_image_are_cut_and_counted(tmp_path, caplog):
    split, _ = load(table(tmp_path, [*SIDES, (50, 30, 20, 5), (-4, 0, 10, 10)]))
    assert split[3][1]["annotations"][0]["bbox"] == [50, 30, 10, 5]
    assert "2 of 5 boxes reach beyond their image" in caplog.text


@pytest.mark.parametrize(
    "objects, named",
    [
        ([[{"bbox": [1.0, 2.0, 3.0], "category": 0}]], "image 0: a box has four"),
        ([[{"bbox": ["a", "b", "c", "d"], "category": 0}]], "image 0: a box has four"),
        ([[{"bbox": None, "category": 0}]], "image 0: an object needs"),
        ([[], [{"bbox": BOX, "category": None}]], "image 1: an object needs"),
        ([[{"bbox": BOX, "category": 0.5}]], "image 0: the category"),
        ([[{"bbox": BOX, "category": [0]}]], "image 0: the category"),
        ([{"bbox": [BOX, BOX], "category": [0]}], "image 0: the lists of the objects differ"),
        ([{"bbox": 7, "category": 0}], "image 0: objects are"),
        (["text"], "image 0: objects are"),
        ([7], "image 0: objects are"),
        ([[7]], "image 0: objects are"),
        ([[{"bbox": BOX, "category": 10**9}]], "number them from 0"),
        ([[{"bbox": BOX, "category": -1}]], "number them from 0"),
        ([[{"bbox": BOX, "category": "a"}], [{"bbox": BOX, "category": 3}]], "use one kind"),
    ],
    ids=str,
)
def test_objects_of_the_wrong_type_name_the_row(tmp_path, objects, named):
    photo(tmp_path / "1.png")
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"image": "1.png", "objects": one}) + "\n" for one in objects))
    with pytest.raises(InputError, match=f"a.jsonl.*{named}"):
        load(str(path))


@pytest.mark.parametrize("image", [7, True, {"path": "1.png"}, {"path": 7, "bytes": 8}, ["1.png"], None])
def test_a_column_that_holds_no_images_is_named(tmp_path, image):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"image": image, "objects": [{"bbox": BOX, "category": 0}]}))
    with pytest.raises(InputError, match="a.jsonl.*not images"):
        load(str(path))


# Which files may be opened


def test_a_file_must_be_in_its_folder(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    photo(tmp_path / "secret.png")
    photo(tmp_path / "in" / "sub" / "1.png")
    os.symlink(tmp_path / "secret.png", tmp_path / "in" / "link.png")
    os.symlink("circle.png", tmp_path / "in" / "circle.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    folder = (tmp_path / "in",)
    assert FileInFolder(folder, "sub/1.png").path() == tmp_path / "in" / "sub" / "1.png"
    for name in ("../secret.png", "..\\secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(OSError, match="is outside"):
            FileInFolder(folder, name).path()
    for name in ("pipe.png", "circle.png", "sub", "missing.png", "a" * 5000):
        with pytest.raises(OSError):
            FileInFolder(folder, name).path()


def test_names_in_a_table_are_relative_to_it_and_stay_in_its_folder(tmp_path, caplog):
    folder = tmp_path / "data"
    path = Path(table(folder, [BOX] * 3))
    photo(tmp_path / "secret.png")
    rows = Dataset.from_parquet(str(path)).to_list()
    for row, name in zip(rows, ("1.png", "../secret.png", str(tmp_path / "secret.png"))):
        row["image"] = name
    Dataset.from_list(rows).to_parquet(path)
    assert len(load(str(path))[0]) == 1
    assert "skipped 2 images outside their folder" in caplog.text and "allow_outside_images" in caplog.text
    assert len(load(str(path), allow_outside_images=True)[0]) == 3
