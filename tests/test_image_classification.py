"""Image classification: reading images and labels, batches, and the recipe from data to pipeline()."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from launch import launch, run_recipe
from PIL import Image
from torch.utils.data import DataLoader
from transformers import pipeline

from vanilla_transformer import VanillaTransformerImageProcessor
from vanilla_transformer.image_processing_vanilla_transformer import to_rgb
from vanilla_transformer.tasks.augmentation import Augmentation, AugmentationArguments, Mix, MixArguments
from vanilla_transformer.tasks.image_classification import (
    ImageArguments,
    ImageCollator,
    ImageStream,
    LabelledImages,
    load_splits,
)
from vanilla_transformer.tasks.images import open_image
from vanilla_transformer.tasks.settings import InputError

QUICKSTART = "recipes/image_classification/quickstart.yaml"
COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}

SETTINGS = {
    **{"max_train_samples": 60, "max_validation_samples": 10, "max_steps": 2, "use_cpu": True},
    **{"per_device_train_batch_size": 8, "eval_steps": 1, "save_steps": 1, "save_total_limit": 2},
    **{"model.hidden_size": 16, "model.intermediate_size": 16, "model.encoder_layers": 1},
    **{"logging_steps": 1, "warmup_steps": 1},
}
SMALL = [f"--{name}={value}" for name, value in SETTINGS.items()]


def picture(color: str, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.new("RGB", size, COLORS[color])


@pytest.fixture
def folders(tmp_path) -> Path:
    """Make a folder for each split, with a folder for each class."""
    for split, count in (("train", 4), ("validation", 2)):
        for color in COLORS:
            (tmp_path / split / color).mkdir(parents=True)
            for number in range(count):
                picture(color).save(tmp_path / split / color / f"{number}.png")
    return tmp_path


def parquet(path: Path, images: list, labels: list, **features) -> str:
    features = {"image": ImageFeature(), "label": Value("string"), **features}
    Dataset.from_dict({"image": images, "label": labels}, features=Features(features)).to_parquet(path)
    return str(path)


def colors_and_labels(rows: Dataset) -> list[str]:
    """Return the color of each image, and the name of its label."""
    names = rows.features["label"].names
    values = {value: name for name, value in COLORS.items()}
    return [
        f"{values[to_rgb(open_image(row['image'])).getpixel((0, 0))]} {names[row['label']]}" for row in rows
    ]


def test_the_names_of_folders_are_the_classes(folders):
    splits = load_splits(ImageArguments(dataset=str(folders)))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "validation": 6}
    assert splits["train"].features["label"].names == sorted(COLORS)
    for rows in splits.values():
        assert set(colors_and_labels(rows)) == {f"{color} {color}" for color in COLORS}


def test_files_that_are_no_images_are_skipped_and_counted(folders, caplog):
    whole = (folders / "train" / "red" / "0.png").read_bytes()
    (folders / "train" / "red" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folders / "train" / "blue" / "3.png").write_text("no picture")
    with caplog.at_level(logging.WARNING):
        splits = load_splits(ImageArguments(dataset=str(folders)))
    assert len(splits["train"]) == 10
    assert "skipped 2 of 12 rows whose image cannot be read" in caplog.text
    assert set(colors_and_labels(splits["train"])) == {f"{color} {color}" for color in COLORS}


def test_parquet_with_labels_as_text_and_gaps(tmp_path, caplog):
    images = [picture("red"), picture("blue"), None, picture("red"), picture("blue")]
    train = parquet(tmp_path / "train.parquet", images, ["r", "b", "r", None, "b"])
    test = parquet(tmp_path / "test.parquet", [picture("red")] * 2, ["r", "b"])
    with caplog.at_level(logging.WARNING):
        splits = load_splits(ImageArguments(train_file=[train], test_file=[test]))
    assert colors_and_labels(splits["train"]) == ["red r", "blue b", "blue b"]
    assert "skipped 1 of 5 rows whose image cannot be read (rows 3)" in caplog.text
    assert "skipped 1 of 5 rows without a label (rows 4)" in caplog.text
    assert colors_and_labels(splits["test"]) == ["red r", "red b"]


def test_columns_may_have_other_names(tmp_path):
    rows = {"img": [picture("red"), picture("blue")], "coarse": [0, 0], "fine": [1, 0]}
    kinds = {"img": ImageFeature(), "coarse": Value("int64"), "fine": ClassLabel(names=["b", "r"])}
    Dataset.from_dict(rows, features=Features(kinds)).to_parquet(tmp_path / "train.parquet")
    files = {"train_file": [str(tmp_path / "train.parquet")], "label_column": "fine"}
    assert colors_and_labels(load_splits(ImageArguments(image_column="img", **files))["train"]) == [
        "red r",
        "blue b",
    ]
    with pytest.raises(InputError, match="image_column: .* has no column 'image'.*coarse, fine, img"):
        load_splits(ImageArguments(**files))
    with pytest.raises(InputError, match="image_column: 'coarse' of .* holds .*int64.*, not images"):
        load_splits(ImageArguments(image_column="coarse", **files))


def test_bytes_and_file_names_are_read_as_images(tmp_path):
    picture("red").save(tmp_path / "red.png")
    stored = (tmp_path / "red.png").read_bytes()
    for name, kind, value in (("bytes", "binary", stored), ("paths", "string", str(tmp_path / "red.png"))):
        rows = {"image": [value] * 2, "label": [0, 1]}
        kinds = Features({"image": Value(kind), "label": ClassLabel(names=["r", "s"])})
        Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / f"{name}.parquet")
        splits = load_splits(ImageArguments(train_file=[str(tmp_path / f"{name}.parquet")]))
        assert colors_and_labels(splits["train"]) == ["red r", "red s"]


def write_table(path: Path, names: list[str]) -> None:
    """Write names of images, with the labels r and s in turn, in the format of the suffix."""
    labels = ["r", "s"] * len(names)
    rows = [{"image": name, "label": label} for name, label in zip(names, labels)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        path.write_text(
            "".join(f"{row['image']},{row['label']}\n" for row in [dict(image="image", label="label"), *rows])
        )
    else:
        Dataset.from_list(rows).to_parquet(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_names_in_a_table_are_relative_to_it_and_stay_in_its_folder(tmp_path, kind, caplog):
    (tmp_path / "data" / "red").mkdir(parents=True)
    inside, secret = tmp_path / "data" / "red" / "1.png", tmp_path / "secret.png"
    picture("red").save(inside)
    picture("blue").save(secret)
    os.symlink(secret, tmp_path / "data" / "link.png")
    os.mkfifo(tmp_path / "data" / "pipe.png")
    names = ["red/1.png", str(inside), "link.png", "../secret.png", str(secret), "pipe.png", "gone.png"]
    write_table(tmp_path / "data" / f"train.{kind}", names)
    files = {"train_file": [str(tmp_path / "data" / f"train.{kind}")]}
    splits = load_splits(ImageArguments(**files))
    assert colors_and_labels(splits["train"]) == ["red r", "red s"]
    assert "skipped 3 images outside their folder: link.png is outside" in caplog.text
    assert "set allow_outside_images to true" in caplog.text
    assert "skipped 5 of 7 rows whose image cannot be read" in caplog.text
    splits = load_splits(ImageArguments(**files, allow_outside_images=True))
    assert colors_and_labels(splits["train"]) == ["red r", "red s", "blue r", "blue s", "blue r"]


def test_links_that_leave_a_folder_of_folders_are_skipped(folders, tmp_path_factory, caplog):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    picture("red").save(outside)
    os.symlink(outside, folders / "train" / "red" / "link.png")
    assert len(load_splits(ImageArguments(dataset=str(folders)))["train"]) == 12
    assert "skipped 1 images outside their folder" in caplog.text
    again = load_splits(ImageArguments(dataset=str(folders), allow_outside_images=True))
    assert len(again["train"]) == 13


def test_a_label_that_train_lacks_raises(tmp_path):
    train = parquet(tmp_path / "train.parquet", [picture("red"), picture("blue")], ["r", "b"])
    test = parquet(tmp_path / "test.parquet", [picture("green")], ["g"])
    with pytest.raises(InputError, match="row 1: the label 'g'"):
        load_splits(ImageArguments(train_file=[train], test_file=[test]))


def test_one_class_alone_raises(tmp_path):
    train = parquet(tmp_path / "train.parquet", [picture("red")] * 3, ["r"] * 3)
    with pytest.raises(InputError, match="only the label 'r'"):
        load_splits(ImageArguments(train_file=[train]))


def test_a_split_without_a_readable_image_raises(folders):
    for path in folders.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no label"):
        load_splits(ImageArguments(dataset=str(folders)))


def test_validation_share_holds_out_a_share_of_every_class(tmp_path):
    train = parquet(tmp_path / "train.parquet", [picture("red"), picture("blue")] * 10, ["r", "b"] * 10)
    data = ImageArguments(train_file=[train], validation_share=0.2)
    splits = load_splits(data, seed=3)
    assert sorted(colors_and_labels(splits["validation"])) == ["blue b"] * 2 + ["red r"] * 2
    assert len(splits["train"]) == 16
    with pytest.raises(InputError, match="validation_share=0.05 of .* leaves no example"):
        load_splits(ImageArguments(train_file=[train], validation_share=0.05))


def digits(count: int) -> Dataset:
    return load_splits(ImageArguments(dataset="digits", max_validation_samples=count))["validation"]


def augmented(rows: Dataset, keep: bool = False) -> LabelledImages:
    change = Augmentation(AugmentationArguments(flip=0.5, shift=0.3, rotate=30), seed=5)
    return LabelledImages(rows, change, keep_decoded=keep)


def pixels(example: dict) -> bytes:
    return example["image"].tobytes()


def test_decoded_images_in_memory_equal_those_read_again():
    rows = digits(5)
    kept, read = augmented(rows, keep=True), augmented(rows)
    assert [pixels(kept[row]) for row in range(5)] == [pixels(read[row]) for row in range(5)]


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_differs_in_every_epoch_and_does_not_depend_on_workers(workers):
    images = augmented(digits(6))
    loader = DataLoader(
        images, batch_size=2, num_workers=workers, collate_fn=list, persistent_workers=workers > 0
    )
    epochs = []
    for epoch in range(2):
        images.set_epoch(epoch)
        epochs.append([pixels(example) for batch in loader for example in batch])
        assert epochs[-1] == [pixels(images[row]) for row in range(6)]
    assert all(one != other for one, other in zip(*epochs))


def test_a_stream_equals_the_rows_and_counts_what_it_skips(tmp_path, caplog):
    images = [picture("red"), picture("blue"), None, picture("green")]
    kind = ClassLabel(names=["r", "b", "g"])
    train = parquet(tmp_path / "train.parquet", images, [0, 1, 0, 2], label=kind)
    test = parquet(tmp_path / "test.parquet", images[:2], [0, 1], label=kind)
    files = {"train_file": [train], "test_file": [test]}
    splits = load_splits(ImageArguments(streaming=True, **files))
    assert splits["train"].features["label"].names == kind.names
    assert colors_and_labels(splits["test"]) == ["red r", "blue b"]
    with caplog.at_level(logging.WARNING):
        streamed = list(ImageStream(splits["train"]))
    read = LabelledImages(load_splits(ImageArguments(**files))["train"])
    assert [(pixels(one), one["labels"]) for one in streamed] == [
        (pixels(read[row]), read[row]["labels"]) for row in range(3)
    ]
    assert "skipped 1 rows so far" in caplog.text
    with pytest.raises(InputError, match="keep_decoded needs all the data at once"):
        ImageArguments(streaming=True, keep_decoded=True, **files)


def test_training_batches_are_mixed_and_evaluation_batches_are_not():
    rows = digits(4)
    processor = VanillaTransformerImageProcessor(size={"height": 8, "width": 8})
    mix = Mix(MixArguments(mixup=0.5), seed=0, classes=10)
    collate = ImageCollator(processor, mix)
    training = collate([augmented(rows)[row] for row in range(4)])
    assert training["labels"].shape == (4, 10) and training["pixel_values"].shape == (4, 3, 8, 8)
    evaluation = collate([LabelledImages(rows)[row] for row in range(4)])
    assert evaluation["labels"].tolist() == rows["label"][:]
    alone = processor([to_rgb(open_image(image)) for image in rows["image"]], return_tensors="pt")
    assert torch.equal(evaluation["pixel_values"], alone["pixel_values"])


# The recipe


def test_quickstart_from_data_to_pipeline(tmp_path, capsys):
    folder = tmp_path / "model"
    run_recipe("image_classification", QUICKSTART, *SMALL, "--output_dir", folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["updates"] == 2
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    accuracy = np.mean([line["label"] == line["predicted"] for line in lines])
    assert len(lines) == 10 and results["validation_accuracy"] == pytest.approx(accuracy)
    assert json.loads((folder / "classes.json").read_text())["confusion_matrix"]
    assert f'pipeline("image-classification", model="{folder}")' in capsys.readouterr().out

    classify = pipeline("image-classification", model=str(folder))
    images = [to_rgb(open_image(image)) for image in digits(10)["image"]]
    for line, (best, *_) in zip(lines, classify(images, batch_size=4)):
        assert best["label"] == line["predicted"]
        assert best["score"] == pytest.approx(line["score"], abs=1e-3)
    assert "accuracy" in (folder / "README.md").read_text()


def icon(shape: str, mode: str, size: int) -> Image.Image:
    """A black drawing on a transparent ground, under which black is hidden, or one of 16 bits."""
    drawn = np.zeros((24, 24), bool)
    drawn[4 : 4 + size, 8:16] = True
    drawn[8:16, 4 : 4 + size] |= shape == "cross"
    if mode == "I;16":
        return Image.fromarray(np.where(drawn, 400, 60_000).astype(np.uint16))
    image = Image.fromarray(np.stack([np.zeros_like(drawn)] * 3 + [drawn], -1).astype(np.uint8) * 255)
    if mode == "P":
        image = Image.fromarray(drawn.astype(np.uint8), "P")
        image.putpalette([0, 0, 0] * 2)
        image.info["transparency"] = 0
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_icons_score_the_same_in_training_and_in_pipelines(tmp_path, mode):
    shapes = ("bar", "cross")
    for shape in shapes:
        (tmp_path / "icons" / "train" / shape).mkdir(parents=True)
        for size in range(9, 17):
            icon(shape, mode, size).save(tmp_path / "icons" / "train" / shape / f"{size}.png")
    settings = [*SMALL, "--dataset", tmp_path / "icons", "--output_dir", tmp_path / "model"]
    settings += ["--max_steps", "100", "--learning_rate", "0.003", "--lr_scheduler_type", "constant"]
    settings += ["--model.image_size", "24", "--model.patch_size", "8", "--model.num_attention_heads", "2"]
    run_recipe("image_classification", *settings, "--validation_share", "0.25", "--save_steps", "100")
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "model" / "predictions.jsonl").read_text().splitlines()]

    rows = load_splits(ImageArguments(dataset=str(tmp_path / "icons"), validation_share=0.25), 42)
    paths = [row["image"]["path"] for row in rows["validation"]]
    classify = pipeline("image-classification", model=str(tmp_path / "model"))
    for given in (paths, [Image.open(path) for path in paths]):
        best = [scores[0] for scores in classify(given)]
        right = np.mean([one["label"] == Path(path).parent.name for one, path in zip(best, paths)])
        assert right == results["validation_accuracy"] > 0.5
        assert [one["label"] for one in best] == [line["predicted"] for line in lines]
        assert [one["score"] for one in best] == pytest.approx([line["score"] for line in lines], abs=1e-3)


def test_resumed_equals_uninterrupted_with_all_augmentation(tmp_path):
    """Augmentation, mixtures and dropout are the same to the last bit."""
    settings = [
        *SMALL,
        "--mixup=0.4",
        "--cutmix=1",
        "--rand_augment=2",
        "--max_steps=10",
        "--eval_strategy=no",
    ]
    settings += [
        "--save_steps=5",
        "--save_total_limit=3",
        "--model.dropout=0.1",
    ]  # update 5 lies within an epoch
    run_recipe("image_classification", QUICKSTART, *settings, "--output_dir", tmp_path / "whole")
    resume = ["--resume_from_checkpoint", tmp_path / "whole" / "checkpoint-5"]
    run_recipe("image_classification", QUICKSTART, *settings, *resume, "--output_dir", tmp_path / "resumed")
    whole, resumed = (tmp_path / name / "model.safetensors" for name in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert results["examples_per_second"] > 0
    assert "target_tokens_per_second" not in results  # labels of mixed images are no tokens


def test_r_drop_with_mixup_raises(tmp_path):
    with pytest.raises(
        InputError, match="r_drop needs images of one class each: remove r_drop, or mixup and cutmix"
    ):
        run_recipe("image_classification", QUICKSTART, "--r_drop=1", "--mixup=0.5", "--output_dir", tmp_path)


def test_streams_and_balanced_classes(tmp_path, folders):
    labels = ClassLabel(names=sorted(COLORS))
    images = [picture(color) for color in sorted(COLORS)] * 8
    train = parquet(tmp_path / "train.parquet", images, [0, 1, 2] * 8, label=labels)
    mine = [*SMALL, "--model.preset=tiny", "--model.image_size=8", "--eval_strategy=no", "--shift=0.1"]
    stream = ["--train_file", train, "--streaming=true", "--output_dir", tmp_path / "stream"]
    run_recipe("image_classification", *mine, *stream)
    assert json.loads((tmp_path / "stream" / "results.json").read_text())["updates"] == 2
    weighted = ["--dataset", folders, "--balance_classes=true", "--output_dir", tmp_path / "weighted"]
    run_recipe("image_classification", *mine, *weighted)
    scores = json.loads((tmp_path / "weighted" / "results.json").read_text())
    assert "validation_f1_macro" in scores


@pytest.mark.slow
def test_two_processes_score_every_image_once(tmp_path):
    words = [*SMALL, "--mixup=0.5", "--max_validation_samples=11", "--per_device_eval_batch_size=4"]
    words += ["--output_dir", tmp_path / "model"]
    done = launch("recipes/image_classification.py", QUICKSTART, *words, processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = (tmp_path / "model" / "predictions.jsonl").read_text().splitlines()
    names = digits(11)["label"][:]
    assert [int(json.loads(line)["label"]) for line in lines] == names
