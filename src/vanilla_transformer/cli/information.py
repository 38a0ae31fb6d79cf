"""`info`: parameters, memory and arithmetic of a configuration."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..configuration_vanilla_transformer import (
    LayersConfig,
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerVisionConfig,
)
from .loading import loading

PRESET_CONFIGS: dict[str, tuple[type[LayersConfig], str]] = {
    "text": (VanillaTransformerConfig, "AutoModelForSeq2SeqLM"),
    "vision": (VanillaTransformerVisionConfig, "AutoModelForImageClassification"),
    "detection": (VanillaTransformerDetectionConfig, "AutoModelForObjectDetection"),
}
SEQ2SEQ = ("ForConditionalGeneration", "MTModel")  # ends of names of classes with encoder and decoder
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
TRAINING_BYTES = 16  # of a parameter in float32: weight, gradient, and Adam's two moments


def without_weights(name: str, kind: str) -> PreTrainedModel:
    """The model of a folder, a Hub name or a preset, on the meta device, which needs no memory."""
    config_class, auto_class = PRESET_CONFIGS[kind]
    config: PreTrainedConfig
    if name in config_class.presets and not Path(name).exists():
        config = config_class.from_preset(name)
    else:
        try:
            with loading(name):
                config = AutoConfig.from_pretrained(name)
        except OSError as error:
            presets = ", ".join(config_class.presets)
            raise OSError(f"{error}; it is no preset either ({presets})") from error
        architecture = (config.architectures or [""])[0]
        auto_class = next(
            (
                auto
                for auto in vars(transformers)
                if auto.startswith("AutoModelFor") and architecture.endswith(auto.removeprefix("AutoModel"))
            ),
            "AutoModelForSeq2SeqLM" if architecture.endswith(SEQ2SEQ) else "AutoModel",
        )
    with torch.device("meta"):
        return getattr(transformers, auto_class).from_config(config)


def parts(model: PreTrainedModel) -> dict[str, int]:
    """The parameters of each part; a matrix with several uses counts once, for its first."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return dict(counts)


def part_of(name: str) -> str:
    words = name.split(".")
    if any("embed" in word or word in ("shared", "class_token") for word in words):
        return "embeddings"
    return next((word for word in words if word in ("encoder", "decoder")), "head")


def products(model: PreTrainedModel, length: int) -> dict[str, int]:
    """Floating-point operations of the forward pass for one token, by part; none for other architectures.

    A multiplication and an addition are two. A linear layer needs two for each weight, and attention
    2 * length * (head_dim + value_dim) for each head. Norms, activations and softmax are not counted.
    """
    config = model.config
    if not isinstance(config, VanillaTransformerConfig):
        return {}
    of_attention = (
        2 * length * config.num_attention_heads * ((config.head_dim or 0) + (config.value_dim or 0))
    )
    found: Counter[str] = Counter()
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        weights = 2 * module.in_features * module.out_features
        if ".decoder." in name and (".cross_attn.k_proj" in name or ".cross_attn.v_proj" in name):
            found["source"] += weights  # of the encoder's output, once for each of its tokens
        elif ".encoder." in name:
            found["source"] += weights
        else:
            found["target"] += weights
    found["source"] += config.encoder_layers * of_attention
    found["target"] += config.decoder_layers * of_attention * (2 if config.is_encoder_decoder else 1)
    return {name: count for name, count in found.items() if count}


def information(name: str, kind: str, length: int) -> dict[str, Any]:
    model = without_weights(name, kind)
    counts = parts(model)
    total = sum(counts.values())
    return {
        "model": type(model).__name__,
        "parameters": {**counts, "total": total},
        "weights_bytes": {precision: total * size for precision, size in BYTES.items()},
        "training_bytes": total * TRAINING_BYTES,
        "flops_per_token": products(model, length),
    }


def as_text(found: dict[str, Any], length: int) -> str:
    rows = [found["model"], ""]
    rows += [f"{count:>16,}  {name}" for name, count in found["parameters"].items()]
    rows += ["", "memory of the weights"]
    rows += [f"{size / 2**20:>12,.1f} MiB  {name}" for name, size in found["weights_bytes"].items()]
    rows += [
        "",
        "memory of training in float32: weights, gradients and Adam's moments; activations come on top",
    ]
    rows += [f"{found['training_bytes'] / 2**20:>12,.1f} MiB"]
    if found["flops_per_token"]:
        rows += [
            "",
            f"floating-point operations for one token among {length}; training needs 3 times as many",
        ]
        rows += [
            f"{count / 1e6:>12,.1f} M    forward, {name}" for name, count in found["flops_per_token"].items()
        ]
    return "\n".join(rows)
