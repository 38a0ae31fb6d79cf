"""Object detection: reading images and boxes, batches, scores, and the recipe from data to pipeline()."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from launch import launch, run_recipe
from PIL import Image, ImageDraw
from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline

from vanilla_transformer import VanillaTransformerImageProcessor
from vanilla_transformer.corpora.digits import DigitCanvases
from vanilla_transformer.tasks.augmentation import AugmentationArguments
from vanilla_transformer.tasks.object_detection import (
    CANVASES,
    DetectionArguments,
    DetectionCollator,
    detection_metrics,
    get_image_processor,
    load_splits,
    warn_crowded,
)
from vanilla_transformer.tasks.settings import InputError

QUICKSTART = "recipes/object_detection/quickstart.yaml"


def photo(path: Path | None = None, mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    image = Image.new("RGB", size, "grey")
    ImageDraw.Draw(image).rectangle((10, 5, 29, 24), fill="white")
    image = image.convert(mode)
    if path:
        image.save(path)
    return image


def coco_json(folder: Path, annotations: list[dict], images: int = 2) -> str:
    for number in range(images):
        photo(folder / f"{number}.jpg")
    whole = {
        "images": [{"id": 10 + number, "file_name": f"{number}.jpg"} for number in range(images)],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "square"}, {"id": 3, "name": "round"}],
    }
    path = folder / "boxes.json"
    path.write_text(json.dumps(whole))
    return str(path)


def test_coco_json(tmp_path):
    boxes = [
        {"image_id": 10, "category_id": 7, "bbox": [10, 5, 20, 20], "area": 400, "iscrowd": 0},
        {"image_id": 10, "category_id": 3, "bbox": [50, 30, 20, 20]},  # half beyond the right border
        {"image_id": 10, "category_id": 3, "bbox": [70, 30, 20, 20]},  # completely beyond it
        {"image_id": 10, "category_id": 3, "bbox": [10, 10, 0, 5]},  # no width
        {"image_id": 11, "category_id": 7, "bbox": [0, 0, 60, 40], "iscrowd": 1},
    ]
    splits, names = load_splits(DetectionArguments(train_file=[coco_json(tmp_path, boxes)]))
    assert names == ["round", "square"]  # in the order of their ids
    image, annotation = splits["train"][0]
    assert image.mode == "RGB" and annotation["size"] == (40, 60) == image.size[::-1]
    kept = annotation["annotations"]
    assert [item["bbox"] for item in kept] == [[10, 5, 20, 20], [50, 30, 10, 10]]
    assert [item["category_id"] for item in kept] == [1, 0]
    assert [item["area"] for item in kept] == [400, 100]
    assert splits["train"][1][1]["annotations"][0]["iscrowd"] == 1


def rows(images: list, objects: list[dict], names=("a", "b")) -> Dataset:
    category = ClassLabel(names=list(names)) if names else Value("string")
    features = Features(
        {
            "image": ImageFeature(),
            "objects": {"bbox": List(List(Value("float32"), length=4)), "category": List(category)},
        }
    )
    return Dataset.from_dict({"image": images, "objects": objects}, features=features)


def parquet(path: Path, *columns, **options) -> list[str]:
    rows(*columns, **options).to_parquet(path)
    return [str(path)]


def encoded(image: Image.Image, path: Path, kind: str = "PNG") -> dict:
    image.save(path, kind)
    return {"bytes": path.read_bytes(), "path": None}


def test_parquet_with_every_kind_of_image(tmp_path, caplog):
    whole = encoded(photo(size=(300, 200)), tmp_path / "whole", "JPEG")
    broken = {"bytes": whole["bytes"][: len(whole["bytes"]) // 2], "path": None}
    kinds = [encoded(photo(mode="L"), tmp_path / "g"), encoded(photo(mode="CMYK"), tmp_path / "c", "JPEG")]
    kinds += [encoded(photo(mode="P"), tmp_path / "p"), {"bytes": b"no image", "path": None}, broken]
    square = {"bbox": [[10, 5, 20, 20]], "category": [1]}
    files = parquet(
        tmp_path / "a.parquet", kinds, [square, square, {"bbox": [], "category": []}, square, square]
    )
    splits, names = load_splits(DetectionArguments(train_file=files, validation_file=files))
    assert names == ["a", "b"]
    assert len(splits["train"]) == 4  # a truncated image is noticed only when it is decoded
    assert len(splits["validation"]) == 3
    assert "skipped 1 images" in caplog.text and "skipped 2 images" in caplog.text
    for image, annotation in (splits["validation"][index] for index in range(3)):
        assert image.mode == "RGB" and annotation["size"] == (40, 60)
    assert splits["train"][3][1]["image_id"] == 0  # the next one replaces the broken one
    assert "image 3 is broken" in caplog.text


def test_box_format_xyxy_reads_corners(tmp_path):
    image = encoded(photo(), tmp_path / "i")
    files = parquet(tmp_path / "a.parquet", [image], [{"bbox": [[10, 5, 30, 25]], "category": [0]}])
    splits, _ = load_splits(DetectionArguments(train_file=files, box_format="xyxy"))
    assert splits["train"][0][1]["annotations"][0]["bbox"] == [10, 5, 20, 20]


def test_labels_as_text_and_labels_missing_from_train(tmp_path, caplog):
    image = encoded(photo(), tmp_path / "i")

    def files(name, label, **options):
        objects = {"bbox": [[10, 5, 20, 20]], "category": [label]}
        return parquet(tmp_path / name, [image], [objects], **options)

    cats, cows = files("a.parquet", "cat", names=None), files("b.parquet", "cow", names=None)
    assert load_splits(DetectionArguments(train_file=cats))[1] == ["cat"]
    with pytest.raises(InputError, match="'cow' does not occur in train"):
        load_splits(DetectionArguments(train_file=cats, validation_file=cows))
    load_splits(DetectionArguments(train_file=files("c.parquet", 0), validation_file=files("d.parquet", 1)))
    assert "labels that no training image shows: b" in caplog.text  # declared, but without an example


def test_images_outside_the_folder_pipes_and_huge_images_are_skipped(tmp_path, caplog, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    photo(tmp_path / "secret.jpg")
    os.symlink(tmp_path / "secret.jpg", folder / "link.jpg")
    os.mkfifo(folder / "pipe.jpg")
    photo(folder / "large.png", size=(400, 300))
    monkeypatch.setattr("vanilla_transformer.tasks.images.MAX_PIXELS", 100_000)
    names = ["0.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "pipe.jpg", "large.png"]
    path = Path(coco_json(folder, [{"image_id": 10, "category_id": 7, "bbox": [10, 5, 20, 20]}], images=1))
    whole = json.loads(path.read_text())
    whole["images"] = [{"id": 10 + number, "file_name": name} for number, name in enumerate(names)]
    path.write_text(json.dumps(whole))
    splits, _ = load_splits(DetectionArguments(train_file=[str(path)]))
    assert len(splits["train"]) == 1
    assert "skipped 5 images" in caplog.text and "outside" in caplog.text
    splits, _ = load_splits(DetectionArguments(train_file=[str(path)], allow_outside_images=True))
    assert len(splits["train"]) == 4


def test_bad_data_raises(tmp_path):
    image = encoded(photo(), tmp_path / "i")
    square = {"bbox": [[10, 5, 20, 20]], "category": [0]}
    files = parquet(tmp_path / "a.parquet", [image], [square])
    with pytest.raises(InputError, match="image_column: .* has no column 'picture'"):
        load_splits(DetectionArguments(train_file=files, image_column="picture"))
    nothing = parquet(tmp_path / "b.parquet", [image], [{"bbox": [], "category": []}])
    with pytest.raises(InputError, match="no image has an object"):
        load_splits(DetectionArguments(train_file=nothing))
    infinite = parquet(tmp_path / "c.parquet", [image], [{**square, "bbox": [[0, 0, float("inf"), 1]]}])
    with pytest.raises(InputError, match="image 0: a box has four finite numbers"):
        load_splits(DetectionArguments(train_file=infinite))
    with pytest.raises(InputError, match="belong together"):
        DetectionArguments(train_file=files, image_height=100)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"annotations": [{"id": 1}]}, "not in COCO's format: the key 'image_id' is missing"),
        ({"annotations": [{"image_id": 5, "category_id": 1}]}, "annotation 0: there is no image_id 5"),
        ({"annotations": [{"image_id": 1, "category_id": 5}]}, "annotation 0: there is no category_id 5"),
        ({"categories": None}, "not in COCO's format: 'categories' is null, not a list"),
        ({"categories": ...}, "not in COCO's format: the key 'categories' is missing"),
    ],
)
def test_a_bad_coco_file_raises(tmp_path, changed, message):
    whole = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    whole = {key: value for key, value in (whole | changed).items() if value is not ...}
    (tmp_path / "boxes.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match=f"boxes.json.*{message}"):
        load_splits(DetectionArguments(train_file=[str(tmp_path / "boxes.json")]))


def test_augmentation_moves_boxes_with_the_image_and_depends_on_the_epoch(tmp_path):
    """The white square stays in its box."""
    image = encoded(photo(), tmp_path / "i")
    square = {"bbox": [[10, 5, 20, 20]], "category": [0]}
    files = parquet(tmp_path / "a.parquet", [image] * 30, [square] * 30)

    def load():
        augmentation = AugmentationArguments(flip=0.5, flip_vertical=0.5, crop=0.4)
        return load_splits(DetectionArguments(train_file=files), augmentation, seed=3)[0]["train"]

    train, views = load(), set()
    for index in range(30):
        changed, annotation = train[index]
        for box in (item["bbox"] for item in annotation["annotations"]):
            left, top, width, height = (round(side) for side in box)
            white = np.asarray(changed.convert("L")) > 200
            assert white.any()
            rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
            assert abs(rows[0] - top) <= 1 and abs(rows[-1] + 1 - top - height) <= 1
            assert abs(columns[0] - left) <= 1 and abs(columns[-1] + 1 - left - width) <= 1
            views.add((changed.size, *box))
    assert len(views) > 15
    again = load()
    assert all(again[index][1] == train[index][1] for index in range(30))
    again.set_epoch(1)
    assert any(again[index][1] != train[index][1] for index in range(30))


def test_canvases_refuse_augmentation():
    data = DetectionArguments(dataset=CANVASES, max_train_samples=2)
    assert len(load_splits(data)[0]["train"]) == 2
    with pytest.raises(InputError, match="draws new canvases in every epoch: remove"):
        load_splits(data, AugmentationArguments(flip=0.5))


def test_batches_of_one_size_and_padded_batches():
    canvases = DigitCanvases("train", 3)
    data = DetectionArguments(dataset=CANVASES, image_height=48, image_width=64)
    batch = DetectionCollator(get_image_processor(data))([canvases[index] for index in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 48, 64) and "pixel_mask" not in batch
    for index, label in enumerate(batch["labels"]):
        objects = canvases[index][1]["annotations"]
        left, top, width, height = objects[0]["bbox"]
        box = torch.tensor([left + width / 2, top + height / 2, width, height]) / 96
        torch.testing.assert_close(label["boxes"][0], box)
        assert label["class_labels"].tolist() == [item["category_id"] for item in objects]

    data = DetectionArguments(dataset=CANVASES, shortest_edge=32, longest_edge=64)
    empty = [{"image_id": index, "size": (40, 60), "annotations": []} for index in range(2)]
    pair = [(photo(size=(60, 40)), empty[0]), (photo(size=(40, 80)), empty[1])]
    batch = DetectionCollator(get_image_processor(data))(pair)
    assert batch["pixel_values"].shape == (2, 3, 64, 48)
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [48 * 32, 32 * 64]
    assert batch["labels"][0]["boxes"].shape == (0, 4)
    assert batch["image_ids"].tolist() == [0, 1]


def test_correct_detections_score_1_when_scored_batch_by_batch(tmp_path):
    """Boxes are scored in the pixels of the original images."""
    canvases = DigitCanvases("validation", 6)
    truth, processor = canvases.annotations, VanillaTransformerImageProcessor()
    compute = detection_metrics(processor, truth, [*map(str, range(10))], tmp_path / "found.jsonl")
    for images in ([3, 1], [0, 5], [2, 4]):
        logits, boxes = torch.full((2, 8, 10), -9.0), torch.zeros(2, 8, 4)
        for row, image in enumerate(images):
            for query, item in enumerate(truth[image]["annotations"]):
                left, top, width, height = item["bbox"]
                boxes[row, query] = torch.tensor([left + width / 2, top + height / 2, width, height]) / 96
                logits[row, query, item["category_id"]] = 5
        prediction = SimpleNamespace(predictions=(logits, boxes), label_ids=torch.tensor(images))
        scores = compute(prediction, compute_result=images == [2, 4])
        assert bool(scores) == (images == [2, 4])
    assert scores["map"] == pytest.approx(1) and scores["map_50"] == pytest.approx(1)
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == [3, 1, 0, 5, 2, 4]
    assert all(len(line["found"]) == len(line["there"]) for line in lines)


def test_found_objects_keep_the_ids_and_names_of_the_data(tmp_path):
    path = Path(coco_json(tmp_path, [], images=3))
    whole = json.loads(path.read_text())
    (tmp_path / "1.jpg").unlink()
    for key, image in zip((632, 285, "a-7"), whole["images"]):
        image["id"] = key
        whole["annotations"].append({"image_id": key, "category_id": 7, "bbox": [10, 5, 20, 20]})
    path.write_text(json.dumps(whole))
    splits, names = load_splits(DetectionArguments(train_file=[str(path)]))
    processor = VanillaTransformerImageProcessor()
    compute = detection_metrics(processor, splits["train"].annotations, names, tmp_path / "found.jsonl")
    outputs = (torch.full((2, 5, 2), -9.0), torch.rand(2, 5, 4))
    compute(SimpleNamespace(predictions=outputs, label_ids=torch.tensor([1, 0])), compute_result=True)
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [(line["image_id"], line["file_name"]) for line in lines] == [("a-7", "2.jpg"), (632, "0.jpg")]


def test_more_objects_than_queries_are_a_warning(tmp_path, caplog):
    boxes = [{"image_id": 10, "category_id": 7, "bbox": [n, 5, 20, 20]} for n in range(5)]
    splits, _ = load_splits(DetectionArguments(train_file=[coco_json(tmp_path, boxes)]))
    warn_crowded(splits, 5)
    assert "num_queries" not in caplog.text
    warn_crowded(splits, 4)
    assert "train: 1 images have more objects than the model can find (num_queries=4" in caplog.text


# The recipe


def test_r_drop_raises_before_the_data_are_read(tmp_path):
    with pytest.raises(InputError, match="--r_drop: remove it: it does not apply to this recipe"):
        run_recipe("object_detection", "--dataset=nowhere", "--r_drop=1", "--output_dir", tmp_path)


SETTINGS = {
    **{"max_train_samples": 12, "max_validation_samples": 5, "max_test_samples": 3, "max_steps": 2},
    **{"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "logging_steps": 1},
    **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1},
    **{"model.hidden_size": 16, "model.intermediate_size": 32, "model.num_attention_heads": 2},
    **{"model.encoder_layers": 1, "model.decoder_layers": 1, "warmup_steps": 1, "use_cpu": True},
}
SMALL = [f"--{name}={value}" for name, value in SETTINGS.items()]


def test_quickstart_from_data_to_pipeline(tmp_path, capsys, caplog):
    folder = tmp_path / "model"
    run_recipe("object_detection", QUICKSTART, *SMALL, "--output_dir", folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["updates"] == 2
    assert {
        f"{split}_{name}" for split in ("validation", "test") for name in ("map", "map_50", "map_50_7")
    } <= (results.keys())
    for split, images in (("validation", 5), ("test", 3)):
        lines = (folder / f"detections_{split}.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["image_id"] for line in lines) == list(range(images))
    assert 'pipeline("object-detection"' in capsys.readouterr().out
    assert "object-detection" in (folder / "README.md").read_text()

    caplog.clear()
    detect = pipeline("object-detection", model=str(folder))
    assert "not supported" not in caplog.text
    canvases = [DigitCanvases("test", 3)[index][0] for index in range(3)]
    one, many = detect(canvases[0], threshold=0.0), detect(canvases, threshold=0.0, batch_size=2)
    scores = [[item["score"] for item in found] for found in (one, many[0])]
    np.testing.assert_allclose(*scores, rtol=1e-4)
    assert len(many) == 3
    assert {"score", "label", "box"} == one[0].keys() and one[0]["label"] in map(str, range(10))
    photo(tmp_path / "photo.png", size=(130, 70))  # another size and shape
    (found,) = detect([str(tmp_path / "photo.png")], threshold=0.0)
    assert max(item["box"]["xmax"] for item in found) <= 130

    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(images=canvases[0], return_tensors="pt"))
    (again,) = processor.post_process_object_detection(outputs, 0.0, [(96, 96)])
    np.testing.assert_allclose(again["scores"], [item["score"] for item in one], rtol=1e-5)

    resume = ["--max_steps=3", "--resume_from_checkpoint=true"]
    run_recipe(
        "object_detection",
        QUICKSTART,
        *SMALL,
        "--output_dir",
        folder,
        *resume,
    )
    assert json.loads((folder / "results.json").read_text())["updates"] == 3


def test_local_files_with_images_of_many_sizes(tmp_path):
    """COCO's JSON, padded batches, augmentation and a constant learning rate."""
    boxes = [{"image_id": 10 + n, "category_id": 7, "bbox": [10, 5, 20, 20]} for n in range(4)]
    path = coco_json(tmp_path, boxes, images=4)
    photo(tmp_path / "1.jpg", size=(40, 90))
    words = ["--train_file", path, "--validation_file", path, "--shortest_edge=32", "--longest_edge=64"]
    words += ["--flip=0.5", "--crop=0.5", "--color=0.2", "--model.patch_size=8", "--model.num_queries=6"]
    run_recipe("object_detection", *words, *SMALL, "--lr_scheduler_type=constant", "--learning_rate=0.001",
        "--output_dir", tmp_path / "model")  # fmt: skip
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    assert results["updates"] == 2 and "validation_map_50_square" in results


