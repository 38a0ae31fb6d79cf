"""Vision Transformers of transformers and timm give the same logits here."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from vanilla_transformer.interop import ConversionError, import_model

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def randomise(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def write_vit(folder, **settings):
    torch.manual_seed(0)
    labels = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
    model = randomise(ViTForImageClassification(ViTConfig(**SIZES | labels | settings)))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("settings", [{}, {"qkv_bias": False}, {"hidden_act": "relu", "num_channels": 1}])
def test_logits_of_vit(tmp_path, settings):
    original = write_vit(tmp_path / "vit", **settings)
    report = import_model(tmp_path / "vit", tmp_path / "ours").report
    assert report.passed and report.format == "vit"
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "ours")
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    pixels, labels = torch.randn(4, original.config.num_channels, 32, 32), torch.tensor([0, 1, 2, 0])
    ours, theirs = model(pixels, labels=labels), original(pixels, labels=labels)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.loss, theirs.loss, atol=1e-5, rtol=1e-5)


def test_a_vit_without_classifier(tmp_path):
    torch.manual_seed(0)
    original = randomise(ViTModel(ViTConfig(**SIZES)))
    original.save_pretrained(tmp_path / "vit")
    model = import_model(tmp_path / "vit", tmp_path / "ours").model
    pixels = torch.randn(2, 3, 32, 32)
    theirs = original(pixels).last_hidden_state
    torch.testing.assert_close(model(pixels).last_hidden_state, theirs, atol=1e-5, rtol=1e-5)
    tuned = AutoModelForImageClassification.from_pretrained(tmp_path / "ours", num_labels=7)
    states = tuned.model(pixels).last_hidden_state
    torch.testing.assert_close(states, theirs, atol=1e-5, rtol=1e-5)


def test_the_image_processor_comes_along(tmp_path):
    write_vit(tmp_path / "vit")
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.2, 0.3, 0.4],
    }
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    import_model(tmp_path / "vit", tmp_path / "ours")
    image = torch.randint(0, 255, (3, 50, 40), dtype=torch.uint8).numpy()
    ours, theirs = (
        AutoImageProcessor.from_pretrained(tmp_path / name)(image, return_tensors="pt").pixel_values
        for name in ("ours", "vit")
    )
    assert ours.shape == (1, 3, 32, 32) and torch.equal(ours, theirs)


class TimmAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, states):
        query, key, value = self.qkv(states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))


class TimmScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, states):
        return states * self.gamma


class TimmBlock(nn.Module):
    def __init__(self, width, heads, scaled):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = TimmAttention(width, heads)
        self.ls1, self.ls2 = (TimmScale(width) if scaled else nn.Identity() for _ in range(2))
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 64), "fc2": nn.Linear(64, width)})

    def forward(self, states):
        states = states + self.ls1(self.attn(self.norm1(states)))
        return states + self.ls2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(states)))))


class TimmViT(nn.Module):
    """timm's `VisionTransformer` with its names, for tests without timm."""

    def __init__(self, width=48, heads=4, scaled=False, labels=5):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 8, 8)})
        self.blocks = nn.ModuleList(TimmBlock(width, heads, scaled) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, labels)

    def forward(self, pixels):
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        states = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            states = block(states)
        return self.head(self.norm(states)[:, 0])


def write_timm(folder, name="vit_tiny_patch8_32.test", **settings):
    torch.manual_seed(0)
    model = randomise(TimmViT(**settings))
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    entries = {
        "architecture": name,
        "model_args": {"num_heads": 4},
        "pretrained_cfg": {"mean": [0.5] * 3, "label_names": list("abcde")},
    }
    (folder / "config.json").write_text(json.dumps(entries))
    return model


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "LayerScale"])
def test_logits_of_timm(tmp_path, scaled):
    original = write_timm(tmp_path / "timm", scaled=scaled)
    report = import_model(tmp_path / "timm", tmp_path / "ours").report
    assert report.format == "timm" and "mean" in report.notes[0]
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "ours")
    assert model.config.id2label[4] == "e"
    pixels = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(pixels).logits, original(pixels), atol=1e-5, rtol=1e-5)


def test_a_state_dict_of_timm(tmp_path):
    original = randomise(TimmViT())
    torch.save(original.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ConversionError, match="give num_attention_heads"):
        import_model(tmp_path / "vit.pth")
    model = import_model(tmp_path / "vit.pth", num_attention_heads=4).model
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(pixels).logits, original(pixels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["vit_base_patch16_clip_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny"])
def test_other_architectures_of_timm_are_refused(tmp_path, name):
    write_timm(tmp_path / "timm", name)
    with pytest.raises(ConversionError, match=name):
        import_model(tmp_path / "timm")


def test_timm_itself(tmp_path):
    """With timm installed, its own models: run by hand, because timm needs torchvision."""
    timm = pytest.importorskip("timm", exc_type=ImportError)
    arguments = {"img_size": 32, "depth": 2}
    original = randomise(timm.create_model("vit_tiny_patch16_224", num_classes=5, **arguments))
    torch.save(original.state_dict(), tmp_path / "vit.pth")
    model = import_model(tmp_path / "vit.pth").model
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(pixels).logits, original(pixels), atol=1e-5, rtol=1e-5)

    (tmp_path / "timm").mkdir()
    save_file(original.state_dict(), tmp_path / "timm" / "model.safetensors")
    entries = {"architecture": "vit_tiny_patch16_224", "model_args": arguments, "pretrained_cfg": {}}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(entries))
    report = import_model(tmp_path / "timm").report
    assert "logits equal the original's" in [name for name, *_ in report.checks]
