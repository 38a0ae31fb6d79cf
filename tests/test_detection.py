"""Object detection: the model's properties and parity, its data, and the way from data to pipeline()."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import load_recipe
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw
from torch import nn
from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline
from transformers.loss.loss_rt_detr import RTDetrLoss

from vanilla_transformer import (
    VanillaTransformerDetectionConfig,
    VanillaTransformerForObjectDetection,
    VanillaTransformerImageProcessor,
)
from vanilla_transformer.modeling_vanilla_transformer_detection import LOSS, ImageByImageMatcher
from vanilla_transformer.stacks import Decoder, Encoder
from vanilla_transformer.tasks.augmentation import AugmentationArguments
from vanilla_transformer.tasks.object_detection import (
    CANVASES,
    DetectionArguments,
    DetectionCollator,
    DigitCanvases,
    augment,
    detection_metrics,
    get_image_processor,
    load_splits,
)
from vanilla_transformer.tasks.settings import InputError

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes" / "object_detection").glob("*.yaml"))
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "patch_size": 8,
    "num_queries": 9,
    "num_labels": 4,
}


def random_model(**settings) -> VanillaTransformerForObjectDetection:
    """With random weights everywhere, also where training begins at zero, and statistics of a few images."""
    torch.manual_seed(0)
    model = VanillaTransformerForObjectDetection(VanillaTransformerDetectionConfig(**SIZES | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model(torch.randn(4, 3, 64, 64))
    return model.eval()


def labels_at_random(*counts: int) -> list[dict]:
    torch.manual_seed(1)
    return [
        {
            "class_labels": torch.randint(0, SIZES["num_labels"], (count,)),
            "boxes": torch.rand(count, 4) * 0.4 + 0.1,
        }
        for count in counts
    ]


# The model


def copy_attention(target: nn.MultiheadAttention, source):
    projections = source.q_proj, source.k_proj, source.v_proj
    target.in_proj_weight.data = torch.cat([projection.weight for projection in projections])
    target.in_proj_bias.data = torch.cat([projection.bias for projection in projections])
    target.out_proj.load_state_dict(source.o_proj.state_dict())


def attention_of_torch(source, queries, keys, values, padding=None):
    attention = nn.MultiheadAttention(queries.shape[-1], source.config.num_attention_heads, batch_first=True)
    copy_attention(attention, source)
    return attention(queries, keys, values, key_padding_mask=padding, need_weights=False)[0]


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@torch.no_grad()
def test_stacks_equal_torch_with_positions_on_queries_and_keys_alone(norm_position):
    """DETR's transformer, written with torch.nn's attention, on the same weights."""
    torch.manual_seed(0)
    config = VanillaTransformerDetectionConfig(**SIZES, norm_position=norm_position, activation="relu")
    encoder, decoder = Encoder(config).eval(), Decoder(config, is_causal=False).eval()
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        parameter.add_(torch.randn_like(parameter) * 0.1)
    cells, places = torch.randn(2, 12, 32), torch.randn(1, 12, 32)
    queries, query_places = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False

    def add_norm(module, states, sublayer):
        if norm_position == "pre":
            return states + sublayer(module.norm(states))
        return module.norm(states + sublayer(states))

    memory = cells
    for layer in encoder.layers:

        def look(x, layer=layer):
            return attention_of_torch(layer.self_attn, x + places, x + places, x, ~mask)

        memory = add_norm(layer.self_attn_add_norm, memory, look)
        memory = add_norm(layer.feed_forward_add_norm, memory, layer.feed_forward)
    memory = encoder.norm(memory)
    states = queries
    for layer in decoder.layers:

        def look_around(x, layer=layer):
            return attention_of_torch(layer.self_attn, x + query_places, x + query_places, x)

        def look_at_image(x, layer=layer):
            return attention_of_torch(layer.cross_attn, x + query_places, memory + places, memory, ~mask)

        states = add_norm(layer.self_attn_add_norm, states, look_around)
        states = add_norm(layer.cross_attn_add_norm, states, look_at_image)
        states = add_norm(layer.feed_forward_add_norm, states, layer.feed_forward)
    states = decoder.norm(states)

    ours = encoder(cells, mask, positions=places).last_hidden_state
    torch.testing.assert_close(ours[mask], memory[mask], atol=1e-5, rtol=1e-5)
    each = []
    found = decoder(
        queries,
        encoder_hidden_states=ours,
        encoder_attention_mask=mask,
        positions=query_places,
        memory_positions=places,
        layer_outputs=each,
    ).last_hidden_state
    torch.testing.assert_close(found, states, atol=1e-5, rtol=1e-5)
    assert len(each) == config.decoder_layers
    torch.testing.assert_close(each[-1], found)


@pytest.mark.parametrize("stem", ["convolutions", "patches"])
@torch.no_grad()
def test_images_of_different_sizes_are_found_in_as_if_alone(stem):
    model = random_model(stem=stem)
    sizes = [(40, 64), (50, 30), (16, 16)]  # whole cells, parts of cells, fewer cells than queries
    images = [torch.randn(3, *size) for size in sizes]
    batch, mask = torch.zeros(3, 3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.long)
    for index, (image, (height, width)) in enumerate(zip(images, sizes)):
        batch[index, :, :height, :width], mask[index, :height, :width] = image, 1
    batch[mask[:, None].expand_as(batch) == 0] = 7.0  # what padding holds is nobody's business
    together = model(batch, mask)
    for index, image in enumerate(images):
        alone = model(image[None])
        queries = alone.logits.shape[1]
        close = {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(together.logits[index, :queries], alone.logits[0], **close)
        torch.testing.assert_close(together.pred_boxes[index, :queries], alone.pred_boxes[0], **close)
        assert (together.logits[index, queries:].sigmoid() == 0).all()


@torch.no_grad()
def test_queries_begin_with_the_boxes_of_the_cells_that_look_most_like_objects():
    model = random_model()
    found = model.model(torch.randn(2, 3, 64, 64))
    scores = found.proposal_logits.amax(-1)  # (batch, cells)
    for image in range(2):
        best = scores[image].argsort(descending=True)[: SIZES["num_queries"]]
        boxes = found.reference_boxes[image].sigmoid()
        torch.testing.assert_close(boxes, found.proposal_boxes[image, best], atol=1e-4, rtol=0)


@torch.no_grad()
def test_training_begins_with_boxes_of_the_anchor_size_around_the_cells_and_low_scores():
    model = VanillaTransformerForObjectDetection(VanillaTransformerDetectionConfig(**SIZES)).eval()
    found = model.model(torch.randn(1, 3, 32, 64))  # 4 x 8 cells
    boxes = found.proposal_boxes[0].unflatten(0, (4, 8))
    torch.testing.assert_close(boxes[1, 2], torch.tensor([2.5 / 8, 1.5 / 4, 3 / 8, 3 / 4]))
    outputs = model(torch.randn(1, 3, 32, 64))
    assert found.proposal_logits.sigmoid().max() < 0.5 and outputs.logits.sigmoid().max() < 0.5


def test_the_loss_is_transformers_own_of_each_layer_and_of_the_proposals():
    model, pixels, labels = random_model(), torch.randn(3, 3, 64, 64), labels_at_random(2, 0, 4)
    outputs = model(pixels, labels=labels)
    inside = model.model(pixels)
    criterion = RTDetrLoss(SimpleNamespace(num_labels=SIZES["num_labels"], **LOSS))
    logits, boxes = model.head(inside.intermediate_hidden_states, inside.reference_boxes)
    layers = [{"logits": a, "pred_boxes": b} for a, b in zip(logits, boxes)]
    layers.append({"logits": inside.proposal_logits, "pred_boxes": inside.proposal_boxes})
    expected = sum(sum(criterion(layer, labels).values()) for layer in layers)
    torch.testing.assert_close(outputs.loss, expected)
    assert len(outputs.auxiliary_outputs) == SIZES["decoder_layers"] - 1
    assert outputs.loss.item() == pytest.approx(sum(loss.item() for loss in outputs.loss_dict.values()))


def test_matching_image_by_image_is_matching():
    torch.manual_seed(0)
    outputs = {"logits": torch.randn(4, 20, 4), "pred_boxes": torch.rand(4, 20, 4) * 0.5 + 0.1}
    labels = labels_at_random(3, 0, 20, 1)
    settings = SimpleNamespace(**LOSS)
    ours, theirs = ImageByImageMatcher(settings), super(ImageByImageMatcher, ImageByImageMatcher(settings))
    for one, other in zip(ours(outputs, labels), theirs.forward(outputs, labels)):
        assert all(map(torch.equal, one, other))


def test_every_weight_learns():
    model = random_model().train()
    model(torch.randn(2, 3, 64, 64), labels=labels_at_random(3, 2)).loss.backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not idle


def test_images_without_any_object_teach_that_there_is_none():
    model = random_model().train()
    outputs = model(torch.randn(2, 3, 64, 64), labels=labels_at_random(0, 0))
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss) and outputs.loss > 0
    assert outputs.loss_dict["loss_bbox"] == 0


def test_it_learns_where_things_are():
    """Bright and dark squares on grey, in a minute's work: far more than chance is found."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)

    def draw(count: int):
        images, labels = torch.zeros(count, 3, 48, 48), []
        for index in range(count):
            left, top = random.integers(0, 32, 2)
            side, label = int(random.integers(10, 17)), int(random.integers(2))
            images[index, :, top : top + side, left : left + side] = (1.0, -1.0)[label]
            box = torch.tensor([[left + side / 2, top + side / 2, side, side]]) / 48
            labels.append({"class_labels": torch.tensor([label]), "boxes": box.clamp(0, 1).float()})
        return images, labels

    settings = {"encoder_layers": 1, "decoder_layers": 1, "num_queries": 5, "num_labels": 2, "dropout": 0.0}
    model = VanillaTransformerForObjectDetection(VanillaTransformerDetectionConfig(**SIZES | settings))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        images, labels = draw(8)
        loss = model(images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = draw(50)
    with torch.no_grad():
        outputs = model.eval()(images)
    surest = outputs.logits.flatten(1).argmax(-1)
    right = sum(int(one) % 2 == int(label["class_labels"]) for one, label in zip(surest, labels))
    boxes = outputs.pred_boxes[torch.arange(50), surest // 2]
    distance = (boxes - torch.cat([label["boxes"] for label in labels])).abs().mean()
    assert right >= 45
    assert distance < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 12}, "patch_size=12 must be a power of 2"),
        ({"decoder_layers": 0}, "decoder_layers=0"),
        ({"hidden_size": 30, "num_attention_heads": 2}, "hidden_size=30 must be a multiple of 4"),
        ({"anchor_size": 0}, "anchor_size=0"),
        ({"num_queries": 0}, "num_queries=0"),
    ],
)
def test_configurations_that_cannot_be(settings, message):
    with pytest.raises(Exception, match=message):
        VanillaTransformerDetectionConfig(**SIZES | settings)


