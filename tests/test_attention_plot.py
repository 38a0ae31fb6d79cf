"""The heat map of cross-attention: its words are readable, and its rows are distributions."""

import pytest
import torch

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.visualization.attention import plot_attention

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "decoder_layers": 2}


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["Y dió Jehová á su hijo."] * 2
    return VanillaTransformerTokenizer.train([texts], vocab_size=278, show_progress=False)


@pytest.fixture()
def model(tokenizer):
    torch.manual_seed(0)
    config = VanillaTransformerConfig(vocab_size=len(tokenizer), **SIZES)
    return VanillaTransformerForConditionalGeneration(config).eval()


def words(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_rows_and_columns_are_readable_pieces(model, tokenizer):
    axes = plot_attention(model, tokenizer, "dió 語 $", "Y dió á").axes[0]
    assert words(axes.yaxis) == ["Y", "dió", "á", "</s>"]
    # no merge joins the three bytes of 語
    assert words(axes.xaxis) == ["dió", "␣", "\\xe8", "\\xaa", "\\x9e", "␣", "$", "</s>"]


@pytest.mark.parametrize("settings", [{}, {"head": 1}, {"layer": 0}, {"target": "Y dió"}])
def test_rows_sum_to_1(model, tokenizer, settings):
    axes = plot_attention(model, tokenizer, "Jehová dió.", **settings).axes[0]
    weights = axes.images[0].get_array().data
    assert weights.shape == (len(words(axes.yaxis)), len(words(axes.xaxis)))
    assert weights.sum(1) == pytest.approx(1, abs=1e-5)


def test_the_mean_is_over_the_heads_of_the_layer(model, tokenizer):
    def weights(**settings):
        return (
            plot_attention(model, tokenizer, "su hijo", "dió", **settings).axes[0].images[0].get_array().data
        )

    assert weights() == pytest.approx((weights(head=0) + weights(head=1)) / 2, abs=1e-6)
    assert weights() == pytest.approx(weights(layer=1), abs=1e-6)
    assert abs(weights(layer=0) - weights(layer=1)).max() > 1e-4


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_keeps_its_settings(model, tokenizer, implementation):
    model.set_attn_implementation(implementation)
    model.train()
    plot_attention(model, tokenizer, "su hijo", "dió")
    assert model.config._attn_implementation == implementation and model.training


def test_the_model_keeps_its_settings_after_an_error(model, tokenizer, monkeypatch):
    model.set_attn_implementation("sdpa")

    def fail(**inputs):
        assert model.config._attn_implementation == "eager"
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        plot_attention(model, tokenizer, "su hijo", "dió")
    assert model.config._attn_implementation == "sdpa"


def test_errors_name_what_exists(model, tokenizer):
    with pytest.raises(ValueError, match="layer=2 .* 0 to 1"):
        plot_attention(model, tokenizer, "su", "dió", layer=2)
    with pytest.raises(ValueError, match="head=-3 .* 0 to 1"):
        plot_attention(model, tokenizer, "su", "dió", head=-3)
    decoder = VanillaTransformerForCausalLM(
        VanillaTransformerConfig(vocab_size=300, is_encoder_decoder=False, is_decoder=True, **SIZES)
    )
    with pytest.raises(ValueError, match="VanillaTransformerForCausalLM has no cross-attention"):
        plot_attention(decoder, tokenizer, "su", "dió")
