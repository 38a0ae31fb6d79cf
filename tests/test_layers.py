"""Attention and dropout by themselves."""

import pytest
import torch
from tiny_models import WIDTH, random_model

from vanilla_transformer.layers import Dropout


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