# The data


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
        {"image_id": 10, "category_id": 3, "bbox": [70, 30, 20, 20]},  # beyond it
        {"image_id": 10, "category_id": 3, "bbox": [10, 10, 0, 5]},  # of no width
        {"image_id": 11, "category_id": 7, "bbox": [0, 0, 60, 40], "iscrowd": 1},
    ]
    splits, names = load_splits(DetectionArguments(train_file=[coco_json(tmp_path, boxes)]))
    assert names == ["round", "square"]  # in the order of their ids
    image, annotation = splits["train"][0]
    assert image.mode == "RGB" and annotation["size"] == (40, 60) == image.size[::-1]
    kept = annotation["annotations"]
    assert [one["bbox"] for one in kept] == [[10, 5, 20, 20], [50, 30, 10, 10]]
    assert [one["category_id"] for one in kept] == [1, 0]
    assert [one["area"] for one in kept] == [400, 100]
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


def test_parquet_of_any_kind_of_image(tmp_path, caplog):
    whole = encoded(photo(size=(300, 200)), tmp_path / "whole", "JPEG")
    broken = {"bytes": whole["bytes"][: len(whole["bytes"]) // 2], "path": None}
    kinds = [encoded(photo(mode="L"), tmp_path / "g"), encoded(photo(mode="CMYK"), tmp_path / "c", "JPEG")]
    kinds += [encoded(photo(mode="P"), tmp_path / "p"), {"bytes": b"no image", "path": None}, broken]
    one = {"bbox": [[10, 5, 20, 20]], "category": [1]}
    files = parquet(tmp_path / "a.parquet", kinds, [one, one, {"bbox": [], "category": []}, one, one])
    splits, names = load_splits(DetectionArguments(train_file=files, validation_file=files))
    assert names == ["a", "b"]
    assert len(splits["train"]) == 4  # what lacks its end is seen only when it is read to it
    assert len(splits["validation"]) == 3
    assert "left out 1 images" in caplog.text and "left out 2 images" in caplog.text
    for image, annotation in (splits["validation"][index] for index in range(3)):
        assert image.mode == "RGB" and annotation["size"] == (40, 60)
    assert splits["train"][3][1]["image_id"] == 0  # the next in place of the broken one
    assert "image 3 is broken" in caplog.text


def test_corners_are_read_as_corners(tmp_path):
    image = encoded(photo(), tmp_path / "i")
    files = parquet(tmp_path / "a.parquet", [image], [{"bbox": [[10, 5, 30, 25]], "category": [0]}])
    splits, _ = load_splits(DetectionArguments(train_file=files, box_format="xyxy"))
    assert splits["train"][0][1]["annotations"][0]["bbox"] == [10, 5, 20, 20]


def test_labels_as_text_and_those_that_train_lacks(tmp_path, caplog):
    image = encoded(photo(), tmp_path / "i")

    def files(name, label, **options):
        objects = {"bbox": [[10, 5, 20, 20]], "category": [label]}
        return parquet(tmp_path / name, [image], [objects], **options)

    cats, cows = files("a.parquet", "cat", names=None), files("b.parquet", "cow", names=None)
    assert load_splits(DetectionArguments(train_file=cats))[1] == ["cat"]
    with pytest.raises(InputError, match="'cow' does not occur in train"):
        load_splits(DetectionArguments(train_file=cats, validation_file=cows))
    load_splits(DetectionArguments(train_file=files("c.parquet", 0), validation_file=files("d.parquet", 1)))
    assert "objects that train has none of: b" in caplog.text  # it is a label, but is never shown


def test_bad_data_is_told(tmp_path):
    image = encoded(photo(), tmp_path / "i")
    one = {"bbox": [[10, 5, 20, 20]], "category": [0]}
    files = parquet(tmp_path / "a.parquet", [image], [one])
    with pytest.raises(InputError, match="no column 'picture'.*image_column"):
        load_splits(DetectionArguments(train_file=files, image_column="picture"))
    nothing = parquet(tmp_path / "b.parquet", [image], [{"bbox": [], "category": []}])
    with pytest.raises(InputError, match="nothing to learn"):
        load_splits(DetectionArguments(train_file=nothing))
    infinite = parquet(tmp_path / "c.parquet", [image], [{**one, "bbox": [[0, 0, float("inf"), 1]]}])
    with pytest.raises(InputError, match="image 0: a box is four numbers"):
        load_splits(DetectionArguments(train_file=infinite))
    with pytest.raises(InputError, match="belong together"):
        DetectionArguments(train_file=files, image_height=100)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"annotations": [{"id": 1}]}, "not as COCO has it: the key 'image_id' is missing"),
        ({"annotations": [{"image_id": 5, "category_id": 1}]}, "annotation 0: there is no image_id 5"),
        ({"annotations": [{"image_id": 1, "category_id": 5}]}, "annotation 0: there is no category_id 5"),
        ({"categories": None}, "not as COCO has it: 'NoneType' object is not iterable"),
        ({"categories": ...}, "not as COCO has it: the key 'categories' is missing"),
    ],
)
def test_a_bad_coco_file_is_told(tmp_path, changed, message):
    whole = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    whole = {key: value for key, value in (whole | changed).items() if value is not ...}
    (tmp_path / "boxes.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match=f"boxes.json.*{message}"):
        load_splits(DetectionArguments(train_file=[str(tmp_path / "boxes.json")]))


def test_boxes_follow_the_image_and_chance_the_seed(tmp_path):
    """The white square stays in its box, whatever is done."""
    image = encoded(photo(), tmp_path / "i")
    one = {"bbox": [[10, 5, 20, 20]], "category": [0]}
    files = parquet(tmp_path / "a.parquet", [image] * 30, [one] * 30)

    def load():
        train = load_splits(DetectionArguments(train_file=files))[0]["train"]
        augment(train, AugmentationArguments(flip=0.5, flip_vertical=0.5, crop=0.4), seed=3)
        return train

    train, views = load(), set()
    for index in range(30):
        changed, annotation = train[index]
        for box in (one["bbox"] for one in annotation["annotations"]):
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


def test_images_with_boxes_are_not_mixed():
    train = load_splits(DetectionArguments(dataset=CANVASES, max_train_samples=2))[0]["train"]
    augment(train, AugmentationArguments(), seed=0)
    with pytest.raises(InputError, match="need no augmentation"):
        augment(train, AugmentationArguments(flip=0.5), seed=0)
    with pytest.raises(InputError, match="mixup: images with boxes cannot be mixed"):
        augment(SimpleNamespace(), AugmentationArguments(mixup=0.5), seed=0)


def test_canvases_are_a_function_of_seed_split_epoch_and_index():
    def pixels(split="train", seed=0, epoch=0, index=0):
        canvases = DigitCanvases(split, 10, seed)
        canvases.set_epoch(epoch)
        return np.asarray(canvases[index][0])

    assert (pixels() == pixels()).all()
    for change in ({"split": "test"}, {"seed": 1}, {"epoch": 1}, {"index": 1}):
        assert (pixels() != pixels(**change)).any()


def test_digits_lie_in_their_boxes_and_in_one_split():
    splits = {name: DigitCanvases(name, 40) for name in ("train", "validation", "test")}
    counts = {name: len(split.digits) for name, split in splits.items()}
    assert counts == {"train": 1397, "validation": 200, "test": 200}
    for index in range(40):
        image, annotation = splits["validation"][index]
        assert image.size == (96, 96) and 1 <= len(annotation["annotations"]) <= 6
        assert annotation == splits["validation"].annotations[index]
        ink = np.asarray(image, dtype=float).mean(-1)
        for one in annotation["annotations"]:
            left, top, width, height = one["bbox"]
            assert left >= 0 and top >= 0 and left + width <= 96 and top + height <= 96
            inside = ink[top : top + height, left : left + width]
            assert inside.max() > ink.min() + 30


def test_batches_of_one_size_and_of_many(tmp_path):
    canvases = DigitCanvases("train", 3)
    data = DetectionArguments(dataset=CANVASES, image_height=48, image_width=64)
    batch = DetectionCollator(get_image_processor(data))([canvases[index] for index in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 48, 64) and "pixel_mask" not in batch
    for index, label in enumerate(batch["labels"]):
        objects = canvases[index][1]["annotations"]
        left, top, width, height = objects[0]["bbox"]
        box = torch.tensor([left + width / 2, top + height / 2, width, height]) / 96
        torch.testing.assert_close(label["boxes"][0], box)
        assert label["class_labels"].tolist() == [one["category_id"] for one in objects]

    data = DetectionArguments(dataset=CANVASES, shortest_edge=32, longest_edge=64)
    empty = {"image_id": 0, "size": (40, 60), "annotations": []}
    pair = [(photo(size=(60, 40)), empty), (photo(size=(40, 80)), empty)]
    batch = DetectionCollator(get_image_processor(data))(pair)
    assert batch["pixel_values"].shape == (2, 3, 64, 48)
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [48 * 32, 32 * 64]
    assert batch["labels"][0]["boxes"].shape == (0, 4)


def test_scoring_comes_batch_by_batch(tmp_path):
    """What is right is scored as right, in the pixels of the images as they were."""
    canvases = DigitCanvases("validation", 6)
    truth, processor = canvases.annotations, VanillaTransformerImageProcessor()
    compute = detection_metrics(processor, truth, [*map(str, range(10))], tmp_path / "found.jsonl")
    for images in ([3, 1], [0, 5], [2, 4]):
        logits, boxes = torch.full((2, 8, 10), -9.0), torch.zeros(2, 8, 4)
        for row, image in enumerate(images):
            for query, one in enumerate(truth[image]["annotations"]):
                left, top, width, height = one["bbox"]
                boxes[row, query] = torch.tensor([left + width / 2, top + height / 2, width, height]) / 96
                logits[row, query, one["category_id"]] = 5
        prediction = SimpleNamespace(predictions=(logits, boxes), label_ids=torch.tensor(images))
        scores = compute(prediction, compute_result=images == [2, 4])
        assert bool(scores) == (images == [2, 4])
    assert scores["map"] == pytest.approx(1) and scores["map_50"] == pytest.approx(1)
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == [3, 1, 0, 5, 2, 4]
    assert all(len(line["found"]) == len(line["there"]) for line in lines)


# The recipe


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("object_detection")


def run(recipe, monkeypatch, *words):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["recipes/object_detection.py", *map(str, words)])
    recipe.main()


def test_r_drop_is_refused_before_anything_is_read(recipe, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="r_drop=1.0 is for what has labels, not for boxes"):
        run(recipe, monkeypatch, "--dataset=nowhere", "--r_drop=1", "--output_dir", tmp_path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(path, recipe):
    model, data, augmentation, args = recipe.settings([str(path), "--bf16", "false"])
    assert args.output_dir == f"outputs/{'object_detection_' * (path.stem == 'quickstart')}{path.stem}"
    config = VanillaTransformerDetectionConfig.from_preset(model.pop("preset", "base"), **model)
    if data.image_height:
        assert data.image_height % config.patch_size == data.image_width % config.patch_size == 0


SETTINGS = {
    **{"max_train_samples": 12, "max_validation_samples": 5, "max_test_samples": 3, "max_steps": 2},
    **{"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "logging_steps": 1},
    **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1},
    **{"model.hidden_size": 16, "model.intermediate_size": 32, "model.num_attention_heads": 2},
    **{"model.encoder_layers": 1, "model.decoder_layers": 1, "warmup_steps": 1, "use_cpu": True},
}
SMALL = [f"--{name}={value}" for name, value in SETTINGS.items()]


def test_quickstart_from_data_to_pipeline(recipe, monkeypatch, tmp_path, capsys, caplog):
    folder = tmp_path / "model"
    run(recipe, monkeypatch, "recipes/object_detection/quickstart.yaml", *SMALL, "--output_dir", folder)
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
    scores = [[found["score"] for found in each] for each in (one, many[0])]
    np.testing.assert_allclose(*scores, rtol=1e-4)
    assert len(many) == 3
    assert {"score", "label", "box"} == one[0].keys() and one[0]["label"] in map(str, range(10))
    photo(tmp_path / "photo.png", size=(130, 70))  # of another size and shape
    (found,) = detect([str(tmp_path / "photo.png")], threshold=0.0)
    assert max(one["box"]["xmax"] for one in found) <= 130

    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(images=canvases[0], return_tensors="pt"))
    (again,) = processor.post_process_object_detection(outputs, 0.0, [(96, 96)])
    np.testing.assert_allclose(again["scores"], [found["score"] for found in one], rtol=1e-5)

    go_on = ["--max_steps=3", "--resume_from_checkpoint=true"]
    run(
        recipe,
        monkeypatch,
        "recipes/object_detection/quickstart.yaml",
        *SMALL,
        "--output_dir",
        folder,
        *go_on,
    )
    assert json.loads((folder / "results.json").read_text())["updates"] == 3


def test_local_files_of_many_sizes(recipe, monkeypatch, tmp_path):
    """COCO's JSON, batches that are padded, augmentation, and a learning rate that a restart repeats."""
    boxes = [{"image_id": 10 + n, "category_id": 7, "bbox": [10, 5, 20, 20]} for n in range(4)]
    path = coco_json(tmp_path, boxes, images=4)
    photo(tmp_path / "1.jpg", size=(40, 90))
    words = ["--train_file", path, "--validation_file", path, "--shortest_edge=32", "--longest_edge=64"]
    words += ["--flip=0.5", "--crop=0.5", "--color=0.2", "--model.patch_size=8", "--model.num_queries=6"]
    run(recipe, monkeypatch, *words, *SMALL, "--lr_scheduler_type=constant", "--learning_rate=0.001",
        "--output_dir", tmp_path / "model")  # fmt: skip
    results = json.loads((tmp_path / "model" / "results.json").read_text())
    assert results["updates"] == 2 and "validation_map_50_square" in results


@pytest.mark.slow
def test_two_processes_score_each_image_once(tmp_path):
    """Images of any number of objects, five of them on two processes in batches of two."""
    recipe = ["recipes/object_detection.py", "recipes/object_detection/quickstart.yaml", *SMALL]
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *recipe]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    own = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*words, "--output_dir", str(tmp_path)],
        cwd=ROOT,
        env=own,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for split, images in (("validation", 5), ("test", 3)):
        lines = (tmp_path / f"detections_{split}.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["image_id"] for line in lines) == list(range(images))
