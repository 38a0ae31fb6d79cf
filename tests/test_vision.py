"""The vision models: parity with transformers' ViT, positions at any size, options, gradients, pipelines."""

import clean_process
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

from vanilla_transformer import (
    VISION_PRESETS,
    VanillaTransformerForImageClassification,
    VanillaTransformerImageProcessor,
    VanillaTransformerVisionConfig,
    VanillaTransformerVisionModel,
)
from vanilla_transformer.embeddings import PatchEmbedding, SinusoidalGrid, sinusoids, sinusoids_2d

OPTIONS = {
    "paper": {},
    "mean": {"pooling": "mean"},
    "post": {"norm_position": "post", "activation": "relu", "position_embedding_type": "sinusoidal"},
    "convolutions": {"stem": "convolutions", "pooling": "mean", "position_embedding_type": "sinusoidal"},
}


def small(**settings) -> VanillaTransformerVisionConfig:
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "intermediate_size": 48}
    sizes |= {"num_attention_heads": 4, "encoder_layers": 2, "num_labels": 5}
    return VanillaTransformerVisionConfig(**{**sizes, **settings})


def classifier(**settings) -> VanillaTransformerForImageClassification:
    torch.manual_seed(0)
    return VanillaTransformerForImageClassification(small(**settings)).eval()


def as_vit(model: VanillaTransformerForImageClassification) -> ViTForImageClassification:
    """transformers' ViT with the weights of our model."""
    ours = model.config
    config = ViTConfig(
        image_size=ours.image_size,
        patch_size=ours.patch_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_attention_heads=ours.num_attention_heads,
        num_hidden_layers=ours.encoder_layers,
        layer_norm_eps=ours.layer_norm_eps,
        hidden_act=ours.activation,
        num_labels=ours.num_labels,
    )
    weights = {}
    names = {
        "self_attn.": "attention.",
        "self_attn_add_norm.norm": "layernorm_before",
        "feed_forward_add_norm.norm": "layernorm_after",
        "feed_forward.": "mlp.",
        "model.encoder.norm": "vit.layernorm",
        "model.encoder.layers": "vit.layers",
        "model.encoder.embed_patches": "vit.embeddings.patch_embeddings",
    }
    for name, weight in model.state_dict().items():
        if "class_token" in name or "embed_positions" in name:
            continue
        for before, after in names.items():
            name = name.replace(before, after)
        if name.endswith("patch_embeddings.projection.weight"):
            weight = weight.unflatten(1, (ours.num_channels, ours.patch_size, ours.patch_size))
        weights[name] = weight
    positions = model.model.encoder.embed_positions.weight
    # ViT also adds a position to its class token; ours is their sum.
    weights["vit.embeddings.cls_token"] = torch.full((1, 1, ours.hidden_size), 0.25)
    first = model.model.encoder.class_token.weight - 0.25
    weights["vit.embeddings.position_embeddings"] = torch.cat((first, positions))[None]
    vit = ViTForImageClassification(config).eval()
    vit.load_state_dict(weights)
    return vit


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (12, 20)], ids=str)
def test_equals_vit(size):
    model = classifier()
    images = torch.randn(3, 3, *size)
    with torch.no_grad():
        theirs = as_vit(model)(images, interpolate_pos_encoding=True).logits
        ours = model(images).logits
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_gradients_equal_those_of_vit():
    model = classifier()
    vit = as_vit(model)
    images, labels = torch.randn(3, 3, 16, 16), torch.tensor([0, 4, 2])
    for one in (model, vit):
        one(images, labels=labels).loss.backward()
    ours = model.model.encoder.embed_patches.projection.weight.grad
    theirs = vit.vit.embeddings.patch_embeddings.projection.weight.grad
    assert torch.allclose(ours, theirs.flatten(1), atol=1e-5)


def test_base_has_the_parameter_count_of_vit_b_16():
    config = VanillaTransformerVisionConfig.from_preset("base", num_labels=1000)
    with torch.device("meta"):
        ours = VanillaTransformerForImageClassification(config)
        theirs = ViTForImageClassification(ViTConfig(num_labels=1000))
    # Our class token already contains its position.
    assert ours.num_parameters() == theirs.num_parameters() - 768


