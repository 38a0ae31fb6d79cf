"""Configurations: the paper's sizes, the presets, and errors for invalid values."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from vanilla_transformer import (
    PRESETS,
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerDetectionModel,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerModel,
    VanillaTransformerVisionConfig,
    VanillaTransformerVisionModel,
)


def parameters_in_millions(preset: str) -> float:
    with torch.device("meta"):
        model = VanillaTransformerForConditionalGeneration(VanillaTransformerConfig.from_preset(preset))
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("preset", "millions"),
    [
        ("table3-base", 65),
        ("table3-B-head-dim-16", 58),
        ("table3-B-head-dim-32", 60),
        ("table3-C-2-layers", 36),
        ("table3-C-4-layers", 50),
        ("table3-C-8-layers", 80),
        ("table3-C-hidden-256", 28),
        ("table3-C-hidden-1024", 168),
        ("table3-C-intermediate-1024", 53),
        ("table3-C-intermediate-4096", 90),
        ("table3-big", 213),
        # the paper gives no count for these rows; they have the size of the base model
        ("table3-A-1-head", 65),
        ("table3-A-4-heads", 65),
        ("table3-A-16-heads", 65),
        ("table3-A-32-heads", 65),
        ("table3-D-dropout-0.0", 65),
        ("table3-D-dropout-0.2", 65),
        ("table3-E-learned-positions", 65),
    ],
)
def test_presets_have_the_papers_parameter_counts(preset, millions):
    assert round(parameters_in_millions(preset)) == millions


@pytest.mark.parametrize(
    ("preset", "dropout"),
    [("base", 0.1), ("big", 0.3), ("table3-D-dropout-0.0", 0.0), ("table3-D-dropout-0.2", 0.2)],
)
def test_presets_have_the_papers_dropout(preset, dropout):
    assert VanillaTransformerConfig.from_preset(preset).dropout == dropout


def test_default_configuration_is_the_papers_base_model():
    config = VanillaTransformerConfig()
    assert (config.encoder_layers, config.decoder_layers) == (6, 6)
    assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == (512, 2048, 8)
    assert (config.head_dim, config.value_dim, config.dropout) == (64, 64, 0.1)
    assert (config.norm_position, config.activation) == ("post", "relu")
    assert config.to_dict() == VanillaTransformerConfig.from_preset("base").to_dict()


def test_synonyms_are_read_before_head_dim_is_computed():
    config = VanillaTransformerConfig(d_model=256, num_heads=4)
    assert (config.hidden_size, config.head_dim, config.value_dim) == (256, 64, 64)
    assert VanillaTransformerConfig.from_preset("tiny", d_model=64).head_dim == 16


def test_row_b_changes_only_the_width_of_queries_and_keys():
    config = VanillaTransformerConfig.from_preset("table3-B-head-dim-16")
    assert (config.head_dim, config.value_dim) == (16, 64)
    assert set(PRESETS["table3-B-head-dim-16"]) == {"vocab_size", "head_dim"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, r"hidden_size=30.*num_attention_heads=4"),
        ({"hidden_size": 33, "num_attention_heads": 3}, r"hidden_size=33 must be even"),
        ({"dropout": 1.5}, r"dropout=1.5"),
        ({"encoder_layers": 0, "decoder_layers": 0}, r"encoder_layers=0 and decoder_layers=0"),
        ({"encoder_layers": -1}, r"encoder_layers=-1"),
        ({"norm_position": "middle"}, r"norm_position"),
        ({"activation": "rleu"}, r"activation='rleu'.*relu"),
        ({"vocab_size": "many"}, r"vocab_size"),
        ({"max_position_embeddings": 0}, r"max_position_embeddings=0"),
        ({"num_hidden_layers": 2}, r"encoder_layers and decoder_layers"),
        ({"d_model": 30, "num_heads": 4}, r"hidden_size=30.*num_attention_heads=4"),
    ],
)
def test_an_invalid_configuration_raises(settings, message):
    with pytest.raises(Exception, match=message):
        VanillaTransformerConfig(**settings)


def test_an_unknown_preset_lists_the_presets():
    with pytest.raises(ValueError, match="'huge'.*tiny, small, base, big"):
        VanillaTransformerConfig.from_preset("huge")


@pytest.mark.parametrize("smoothing", ["0.0", "0.2"])
def test_a_preset_of_label_smoothing_names_the_training_argument(smoothing):
    with pytest.raises(ValueError, match=f"table3-base with --label_smoothing_factor {smoothing}"):
        VanillaTransformerConfig.from_preset(f"table3-D-smoothing-{smoothing}")
    assert not [name for name in PRESETS if "smoothing" in name]


@pytest.mark.parametrize(
    "settings",
    [
        {"id2label": "yes"},
        {"id2label": [0, 1]},
        {"id2label": {"first": "yes"}},
        {"id2label": {0: ["yes"]}},
        {"label2id": ["yes"]},
        {"label2id": {"yes": "no"}},
        {"num_labels": {}},
        {"num_labels": -3},
        {"num_labels": 10**10},
        {"num_labels": 1.5},
        {"num_attention_heads": 0},
        {"num_attention_heads": [8]},
        {"hidden_size": None},
        {"hidden_size": -512},
        {"intermediate_size": 10**20},
        {"encoder_layers": 10**7},
        {"decoder_layers": "6"},
        {"vocab_size": 10**40},
        {"vocab_size": {"a": 1}},
        {"layer_norm_eps": 0.0},
        {"layer_norm_eps": float("nan")},
        {"task_specific_params": "translation"},
        {"task_specific_params": {"translation": 4}},
        {"prefix": ["translate: "]},
        {"dtype": "float31"},
    ],
    ids=str,
)
def test_a_wrong_value_raises_an_error_that_names_the_field(settings, tmp_path):
    (name,) = settings
    with pytest.raises((ValueError, StrictDataclassError), match=name):
        VanillaTransformerConfig(**settings)
    VanillaTransformerConfig(num_labels=3).save_pretrained(tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text()) | settings
    (tmp_path / "config.json").write_text(json.dumps(entries))
    with pytest.raises((ValueError, StrictDataclassError), match=name):
        VanillaTransformerConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("head", "config", "field"),
    [
        (
            VanillaTransformerForConditionalGeneration,
            VanillaTransformerConfig(vocab_size=10**9),
            "vocab_size",
        ),
        (VanillaTransformerForCausalLM, VanillaTransformerConfig(vocab_size=10**9), "vocab_size"),
        (VanillaTransformerModel, VanillaTransformerConfig(intermediate_size=10**10), "intermediate_size"),
        (
            VanillaTransformerForSequenceClassification,
            VanillaTransformerConfig(pair_rows=10**11),
            "pair_rows",
        ),
        (VanillaTransformerModel, VanillaTransformerConfig(hidden_size=2**24), "hidden_size"),
        (VanillaTransformerVisionModel, VanillaTransformerVisionConfig(image_size=2**24), "image_size"),
        (
            VanillaTransformerDetectionModel,
            VanillaTransformerDetectionConfig(patch_size=2**20, stem="patches"),
            "patch_size",
        ),
    ],
    ids=str,
)
def test_a_model_that_no_memory_holds_is_not_built(head, config, field):
    with pytest.raises(ValueError, match=rf"need [\d,]+ GB .*has [\d,]+ GB.*{field}"):
        head(config)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_estimate_of_memory_is_near_the_weights(preset):
    config = VanillaTransformerConfig.from_preset(preset)
    counted = sum(config.weight_counts().values())
    assert counted == pytest.approx(1e6 * parameters_in_millions(preset), rel=0.02)
