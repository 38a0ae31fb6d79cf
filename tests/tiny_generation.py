"""Small models that generate varied outputs, and batches for them."""

import torch
from plain_beam_search import PAD

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
)


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