@pytest.mark.parametrize("preset", VISION_PRESETS)
def test_presets_are_configurations(preset):
    config = VanillaTransformerVisionConfig.from_preset(preset)
    assert config.encoder_layers and not config.is_encoder_decoder


def test_vit_lite_has_its_published_size():
    config = VanillaTransformerVisionConfig.from_preset("vit-lite-7-4", num_labels=10)
    with torch.device("meta"):
        model = VanillaTransformerForImageClassification(config)
    assert round(model.num_parameters() / 1e6, 1) == 3.7  # Hassani et al. 2021, table 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"image_size": 18}, "image_size=18 is not a multiple of patch_size=4"),
        ({"patch_size": 6, "image_size": 18, "stem": "convolutions"}, "patch_size=6 must be a power of 2"),
        (
            {"hidden_size": 30, "num_attention_heads": 2, "position_embedding_type": "sinusoidal"},
            "multiple of 4",
        ),
        ({"decoder_layers": 1}, "decoder_layers=1"),
        ({"encoder_layers": 0}, "encoder_layers=0"),
        ({"num_channels": 0}, "num_channels=0 must be at least 1"),
    ],
)
def test_an_invalid_configuration_raises(settings, message):
    with pytest.raises(Exception, match=message):
        small(**settings)


def test_images_of_a_wrong_size_or_channel_count_raise():
    for stem in ("patches", "convolutions"):
        with pytest.raises(ValueError, match="multiples of 4"):
            classifier(stem=stem)(torch.randn(1, 3, 16, 18))
        with pytest.raises(ValueError, match="the images have 3 channels, .* num_channels=1"):
            classifier(stem=stem, num_channels=1)(torch.randn(1, 3, 16, 16))


def test_2d_sinusoids_are_those_of_row_and_column():
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")
    encoded = sinusoids_2d(rows, columns, 16)
    assert torch.equal(
        encoded[2, 4], torch.cat((sinusoids(torch.tensor(2), 8), sinusoids(torch.tensor(4), 8)))
    )


def test_2d_sinusoids_of_any_grid_cover_the_same_picture():
    """A point of the picture has the same encoding in a coarse and a fine grid."""
    grid = SinusoidalGrid(6)
    whole, thirds = (grid(torch.zeros(1, count, count, 8)) for count in (6, 2))
    # Each of 2 parts spans 3 of the 6 cells, and its center is that of the second.
    assert torch.allclose(thirds[0], whole[0, 1::3, 1::3], atol=1e-6)


