"""Independent implementations with the same weights give the same numbers, to 1e-5 in float32."""

import math

import pytest
import torch
from tiny_models import HEADS, INNER, LAYERS, VOCABULARY, WIDTH, random_model
from torch import nn
from transformers import MarianConfig, MarianMTModel

from vanilla_transformer import VanillaTransformerForConditionalGeneration
from vanilla_transformer.embeddings import SinusoidalPositions, sinusoids


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    source, target = torch.randint(3, VOCABULARY, (3, 9)), torch.randint(3, VOCABULARY, (3, 7))
    mask = torch.ones_like(source)
    mask[1, 5:] = 0
    return {"input_ids": source, "attention_mask": mask, "decoder_input_ids": target}


def copy_linear(target: nn.Linear, source: nn.Linear):
    target.weight.data.copy_(source.weight)
    target.bias.data.copy_(source.bias)


def copy_norm(target: nn.LayerNorm, source: nn.LayerNorm):
    target.weight.data.copy_(source.weight)
    target.bias.data.copy_(source.bias)


def copy_attention_to_torch(target: nn.MultiheadAttention, source):
    projections = source.q_proj, source.k_proj, source.v_proj
    target.in_proj_weight.data.copy_(torch.cat([projection.weight for projection in projections]))
    target.in_proj_bias.data.copy_(torch.cat([projection.bias for projection in projections]))
    copy_linear(target.out_proj, source.o_proj)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_equals_torch_nn_transformer(batch, norm_position):
    ours = random_model(norm_position=norm_position)
    theirs = nn.Transformer(
        WIDTH, HEADS, LAYERS, LAYERS, INNER, batch_first=True, norm_first=norm_position == "pre"
    ).eval()
    if norm_position == "post":  # torch adds a last norm, which post-norm stacks do not have
        theirs.encoder.norm = theirs.decoder.norm = None
    else:
        copy_norm(theirs.encoder.norm, ours.model.encoder.norm)
        copy_norm(theirs.decoder.norm, ours.model.decoder.norm)
    for target, source in zip(theirs.encoder.layers, ours.model.encoder.layers, strict=True):
        copy_attention_to_torch(target.self_attn, source.self_attn)
        copy_norm(target.norm1, source.self_attn_add_norm.norm)
        copy_linear(target.linear1, source.feed_forward.fc1)
        copy_linear(target.linear2, source.feed_forward.fc2)
        copy_norm(target.norm2, source.feed_forward_add_norm.norm)
    for target, source in zip(theirs.decoder.layers, ours.model.decoder.layers, strict=True):
        copy_attention_to_torch(target.self_attn, source.self_attn)
        copy_norm(target.norm1, source.self_attn_add_norm.norm)
        copy_attention_to_torch(target.multihead_attn, source.cross_attn)
        copy_norm(target.norm2, source.cross_attn_add_norm.norm)
        copy_linear(target.linear1, source.feed_forward.fc1)
        copy_linear(target.linear2, source.feed_forward.fc2)
        copy_norm(target.norm3, source.feed_forward_add_norm.norm)

    words = ours.get_input_embeddings().weight

    def embed(ids):
        return words[ids] * math.sqrt(WIDTH) + sinusoids(torch.arange(ids.shape[1]), WIDTH)

    padding = batch["attention_mask"] == 0
    length = batch["decoder_input_ids"].shape[1]
    decoded = theirs(
        embed(batch["input_ids"]),
        embed(batch["decoder_input_ids"]),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(length),
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
        tgt_is_causal=True,
    )
    torch.testing.assert_close(ours(**batch).logits, decoded @ words.T, atol=1e-5, rtol=1e-5)


def copy_attention_to_marian(target, source):
    for name in ("q_proj", "k_proj", "v_proj"):
        copy_linear(getattr(target, name), getattr(source, name))
    copy_linear(target.out_proj, source.o_proj)


def test_equals_marian(batch):
    ours = random_model()
    theirs = MarianMTModel(
        MarianConfig(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_ffn_dim=INNER,
            decoder_ffn_dim=INNER,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            activation_function="relu",
            scale_embedding=True,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=0,
        )
    ).eval()
    # Marian's sinusoids have all sines in the first half of the columns and all cosines in the second. The
    # models are equal once all weights that read or write a d_model vector have their columns in that order.
    order = torch.cat((torch.arange(0, WIDTH, 2), torch.arange(1, WIDTH, 2)))
    theirs.model.shared.weight.data.copy_(ours.get_input_embeddings().weight[:, order])

    def copy_layer(target, source):
        copy_attention_to_marian(target.self_attn, source.self_attn)
        copy_norm(target.self_attn_layer_norm, source.self_attn_add_norm.norm)
        attentions, norms = [target.self_attn], [target.self_attn_layer_norm, target.final_layer_norm]
        if hasattr(source, "cross_attn"):
            copy_attention_to_marian(target.encoder_attn, source.cross_attn)
            copy_norm(target.encoder_attn_layer_norm, source.cross_attn_add_norm.norm)
            attentions.append(target.encoder_attn)
            norms.append(target.encoder_attn_layer_norm)
        copy_linear(target.fc1, source.feed_forward.fc1)
        copy_linear(target.fc2, source.feed_forward.fc2)
        copy_norm(target.final_layer_norm, source.feed_forward_add_norm.norm)
        for attention in attentions:
            for reads in (attention.q_proj, attention.k_proj, attention.v_proj):
                reads.weight.data = reads.weight[:, order]
        for writes in (*(attention.out_proj for attention in attentions), target.fc2):
            writes.weight.data, writes.bias.data = writes.weight[order], writes.bias[order]
        for norm in norms:
            norm.weight.data, norm.bias.data = norm.weight[order], norm.bias[order]
        target.fc1.weight.data = target.fc1.weight[:, order]

    with torch.no_grad():
        for name in ("encoder", "decoder"):
            for target, source in zip(
                getattr(theirs.model, name).layers, getattr(ours.model, name).layers, strict=True
            ):
                copy_layer(target, source)
    torch.testing.assert_close(ours(**batch).logits, theirs(**batch).logits, atol=1e-5, rtol=1e-5)


def reference_encoding(length: int, width: int) -> torch.Tensor:
    """Section 3.5, entry by entry in Python's float64."""
    rows = []
    for position in range(length):
        row = []
        for i in range(width // 2):
            angle = position / 10000 ** (2 * i / width)
            row += [math.sin(angle), math.cos(angle)]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def test_positional_encoding_equals_a_float64_reference():
    reference = reference_encoding(5000, 64)
    encoded = sinusoids(torch.arange(5000), 64)
    assert encoded.dtype == torch.float32
    assert (encoded.double() - reference).abs().max() < 1e-6


def test_positional_encoding_stays_exact_in_a_bfloat16_model(tmp_path):
    random_model().save_pretrained(tmp_path)
    model = VanillaTransformerForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    reference = reference_encoding(5000, WIDTH)
    zeros = torch.zeros(1, 5000, WIDTH)
    added = model.model.encoder.embed_positions(zeros, torch.arange(5000)[None])
    assert (added.double()[0] - reference).abs().max() < 1e-6
    # In bfloat16 the sum is rounded once, to 8 bits.
    rounded = model.model.encoder.embed_positions(zeros.bfloat16(), torch.arange(5000)[None])
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded[0], reference.float().bfloat16(), atol=0, rtol=0)


def test_sinusoids_are_exact_at_any_position():
    far = SinusoidalPositions()(torch.zeros(1, 1, 8), torch.tensor([[123_456]]))
    assert far[0, 0, 0].item() == pytest.approx(math.sin(123_456), abs=1e-6)
