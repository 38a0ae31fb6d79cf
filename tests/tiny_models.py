"""Small models with random weights, batches for them, and their gradients: shared by several test modules."""

import pytest
import torch

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration

VOCABULARY, WIDTH, INNER, HEADS, LAYERS = 101, 32, 64, 4, 3
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
}


def random_model(seed: int = 0, **settings) -> VanillaTransformerForConditionalGeneration:
    """A model with random weights, biases and norms, so that a test notices if two are swapped."""
    torch.manual_seed(seed)
    model = VanillaTransformerForConditionalGeneration(VanillaTransformerConfig(**SIZES | settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def padded_batch() -> dict[str, torch.Tensor]:
    """Three pairs of different lengths, padded on the right."""
    torch.manual_seed(2)
    source, labels = torch.randint(3, VOCABULARY, (3, 11)), torch.randint(3, VOCABULARY, (3, 8))
    mask = torch.ones_like(source)
    for row, (source_length, target_length) in enumerate([(11, 5), (6, 8), (3, 2)]):
        source[row, source_length:], mask[row, source_length:] = 1, 0
        labels[row, target_length:] = -100
    return {"input_ids": source, "attention_mask": mask, "labels": labels}


def pair(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One row of the batch without padding."""
    source, labels = batch["attention_mask"][row] == 1, batch["labels"][row] != -100
    return {"input_ids": batch["input_ids"][row, source][None], "labels": batch["labels"][row, labels][None]}


def gradients(model: torch.nn.Module, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=1e-5, rtol=1e-4, msg=name)


VARIANTS = [
    {},
    {"norm_position": "pre"},
    {"position_embedding_type": "learned", "max_position_embeddings": 64},
    {"head_dim": 4, "value_dim": 12},
    {"tie_word_embeddings": False, "activation": "gelu"},
]
variants = pytest.mark.parametrize("settings", VARIANTS, ids=lambda settings: ",".join(settings) or "paper")
