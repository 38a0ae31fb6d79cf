"""Configurations: the paper's sizes, the presets, and errors for invalid values."""

import pytest
import torch

from vanilla_transformer import (
    PRESETS,
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
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
