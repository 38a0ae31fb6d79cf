"""The weights before training: Xavier for matrices, variance 1 / d_model for embeddings, zero biases."""

import pytest
import torch
from torch import nn

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForImageClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerVisionConfig,
)

SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "encoder_layers": 2}
TEXT = {"vocab_size": 3000, "decoder_layers": 2, "max_position_embeddings": 900, **SIZES}


@pytest.mark.parametrize(
    "head, config",
    [
        (VanillaTransformerForConditionalGeneration, VanillaTransformerConfig(**TEXT)),
        (
            VanillaTransformerForConditionalGeneration,
            VanillaTransformerConfig(**TEXT, tie_word_embeddings=False, position_embedding_type="learned"),
        ),
        (VanillaTransformerForTokenClassification, VanillaTransformerConfig(**TEXT, num_labels=50)),
        (
            VanillaTransformerForImageClassification,
            VanillaTransformerVisionConfig(**SIZES, image_size=64, patch_size=4, num_labels=50),
        ),
    ],
    ids=["tied", "untied", "tokens", "images"],
)
def test_initial_weights(head, config):
    torch.manual_seed(0)
    model, tables = head(config), set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            tables.add(module.weight)
            tolerance = 4 / module.weight.numel() ** 0.5  # a class token has few numbers
            expected = pytest.approx(module.embedding_dim**-0.5, rel=tolerance)
            assert module.weight.std().item() == expected, name
    matrices = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.weight not in tables:
            bound = (6 / sum(module.weight.shape)) ** 0.5  # uniform in ±√(6 / (inputs + outputs))
            largest = module.weight.abs().max().item()
            assert 0.97 * bound < largest <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name
            assert module.bias is None or not module.bias.any(), name
            matrices += 1
    assert matrices > 10
