"""The image processor: every kind of image, parity with transformers' own, boxes there and back, padding."""

import base64
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
from transformers import AutoImageProcessor, image_utils
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.pipelines import image_classification, image_feature_extraction, object_detection

from vanilla_transformer import (
    VanillaTransformerImageProcessor,
    VanillaTransformerVisionConfig,
    VanillaTransformerVisionModel,
)
from vanilla_transformer.image_processing_vanilla_transformer import open_as_rgb, to_rgb, upright_size

ORIENTATION = 0x0112  # the EXIF tag


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Noise of which no two places are alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def processor(**settings) -> VanillaTransformerImageProcessor:
    return VanillaTransformerImageProcessor(**{"size": {"height": 16, "width": 24}, **settings})


@pytest.mark.parametrize("size", [{"height": 16, "width": 24}, {"shortest_edge": 20}], ids=str)
@pytest.mark.parametrize("skipped", ["nothing", "do_resize", "do_rescale", "do_normalize"])
def test_pixels_equal_those_of_vits_processor(size, skipped):
    settings = {"size": size, "resample": 2, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
    if skipped != "nothing":
        settings[skipped] = False
    ours = processor(**settings)(picture(), return_tensors="np")["pixel_values"]
    theirs = ViTImageProcessorPil(**settings)(picture(), return_tensors="np")["pixel_values"]
    assert ours.shape == theirs.shape
    assert np.allclose(ours, theirs, atol=1e-5)


def test_crop_of_the_middle_equals_that_of_vits_processor():
    settings = {"size": {"shortest_edge": 20}, "do_center_crop": True, "resample": 2}
    settings["crop_size"] = {"height": 16, "width": 16}
    ours = processor(**settings)(picture(), return_tensors="np")["pixel_values"]
    theirs = ViTImageProcessorPil(**settings)(picture(), return_tensors="np")["pixel_values"]
    assert np.allclose(ours, theirs, atol=1e-5)


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(GREY).convert("LA"), GREY),
        (Image.fromarray(GREY).convert("P"), GREY),
        (Image.fromarray(np.stack([GREY] * 3, -1)).convert("CMYK"), GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 256), GREY),  # 16 bits
        (Image.fromarray(GREY.astype(np.int32)), GREY),  # 32 bits, with values of 8
        (Image.fromarray(GREY > 127), (GREY > 127) * np.uint8(255)),  # 1 bit
        (Image.merge("LA", (Image.fromarray(GREY), Image.new("L", (16, 16)))), np.full_like(GREY, 255)),
    ],
    ids=["grey", "grey+alpha", "palette", "cmyk", "16-bit", "32-bit", "1-bit", "transparent"],
)
def test_every_kind_of_image_becomes_what_the_eye_sees(image, expected):
    pixels = np.asarray(to_rgb(image))
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels.astype(int) - expected[..., None]).max() <= 1
    inputs = processor()(image, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 16, 24)


def test_a_palette_may_have_a_transparent_color(tmp_path):
    image = Image.fromarray(np.zeros((4, 4), dtype=np.uint8), mode="P")
    image.putpalette([255, 0, 0])
    image.save(tmp_path / "transparent.png", transparency=0)
    assert (np.asarray(to_rgb(Image.open(tmp_path / "transparent.png"))) == 255).all()


def test_a_photograph_is_turned_upright():
    turned = picture()
    exif = turned.getexif()
    exif[ORIENTATION] = 6  # the camera was held upright
    file = BytesIO()
    turned.save(file, "png", exif=exif)
    upright = to_rgb(Image.open(BytesIO(file.getvalue())))
    assert upright.size == (30, 40)
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(turned), -1))
    for again in (upright, upright.copy(), upright.crop((0, 0, 30, 40))):  # once is enough
        assert np.array_equal(np.asarray(to_rgb(again)), np.asarray(upright))


def icon() -> Image.Image:
    """A red square on a transparent ground, under which black is hidden."""
    pixels = np.zeros((24, 24, 4), np.uint8)
    pixels[6:18, 6:18] = (200, 0, 0, 255)
    return Image.fromarray(pixels)


def palette_with_transparency() -> Image.Image:
    image = icon().convert("RGB").quantize(2)
    image.info["transparency"] = image.getpixel((0, 0))
    return image


