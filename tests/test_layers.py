"""Attention and dropout by themselves."""

import pytest
import torch
from tiny_models import WIDTH, gradients, padded_batch, random_model
from torch import nn
from torch.nn import functional as F

from vanilla_transformer.layers import Dropout, scaled_dot_product_attention
from vanilla_transformer.losses import TrainingLoss


@torch.no_grad()
def test_attention_scores_are_divided_by_the_root_of_head_dim():
    attention = random_model(head_dim=4, value_dim=12).model.encoder.layers[0].self_attn
    attention.config._attn_implementation = "eager"
    states = torch.randn(1, 5, WIDTH)
    query, key = (
        projection(states)[0].unflatten(-1, (-1, 4)).transpose(0, 1)  # (heads, length, head_dim)
        for projection in (attention.q_proj, attention.k_proj)
    )
    expected = (query @ key.transpose(1, 2) / 2).softmax(-1)  # √4
    torch.testing.assert_close(attention(states)[1][0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_evenly(dtype):
    dropout, ones = Dropout(0.3), torch.ones(333, 3001, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    dropped, other = dropout(ones), dropout(ones)
    assert dropped.dtype == dtype and set(dropped.unique().tolist()) == {0, ones.new_tensor(1 / 0.7).item()}
    for zero in (dropped == 0, other == 0):
        assert zero.float().mean().item() == pytest.approx(0.3, abs=0.003)
        for axis in (0, 1):  # evenly: of 333 or 3001 values, 6 standard deviations at the most
            share = zero.float().mean(axis)
            assert (share - 0.3).abs().max() < 6 * (0.3 * 0.7 / zero.shape[axis]) ** 0.5
    both = ((dropped == 0) & (other == 0)).float().mean().item()
    assert both == pytest.approx(0.09, abs=0.003)
    torch.manual_seed(0)
    assert torch.equal(dropout(ones), dropped)
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped)
    assert torch.equal(dropout.eval()(ones), ones) and torch.equal(Dropout(0.0)(ones), ones)
    assert Dropout(0.5)(ones[:0]).shape == (0, 3001)
    assert not Dropout(1.0)(ones).any() and not Dropout(0.9999999)(ones[:9]).any()


@pytest.mark.parametrize("mask", ["none", "causal", "boolean", "added"])
def test_attention_equals_sdpa(mask):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 7, 8)
    module = nn.Module()
    module.is_causal = mask == "causal"
    attention_mask = None
    if mask in ("boolean", "added"):
        attention_mask = torch.rand(2, 1, 7, 7) < 0.6
        attention_mask[..., 0] = True
    expected = F.scaled_dot_product_attention(query, key, value, attention_mask, is_causal=module.is_causal)
    if mask == "added":
        attention_mask = torch.zeros(2, 1, 7, 7).masked_fill(~attention_mask, torch.finfo().min)
    heads, weights = scaled_dot_product_attention(module, query, key, value, attention_mask, 8**-0.5)
    torch.testing.assert_close(heads, expected.transpose(1, 2))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 7))


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_stays_near_float32(training):
    model, batch = random_model(dropout=0.0).train(training), padded_batch()
    exact = gradients(model, **batch, training_loss=TrainingLoss())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(model, **batch, training_loss=TrainingLoss())
    torch.testing.assert_close(rounded[0], exact[0], rtol=1e-2, atol=1e-2)
    flat = [torch.cat([grad.flatten() for grad in each[1].values()]) for each in (exact, rounded)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.995
