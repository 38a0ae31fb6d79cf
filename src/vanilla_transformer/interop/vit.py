"""Vision Transformers of transformers and of timm, and their classifiers."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTModel
from transformers.utils import cached_file

from ..configuration_vanilla_transformer import VanillaTransformerVisionConfig
from ..modeling_vanilla_transformer_vision import (
    VanillaTransformerForImageClassification,
    VanillaTransformerVisionModel,
)
from .parts import Parts
from .reading import float_weights, load_checkpoint, read_json, require_files
from .torch_nn import count_layers, with_biases
from .weights import ConversionError, Weights, fill, pop, refuse, rename, split_in_proj

HF_RULES = (
    (r"^vit\.", "model."),
    (r"^(model\.)?layers\.", "model.encoder.layers."),
    (r"^(model\.)?layernorm\.", "model.encoder.norm."),
    (r"\.attention\.", ".self_attn."),
    (r"layernorm_before\.", "self_attn_add_norm.norm."),
    (r"layernorm_after\.", "feed_forward_add_norm.norm."),
    (r"\.mlp\.", ".feed_forward."),
)
TIMM_RULES = (
    (r"^blocks\.", "model.encoder.layers."),
    (r"^norm\.", "model.encoder.norm."),
    (r"\.attn\.qkv\.", ".self_attn.in_proj_"),
    (r"\.attn\.proj\.", ".self_attn.o_proj."),
    (r"\.norm1\.", ".self_attn_add_norm.norm."),
    (r"\.norm2\.", ".feed_forward_add_norm.norm."),
    (r"\.mlp\.", ".feed_forward."),
    (r"^head\.", "classifier."),
)
TIMM_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # by width
TIMM_NAME = re.compile(r"(vit|deit)_(tiny|small|base|large|huge)_patch\d+_\d+")


def import_vit(source: str | PathLike) -> Parts:
    """A folder or Hub name of a ViT of transformers, with or without a classifier."""
    require_files(source, "config.json")
    config: Any = ViTConfig.from_pretrained(source)
    load: Any = ViTForImageClassification.from_pretrained
    original, loaded = load(source, dtype=torch.float32, output_loading_info=True)
    if not isinstance(config.image_size, int) or not isinstance(config.patch_size, int):
        raise ConversionError(f"{source} has images or patches that are not square")
    weights = rename(original.state_dict(), HF_RULES)
    has_classifier = not any(name.startswith("classifier.") for name in loaded["missing_keys"])
    cls, positions = (
        pop(weights, f"model.embeddings.{name}", source)[0] for name in ("cls_token", "position_embeddings")
    )
    patches = [
        pop(weights, f"model.embeddings.patch_embeddings.projection.{name}", source)
        for name in ("weight", "bias")
    ]
    fields = {
        "image_size": config.image_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "activation": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        "dropout": config.hidden_dropout_prob,
    }
    if has_classifier:
        fields |= {"id2label": config.id2label, "label2id": config.label2id}
    weights = with_biases(weights)
    model = image_model(source, fields, weights, cls, positions, patches, has_classifier=has_classifier)
    if has_classifier:
        original = original.eval()
        run = lambda pixels: original(pixels).logits  # noqa: E731
    else:
        bare = ViTModel.from_pretrained(source, dtype=torch.float32, add_pooling_layer=False).eval()
        run = lambda pixels: bare(pixels).last_hidden_state[:, 0]  # noqa: E731
    processor = None
    if cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False):
        processor = AutoImageProcessor.from_pretrained(source)
    notes = [f"attention_probs_dropout_prob={config.attention_probs_dropout_prob} is ignored"] * bool(
        config.attention_probs_dropout_prob
    )
    return Parts(model, processor, run, notes)


def import_timm(source: str | PathLike, num_attention_heads: int | None = None) -> Parts:
    """A folder, Hub name or state dict of a plain ViT of timm, such as `vit_base_patch16_224`."""
    entries, file = {}, Path(source)
    if not file.is_file():
        found = [
            path
            for name in ("model.safetensors", "pytorch_model.bin")
            if (path := cached_file(source, name, _raise_exceptions_for_missing_entries=False))
        ]
        if not found:
            raise ConversionError(f"{source} has no model.safetensors or pytorch_model.bin")
        file = Path(found[0])
        entries = read_json(str(cached_file(source, "config.json")))
        name = entries["architecture"]
        if not TIMM_NAME.match(name) or re.search("clip|siglip|distilled|gap|reg|rope", name):
            raise ConversionError(
                f"{source} is a {name}; of timm, only plain ViTs with a class token are known"
            )
    arguments, details = entries.get("model_args", {}), entries.get("pretrained_cfg", {})
    refuse(
        source,
        global_pool=arguments.get("global_pool", details.get("global_pool", "token")).replace("token", ""),
        act_layer=arguments.get("act_layer"),
        norm_layer=arguments.get("norm_layer"),
    )
    weights = float_weights(load_checkpoint(file))
    original = timm_model(entries, dict(weights)) if entries else None
    for name in (
        "reg_token",
        "dist_token",
        "fc_norm.weight",
        "norm_pre.weight",
        "blocks.0.attn.q_norm.weight",
    ):
        refuse(source, **{name: name in weights})
    cls, positions = (pop(weights, name, source)[0] for name in ("cls_token", "pos_embed"))
    patches = pop(weights, "patch_embed.proj.weight", source)
    patch_bias = weights.pop("patch_embed.proj.bias", torch.zeros(len(patches)))
    layers = with_biases(split_in_proj(rename(weights, TIMM_RULES)))
    for name in [name for name in layers if name.endswith(".gamma")]:  # LayerScale: part of what it scales
        gamma = layers.pop(name)
        writer = name.replace("ls1.gamma", "self_attn.o_proj").replace("ls2.gamma", "feed_forward.fc2")
        layers[f"{writer}.weight"] = layers[f"{writer}.weight"] * gamma[:, None]
        layers[f"{writer}.bias"] = layers[f"{writer}.bias"] * gamma
    width = len(patches)
    heads = num_attention_heads or arguments.get("num_heads") or TIMM_HEADS.get(width)
    if heads is None:
        raise ConversionError(f"{source} does not say how many heads it has: give num_attention_heads")
    side = int(len(positions) ** 0.5)  # the position of the class token is one more
    fields: dict[str, Any] = {
        "image_size": side * patches.shape[-1],
        "num_attention_heads": heads,
        "intermediate_size": len(layers["model.encoder.layers.0.feed_forward.fc1.weight"]),
        "layer_norm_eps": 1e-6,
    }
    has_classifier = "classifier.weight" in layers
    if has_classifier:
        count = len(layers["classifier.weight"])
        labels = details.get("label_names") or [f"LABEL_{index}" for index in range(count)]
        fields["id2label"] = dict(enumerate(labels))
        fields["label2id"] = {label: index for index, label in enumerate(labels)}
    model = image_model(
        source, fields, layers, cls, positions, [patches, patch_bias], has_classifier=has_classifier
    )
    shown = {name: details[name] for name in ("mean", "std", "interpolation", "crop_pct") if name in details}
    return Parts(
        model, original=original, notes=[f"images must be prepared as in timm: {shown}"] if shown else []
    )


def timm_model(entries: Mapping[str, Any], weights: Weights) -> Any:
    """The original, if timm is installed and knows it."""
    try:
        import timm
    except ImportError:
        return None
    if not timm.is_model(entries["architecture"]):
        return None
    classes = len(weights["head.weight"]) if "head.weight" in weights else 0
    arguments = {"num_classes": classes, **entries.get("model_args", {})}
    original = timm.create_model(entries["architecture"], pretrained=False, **arguments)
    original.load_state_dict(weights)
    return original.eval()


def image_model(
    where: Any,
    fields: dict[str, Any],
    layers: Weights,
    cls: torch.Tensor,
    positions: torch.Tensor,
    embed_patches: Sequence[torch.Tensor],
    has_classifier: bool,
) -> VanillaTransformerForImageClassification | VanillaTransformerVisionModel:
    """An image model with these weights.

    Args:
        cls: the class token, `(1, width)`.
        positions: `(patches, width)`, or with the position of the class token first.
        embed_patches: weight, `(width, channels, height, width of a patch)`, and bias of a convolution.
    """
    patches, patch_bias = embed_patches
    width, channels, height, patch_size = patches.shape
    count = (fields["image_size"] // patch_size) ** 2
    if height != patch_size or len(positions) not in (count, count + 1):
        raise ConversionError(f"{where} has images or patches that are not square")
    if len(positions) == count + 1:
        cls, positions = cls + positions[:1], positions[1:]
    weights = {
        **layers,
        "model.encoder.class_token.weight": cls,
        "model.encoder.embed_positions.weight": positions,
        "model.encoder.embed_patches.projection.weight": patches.flatten(1),
        "model.encoder.embed_patches.projection.bias": patch_bias,
    }
    config = VanillaTransformerVisionConfig(
        hidden_size=width,
        num_channels=channels,
        patch_size=patch_size,
        encoder_layers=count_layers(layers, "encoder"),
        **fields,
    )
    if has_classifier:
        return fill(VanillaTransformerForImageClassification(config), weights, where)
    weights = {
        name.removeprefix("model."): weight
        for name, weight in weights.items()
        if not name.startswith("classifier.")
    }
    return fill(VanillaTransformerVisionModel(config), weights, where)