KINDS = {
    "RGBA.png": icon,
    "LA.png": lambda: icon().convert("LA"),
    "P.png": palette_with_transparency,
    "P.gif": palette_with_transparency,
    "RGBA.webp": icon,
    "RGBA.tiff": icon,
    "RGBa": lambda: icon().convert("RGBa"),
    "PA": lambda: icon().convert("PA"),
    "La": lambda: icon().convert("LA").convert("La"),
    "L.png": lambda: icon().convert("L"),
    "1.png": lambda: icon().convert("1"),
    "CMYK.jpg": lambda: picture().convert("CMYK"),
    "YCbCr.jpg": lambda: picture().convert("YCbCr"),
    "LAB.tiff": lambda: Image.new("LAB", (8, 8), (120, 100, 30)),
    "HSV": lambda: picture().convert("HSV"),
    "I.tiff": lambda: Image.fromarray(GREY.astype(np.int32) * 70_000),
    "I;16.png": lambda: Image.fromarray(GREY.astype(np.uint16) * 257),
    "I;16B.tiff": lambda: Image.frombytes("I;16B", (16, 16), (GREY.astype(">u2") * 257).tobytes()),
    "F.tiff": lambda: Image.fromarray(GREY.astype(np.float32) / 255),
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_processor_and_pipelines_see_the_same_pixels(kind, tmp_path):
    images = [KINDS[kind]()]
    if "." in kind:
        images[0].save(tmp_path / kind)
        images = [Image.open(tmp_path / kind), str(tmp_path / kind)]
    both = processor(size={"height": 16, "width": 16})
    opened = images[0].copy()
    trained = both(to_rgb(opened), return_tensors="np")["pixel_values"]
    assert trained.min() < trained.max() or kind == "LAB.tiff"  # neither black nor white all over
    for image in images:
        for seen in (image, image_utils.load_image(image)):  # stock pipelines call load_image
            assert np.array_equal(both(seen, return_tensors="np")["pixel_values"], trained)


@pytest.mark.parametrize("begin", ["", "data:image/png;base64,"])
def test_images_in_base64(begin):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    code = base64.b64encode(file.getvalue()).decode()
    assert max(map(len, code.split("/"))) > 255  # longer than a file's name can be
    assert np.array_equal(open_as_rgb(begin + code), pixels)
    assert np.array_equal(image_utils.load_image(begin + code), pixels)
    with pytest.raises(ValueError, match="is no image file, no URL, and no image in base64"):
        open_as_rgb("x" * 5000)


def test_pipelines_of_images_use_the_loader_that_remembers():
    for module in (image_classification, object_detection, image_feature_extraction, image_utils):
        assert vars(module)["load_image"] is image_utils.load_image
        assert image_utils.load_image.remembers


def test_levels_are_scaled_and_hidden_colors_are_white():
    for kind in ("I.tiff", "I;16.png", "I;16B.tiff", "F.tiff"):
        assert np.abs(np.asarray(to_rgb(KINDS[kind]())).astype(int) - GREY[..., None]).max() <= 1
    for kind in ("RGBA.png", "LA.png", "P.gif", "RGBa", "PA", "La"):
        assert to_rgb(KINDS[kind]()).getpixel((0, 0)) == (255, 255, 255)


def test_an_image_that_was_drawn_on_after_loading_is_seen_as_it_is(tmp_path):
    icon().save(tmp_path / "icon.png")
    loaded = image_utils.load_image(str(tmp_path / "icon.png"))
    assert loaded.getpixel((0, 0)) == (0, 0, 0)  # as transformers returns it, for other models
    loaded.putpixel((0, 0), (9, 9, 9))
    plain = Image.fromarray(np.asarray(loaded))
    seen, expected = (processor()(image, return_tensors="np")["pixel_values"] for image in (loaded, plain))
    assert np.array_equal(seen, expected)


def damaged_exif(kind: str) -> bytes:
    file = BytesIO()
    if kind == "tiff":  # the orientation is a fraction
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags.tagtype[ORIENTATION] = 5
        tags[ORIENTATION] = TiffImagePlugin.IFDRational(6, 1)
        picture().save(file, kind, tiffinfo=tags)
    else:
        picture().save(
            file, kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x03\x01\x12\0\x09\xff\xff\xff\xff\xff\xff"
        )
    return file.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_damaged_exif_is_ignored(kind, tmp_path):
    path = tmp_path / f"photograph.{kind}"
    path.write_bytes(damaged_exif(kind))
    assert to_rgb(Image.open(path)).size in ((40, 30), (30, 40))
    assert upright_size(Image.open(path)) == to_rgb(Image.open(path)).size
    expected = processor()(to_rgb(Image.open(path)), return_tensors="np")["pixel_values"]
    for image in (str(path), image_utils.load_image(str(path)), image_utils.load_image(Image.open(path))):
        assert np.array_equal(processor()(image, return_tensors="np")["pixel_values"], expected)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_the_upright_size_is_known_before_decoding(kind):
    file = BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    picture().save(file, kind, exif=exif)
    assert upright_size(Image.open(file)) == to_rgb(Image.open(file)).size == (30, 40)


def test_images_of_different_sizes_are_padded_and_masked():
    images = [picture(40, 30), picture(20, 50, seed=1)]
    inputs = processor(do_resize=False, do_pad=True)(images, return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 50, 40)
    for row, image in enumerate(images):
        alone = processor(do_resize=False)(image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(inputs["pixel_values"][row, :, : image.height, : image.width], alone)
        mask = torch.zeros(50, 40, dtype=torch.long)
        mask[: image.height, : image.width] = 1
        assert torch.equal(inputs["pixel_mask"][row], mask)
        assert not inputs["pixel_values"][row][:, mask == 0].any()
    fixed = processor(do_resize=False, do_pad=True, pad_size={"height": 64, "width": 64})
    assert fixed(images, return_tensors="pt")["pixel_mask"].shape == (2, 64, 64)


def test_images_of_different_sizes_need_padding():
    with pytest.raises(ValueError, match="30x40, 50x20 cannot be one batch: set do_pad=True"):
        processor(do_resize=False)([picture(40, 30), picture(20, 50)], return_tensors="pt")


def annotation(*boxes, **more) -> dict:
    objects = [{"bbox": box, "category_id": number, **more} for number, box in enumerate(boxes)]
    return {"image_id": 7, "annotations": objects}


def test_annotations_equal_those_of_detrs_processor():
    settings = {"size": {"shortest_edge": 20, "longest_edge": 33}, "resample": 2}
    boxes = annotation([1, 2, 10, 20], [-5, 3, 20, 10], [30, 20, 30, 30], area=1, iscrowd=0)
    ours = processor(**settings)(picture(), boxes, return_tensors="pt")["labels"][0]
    theirs = DetrImageProcessorPil(**settings, do_pad=False)(picture(), boxes, return_tensors="pt")["labels"][
        0
    ]
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"area"}:  # theirs is what the annotation says, which need not be the box's
        assert torch.allclose(ours[name], theirs[name], atol=1e-6), name
        assert ours[name].dtype == theirs[name].dtype
    height, width = ours["size"]
    assert torch.allclose(ours["area"], ours["boxes"][:, 2:].prod(1) * height * width)


def test_boxes_come_back_as_they_were_annotated():
    boxes = [[1, 2, 10, 20], [3, 4, 30, 25]]
    image = picture(40, 30)
    for settings in (
        {},
        {"size": {"shortest_edge": 50}, "do_pad": True, "pad_size": {"height": 99, "width": 99}},
    ):
        label = processor(**settings)(image, annotation(*boxes), return_tensors="pt")["labels"][0]
        logits = torch.full((1, 2, 2), -9.0)
        logits[0, 0, 0], logits[0, 1, 1] = 8, 7  # the surest first
        outputs = SimpleNamespace(logits=logits, pred_boxes=label["boxes"][None])
        found = processor().post_process_object_detection(outputs, target_sizes=label["orig_size"][None])[0]
        corners = [[left, top, left + width, top + height] for left, top, width, height in boxes]
        assert torch.allclose(found["boxes"], torch.tensor(corners).float(), atol=1e-4)
        assert found["labels"].tolist() == label["class_labels"].tolist()
        assert (found["scores"] > 0.99).all()


def test_boxes_outside_the_image_or_without_area_are_skipped():
    boxes = annotation([-9, 0, 9, 9], [40, 0, 5, 5], [5, 5, 0, 9], [5, 30, 9, 9], [35, 25, 99, 99])
    label = processor()(picture(40, 30), boxes, return_tensors="pt")["labels"][0]
    assert label["class_labels"].tolist() == [4]
    assert torch.allclose(label["boxes"], torch.tensor([[37.5 / 40, 27.5 / 30, 5 / 40, 5 / 30]]))


def test_an_image_may_have_no_object():
    for nothing in (annotation(), annotation([0, 0, 5, 5], iscrowd=1)):
        label = processor()(picture(), nothing, return_tensors="pt")["labels"][0]
        assert label["boxes"].shape == (0, 4)
        assert label["class_labels"].shape == (0,)


@pytest.mark.parametrize(
    "annotations, message",
    [
        ([annotation(), annotation()], "1 images, but 2 annotations"),
        ([{"annotations": []}], "KeyError 'image_id'"),
        (annotation([1, 2, 3]), "must look like"),
        ({"image_id": 1, "annotations": [{"bbox": [1, 2, 3, 4]}]}, "KeyError 'category_id'"),
    ],
)
def test_annotations_in_another_format_raise(annotations, message):
    with pytest.raises(ValueError, match=message):
        processor()(picture(), annotations, return_tensors="pt")


def test_boxes_are_not_cropped_in_silence():
    with pytest.raises(ValueError, match="do_center_crop=True does not work with annotations"):
        processor()(picture(), annotation(), do_center_crop=True, crop_size={"height": 8, "width": 8})


def test_what_is_found_is_above_the_threshold_in_the_image_and_sorted():
    logits = torch.tensor([[[-9.0, 2.0], [-9.0, -9.0], [3.0, 1.0]]])  # the third query counts twice
    boxes = torch.tensor([[[0.5, 0.5, 2.0, 0.5], [0.5, 0.5, 0.1, 0.1], [0.9, 0.9, 0.4, 0.4]]])
    outputs = SimpleNamespace(logits=logits, pred_boxes=boxes)
    for threshold, labels in ((0.5, [0, 1, 1]), (0.8, [0, 1]), (0.9, [0]), (0.99, [])):
        (found,) = processor().post_process_object_detection(outputs, threshold, [(100, 200)])
        assert found["labels"].tolist() == labels
        assert len(found["scores"]) == len(found["boxes"]) == len(labels)
        assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
        assert (found["boxes"] >= 0).all() and (found["boxes"] <= torch.tensor([200, 100, 200, 100])).all()
    (shares,) = processor().post_process_object_detection(outputs, 0.5, top_k=2)
    assert torch.allclose(shares["boxes"], torch.tensor([[0.7, 0.7, 1, 1], [0, 0.25, 1, 0.75]]))
    many = SimpleNamespace(logits=torch.full((1, 130, 2), 5.0), pred_boxes=torch.rand(1, 130, 4))
    assert len(processor().post_process_object_detection(many, 0.5)[0]["scores"]) == 130
    with pytest.raises(ValueError, match="1 images, but 2 target_sizes"):
        processor().post_process_object_detection(outputs, 0.5, [(1, 1), (1, 1)])


def test_saved_beside_a_model_the_auto_class_finds_it(tmp_path):
    model = VanillaTransformerVisionModel(
        VanillaTransformerVisionConfig.from_preset("tiny", encoder_layers=1, hidden_size=16)
    )
    saved = processor(do_pad=True, image_mean=[0.1, 0.2, 0.3])
    for part in (model, saved):
        part.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is VanillaTransformerImageProcessor
    assert loaded.to_dict() == saved.to_dict()


def test_resizing_is_bicubic_unless_another_filter_is_given():
    size = {"height": 16, "width": 24}
    theirs = ViTImageProcessorPil(size=size, resample=Image.Resampling.BICUBIC)(
        picture(), return_tensors="np"
    )
    ours = VanillaTransformerImageProcessor(size=size)(picture(), return_tensors="np")
    assert np.allclose(ours["pixel_values"], theirs["pixel_values"], atol=1e-5)
