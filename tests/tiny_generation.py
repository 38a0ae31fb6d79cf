"""Small models that generate varied outputs, and batches for them."""

import pytest
import torch
from plain_beam_search import PAD

import vanilla_transformer.generation
from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
)

GREEDY = {"num_beams": 1}
PAPER = {"num_beams": 4, "length_penalty_type": "gnmt", "length_penalty": 0.6}


def random_model(vocab_size, seed=0, **sizes):
    """A small model whose next-token and attention distributions are far from uniform."""
    torch.manual_seed(seed)
    defaults = {"encoder_layers": 2, "decoder_layers": 2, "hidden_size": 16, "intermediate_size": 32}
    defaults |= {"num_attention_heads": 2, "tie_word_embeddings": False}
    config = VanillaTransformerConfig(vocab_size=vocab_size, **defaults | sizes)
    decoder_only = config.encoder_layers == 0
    model_class = (
        VanillaTransformerForCausalLM if decoder_only else VanillaTransformerForConditionalGeneration
    )
    model = model_class(config).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith(("q_proj.weight", "lm_head.weight")):
                weights.mul_(3)
    return model


def padded_batch(vocab_size, lengths, seed=0):
    torch.manual_seed(seed)
    input_ids = torch.randint(3, vocab_size, (len(lengths), max(lengths)))
    attention_mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": input_ids.masked_fill(attention_mask == 0, PAD), "attention_mask": attention_mask}


def generate(model, batch, seed=0, **search):
    torch.manual_seed(seed)
    return model.generate(**batch, **{"max_new_tokens": 12, **search})


def plain(model, batch, **search):
    """The output of the loops that call the model's own forward pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vanilla_transformer.generation, "why_not_prepared", lambda model: "a test")
        return generate(model, batch, **search)
