"""Packing, and batch normalisation, whose statistics must not contain padding."""

import pytest
import torch
from tiny_models import (
    VOCABULARY,
    assert_same_gradients,
    gradients,
    padded_batch,
    pair,
    random_model,
)
from torch.nn import functional as F

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerModel,
)
from vanilla_transformer.losses import IGNORE_INDEX, TrainingLoss
from vanilla_transformer.packing import Packing, up_to_last_label


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return padded_batch()


def test_unpacking_reverses_packing():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    packing = Packing(mask)
    padded = torch.randn(2, 3, 4) * mask[..., None]
    packed = packing.pack(padded)
    assert packed.shape == (1, 3, 4)
    assert torch.equal(packing.unpack(packed), padded)
    assert Packing().pack(padded) is padded and Packing().unpack(padded) is padded


def test_real_tokens_end_with_the_last_label():
    labels = torch.tensor([[5, -100, 6, -100], [-100, -100, -100, -100], [-100, -100, -100, 4]])
    expected = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert torch.equal(up_to_last_label(labels), expected)


def batch_normalised(**settings) -> VanillaTransformerModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    layers = {"encoder_layers": 2, "decoder_layers": 0, "dropout": 0.0}
    return VanillaTransformerModel(
        VanillaTransformerConfig(**sizes, **layers, norm_type="batch", **settings)
    ).double()


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_batch_statistics_ignore_padding(batch, norm_position):
    """More padding changes no output, no gradient and no running statistic."""
    seen = []
    for padding in (0, 7):
        model = batch_normalised(norm_position=norm_position)
        ids = torch.nn.functional.pad(batch["input_ids"], (0, padding), value=1)
        mask = torch.nn.functional.pad(batch["attention_mask"], (0, padding))
        states = model(ids, mask).last_hidden_state[:, : batch["input_ids"].shape[1]]
        (states * batch["attention_mask"][..., None]).square().sum().backward()
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        seen.append((states * batch["attention_mask"][..., None], *model.buffers(), *grads))
    for once, padded in zip(*seen):
        torch.testing.assert_close(padded, once)


def test_batch_normalisation_covers_all_real_tokens(batch):
    """In training each column of the output has mean 0 and variance 1 over the real tokens."""
    model = batch_normalised(norm_position="post")
    states = model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    real = states[batch["attention_mask"] == 1]
    torch.testing.assert_close(real.mean(0), torch.zeros(16).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(real.var(0, unbiased=False), torch.ones(16).double(), atol=1e-3, rtol=0)


def test_batch_normalised_rows_do_not_depend_on_each_other(batch):
    """After training, a row gets the same logits alone and padded in a batch."""
    model = random_model(norm_type="batch").double().train()
    for _ in range(3):
        model(**batch, training_loss=TrainingLoss())  # moves the running statistics
    model.eval()
    logits = model(**batch).logits
    for row in range(3):
        alone = pair(batch, row)
        length = alone["labels"].shape[1]
        torch.testing.assert_close(model(**alone).logits[0], logits[row, :length])


def attention_row_by_row(query, key, value, starts, memory_starts, *longest, scale, window_size):
    """What `varlen_attn` computes on a GPU."""
    rows = []
    for start, end, first, last in zip(starts, starts[1:], memory_starts, memory_starts[1:]):
        assert end - start <= longest[0] and last - first <= longest[1]
        row = [part.transpose(0, 1) for part in (query[start:end], key[first:last], value[first:last])]
        output = F.scaled_dot_product_attention(*row, is_causal=window_size == (-1, 0), scale=scale)
        rows.append(output.transpose(0, 1))
    return torch.cat(rows)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("with_decoder_mask", [False, True])
def test_attention_that_stays_packed_gives_the_gradients_of_padded_attention(
    monkeypatch, batch, norm_position, with_decoder_mask
):
    """A mask of the decoder can hide more than padding: its self-attention is then unpacked."""
    model = random_model(dropout=0.0, norm_position=norm_position).train()
    if with_decoder_mask:
        batch["decoder_attention_mask"] = torch.ones_like(batch["labels"])
        batch["decoder_attention_mask"][:, 1] = 0
    batch["attention_mask"][0, 4] = 0  # a hole
    padded = gradients(model, **batch)
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs["window_size"])
        return attention_row_by_row(*args, **kwargs)

    monkeypatch.setattr("vanilla_transformer.packing.attends_to_packed_tokens", lambda device: True)
    monkeypatch.setattr("vanilla_transformer.layers.HALF_PRECISION", (torch.float32,))
    monkeypatch.setattr("vanilla_transformer.layers.varlen_attn", counted)
    assert_same_gradients(padded, gradients(model, **batch, training_loss=TrainingLoss()))
    everything, causal = calls.count((-1, -1)), calls.count((-1, 0))
    assert (everything, causal) == ((3, 0) if with_decoder_mask else (6, 3))  # of three layers in each stack


@pytest.mark.parametrize("causal", [False, True])
def test_unlabelled_tokens_between_labels_are_still_attended_to(batch, causal):
    """Labels may have gaps, such as a prompt's words: packing skips only what follows the last label."""
    model = random_model(dropout=0.0)
    labels = batch["labels"].clone()
    labels[:, 1], labels[1, 3:5] = IGNORE_INDEX, IGNORE_INDEX
    inputs = batch | {"labels": labels}
    if causal:
        model = VanillaTransformerForCausalLM(model.config)
        inputs = {"input_ids": batch["labels"].clamp(min=1), "labels": labels}
    padded = gradients(model.train(), **inputs)
    assert_same_gradients(padded, gradients(model, **inputs, training_loss=TrainingLoss()))


def test_unlabelled_tokens_become_padding_in_the_decoders_input():
    model = random_model()
    labels = torch.tensor([[5, IGNORE_INDEX, 6, 2, IGNORE_INDEX]])
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    assert shifted.tolist() == [[start, 5, pad, 6, 2]]
    assert pad != model.config.eos_token_id