def test_patches_are_squares_in_reading_order():
    embed = PatchEmbedding(channels=3, patch_size=4, width=3)
    with torch.no_grad():  # the projection computes the mean of a patch in each channel
        embed.projection.weight.copy_(torch.eye(3).repeat_interleave(16, 1) / 16)
        embed.projection.bias.zero_()
        images = torch.randn(2, 3, 8, 12)
        assert torch.allclose(embed(images).movedim(-1, 1), F.avg_pool2d(images, 4), atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_image_alone_equals_the_image_in_a_batch(options):
    model = classifier(**options)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        together = model(images).logits
        alone = torch.cat([model(image[None]).logits for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_saved_model_loads_with_the_same_output(options, tmp_path):
    model = classifier(**options)
    model.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 16, 16)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    bare = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(bare, VanillaTransformerVisionModel)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)
        states = model.model(images)
        assert torch.equal(bare(images).pooler_output, states.pooler_output)
    length = 16 + (model.config.pooling == "class_token")
    assert states.last_hidden_state.shape == (2, length, 32)


def test_mean_pooling_without_positions_ignores_the_order_of_patches():
    model = classifier(pooling="mean")
    with torch.no_grad():
        model.model.encoder.embed_positions.weight.zero_()
        images = torch.randn(1, 3, 16, 16)
        halves = torch.cat((images[..., 8:], images[..., :8]), dim=-1)
        assert torch.allclose(model(images).logits, model(halves).logits, atol=1e-5)
        assert not torch.allclose(classifier()(images).logits, classifier()(halves).logits, atol=1e-3)


def test_accumulated_batches_equal_one_large_batch_in_the_stock_trainer(tmp_path):
    rows = [{"pixel_values": torch.randn(3, 16, 16), "labels": index % 5} for index in range(8)]
    trained = []
    for batch, accumulation in ((8, 1), (2, 4)):
        model = classifier()
        args = TrainingArguments(
            tmp_path / str(batch),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            use_cpu=True,
            save_strategy="no",
            train_sampling_strategy="sequential",
        )
        Trainer(model, args, train_dataset=rows).train()
        trained.append(model.classifier.weight.detach())
    assert torch.allclose(*trained, atol=1e-6)


def test_pipelines_give_the_same_alone_and_in_batches(tmp_path):
    labels = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
    model = classifier(**labels, num_labels=2)
    processor = VanillaTransformerImageProcessor(size={"height": 16, "width": 16})
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    images = [Image.new("RGB", (20, 30), color) for color in ("black", "white", "red")]
    classify = pipeline("image-classification", model=str(tmp_path))
    alone = [classify(image) for image in images]
    assert {row["label"] for row in alone[0]} == {"dark", "light"}
    rows = KeyDataset(Dataset.from_dict({"image": images}), "image")
    for together in (
        classify(images, batch_size=2),
        list(classify((image for image in images), batch_size=3)),
        list(classify(rows, batch_size=2)),
    ):
        for one, other in zip(alone, together):
            scores = [{row["label"]: row["score"] for row in rows} for rows in (one, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)

    features = pipeline("image-feature-extraction", model=str(tmp_path))
    assert torch.tensor(features(images[0])).shape == (1, 17, 32)
    pooled = torch.tensor(features(images[0], pool=True))
    inputs = AutoImageProcessor.from_pretrained(tmp_path)(images[0], return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(pooled, model.model(**inputs).pooler_output, atol=1e-5)


IN_A_CLEAN_PROCESS = """
import json, os
import torch, transformers

folder, picture, again = sys.argv[1:]
with_code = {"trust_remote_code": True}
processor = transformers.AutoImageProcessor.from_pretrained(folder, **with_code)
model = transformers.AutoModelForImageClassification.from_pretrained(folder, **with_code).eval()
bare = transformers.AutoModel.from_pretrained(folder, **with_code).eval()
image = transformers.image_utils.load_image(picture)
inputs = processor(image, return_tensors="pt")
with torch.no_grad():
    report = {"logits": model(**inputs).logits.tolist(), "pooled": bare(**inputs).pooler_output.shape[-1]}
pipe = transformers.pipeline("image-classification", model=folder, device="cpu", **with_code)
report["scores"] = {row["label"]: row["score"] for row in pipe(picture)}
pipe.save_pretrained(again)
report["again"] = sorted(os.listdir(again)) == sorted(set(os.listdir(folder)))
assert "vanilla_transformer" not in sys.modules
print("\\n" + json.dumps(report))
"""


def test_saved_folders_load_without_the_package(tmp_path):
    labels = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
    model = classifier(**OPTIONS["convolutions"], **labels, num_labels=2)
    processor = VanillaTransformerImageProcessor(size={"height": 16, "width": 16})
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    (tmp_path / "home").mkdir()
    report = clean_process.run(
        IN_A_CLEAN_PROCESS,
        tmp_path / "home",
        tmp_path / "model",
        tmp_path / "picture.png",
        tmp_path / "again",
    )
    with torch.no_grad():
        logits = model(**processor(Image.fromarray(pixels), return_tensors="pt")).logits
    assert torch.allclose(torch.tensor(report["logits"]), logits, atol=1e-5)
    assert [report["scores"][name] for name in ("dark", "light")] == pytest.approx(
        logits[0].softmax(-1).tolist(), abs=1e-5
    )
    assert report["pooled"] == 32 and report["again"]
