"""Where dropout is: after each sublayer, on the embeddings (section 5.4), and before a classifier."""

import pytest
import torch
from tiny_models import SIZES, VOCABULARY, WIDTH, random_model

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForImageClassification,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerVisionConfig,
)
from vanilla_transformer.layers import Dropout

IDS = torch.arange(3, 12)[None]


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize("norm_position", ["post", "pre"])
@torch.no_grad()
def test_dropout_drops_sublayers_but_not_the_residual(stack, norm_position):
    """Post-norm without its sublayers is the norms alone; pre-norm is the identity."""
    model = random_model(norm_position=norm_position).train().model
    layer = getattr(model, stack).layers[0]
    for dropout in (module for module in layer.modules() if isinstance(module, Dropout)):
        dropout.p = 1.0
    states = expected = torch.randn(2, 5, WIDTH)
    if norm_position == "post":
        for name in ["self_attn", *["cross_attn"] * (stack == "decoder"), "feed_forward"]:
            expected = getattr(layer, f"{name}_add_norm").norm(expected)
    memory = [torch.randn(2, 7, WIDTH)] if stack == "decoder" else []
    torch.testing.assert_close(layer(states, *memory), expected)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@torch.no_grad()
def test_dropout_applies_to_the_sum_of_embeddings_and_positions(stack):
    model = random_model(dropout=0.3).train().model
    ids, part, seen = torch.randint(3, VOCABULARY, (4, 50)), getattr(model, stack), []
    part.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(input_ids=ids, decoder_input_ids=ids)
    summed = part.embed_positions(part.embed_tokens(ids), torch.arange(50)).expand_as(seen[0])
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], summed[kept] / 0.7)
    assert (~kept).float().mean().item() == pytest.approx(0.3, abs=0.04)  # of 6,400 numbers: 7 deviations


@pytest.mark.parametrize(
    "head, config, inputs",
    [
        (VanillaTransformerForSequenceClassification, VanillaTransformerConfig(**SIZES), {"input_ids": IDS}),
        (VanillaTransformerForTokenClassification, VanillaTransformerConfig(**SIZES), {"input_ids": IDS}),
        (
            VanillaTransformerForImageClassification,
            VanillaTransformerVisionConfig.from_preset("tiny", encoder_layers=1),
            {"pixel_values": torch.zeros(1, 3, 32, 32)},
        ),
    ],
    ids=["texts", "tokens", "images"],
)
@torch.no_grad()
def test_dropout_comes_before_the_classifier(head, config, inputs):
    config.dropout = 0.4
    model = head(config).train()
    assert model.dropout.p == 0.4
    model.dropout.p = 1.0
    model.classifier.bias.normal_()
    logits = model(**inputs).logits
    torch.testing.assert_close(logits, model.classifier.bias.expand_as(logits))