@pytest.mark.slow
def test_two_processes_score_each_image_once(tmp_path):
    """Five images with different numbers of objects, two processes, batches of two."""
    done = launch(
        "recipes/object_detection.py", QUICKSTART, *SMALL, "--output_dir", tmp_path, processes=2, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for split, images in (("validation", 5), ("test", 3)):
        lines = (tmp_path / f"detections_{split}.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["image_id"] for line in lines) == list(range(images))


def test_boxes_of_a_turned_photograph_are_checked_by_the_upright_size(tmp_path):
    """EXIF turns the stored 60 x 40 pixels to 40 x 60: the box lies below the stored image."""
    boxes = [{"image_id": 10, "category_id": 7, "bbox": [5, 42, 30, 15]}]
    boxes += [{"image_id": 10, "category_id": 7, "bbox": [45, 5, 10, 10]}]  # right of the upright image
    path = coco_json(tmp_path, boxes, images=1)
    image = photo()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "0.jpg", exif=exif)
    splits, _ = load_splits(DetectionArguments(train_file=[path]))
    image, annotation = splits["train"][0]
    assert image.size == (40, 60) and annotation["size"] == (60, 40)
    assert [item["bbox"] for item in annotation["annotations"]] == [[5, 42, 30, 15]]


def test_the_areas_of_annotations_decide_the_sizes_of_objects(tmp_path):
    boxes = [{"image_id": 10, "category_id": 7, "bbox": [5, 0, 40, 40], "area": 500}]  # below 32²: small
    splits, names = load_splits(DetectionArguments(train_file=[coco_json(tmp_path, boxes, images=1)]))
    annotations = splits["train"].annotations
    assert annotations[0]["annotations"][0]["area"] == 500
    outputs = torch.tensor([[[-9.0, 9.0]]]), torch.tensor([[[25 / 60, 0.5, 40 / 60, 1.0]]])
    prediction = SimpleNamespace(predictions=outputs, label_ids=torch.tensor([0]))
    processor = VanillaTransformerImageProcessor()
    scores = detection_metrics(processor, annotations, names)(prediction, compute_result=True)
    assert (scores["map_small"], scores["map_medium"]) == (pytest.approx(1), -1)
