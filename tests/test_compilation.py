"""Training with compiled layers."""

import copy

import pytest
import torch
from tiny_models import assert_same_gradients, gradients, padded_batch, pair, random_model
from tiny_training import BUDGET, assert_same_weights, build, pairs, trainer_of
from torch._dynamo.utils import counters

from vanilla_transformer.losses import TrainingLoss
from vanilla_transformer.training.compilation import compile_layers


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def compiled_graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("settings", [{}, {"norm_position": "pre", "head_dim": 4, "value_dim": 12}])
def test_compiled_layers_have_the_same_gradients_at_every_shape(settings):
    """Other lengths and rows compile nothing again, and no layer falls back to Python."""
    plain = random_model(dropout=0.0, **settings).train()
    compiled = copy.deepcopy(plain)
    assert compile_layers(compiled, backend="eager", mode=None)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    batch, graphs = padded_batch(), []
    shorter = {name: rows[:, :6] for name, rows in batch.items()}
    two_rows = {name: rows[:2, :7] for name, rows in batch.items()}
    for inputs in (batch, shorter, two_rows, pair(batch, 0)):
        loss = TrainingLoss(0.1)
        ours = gradients(compiled, **inputs, training_loss=loss)
        assert_same_gradients(gradients(plain, **inputs, training_loss=loss), ours)
        graphs.append(compiled_graphs())
    assert graphs[-1] <= 8 and not counters["graph_break"]


@pytest.mark.parametrize("kind", ["seq2seq", "marian", "causal"])
def test_torch_compile_trains_the_same_model(tmp_path, kind):
    data = pairs()
    plain, compiled = build(kind), build(kind)
    trainer_of(tmp_path / "plain", plain, data, **BUDGET).train()
    settings = {"torch_compile": True, "torch_compile_backend": "eager"}
    trainer = trainer_of(tmp_path / "compiled", compiled, data, **BUDGET, **settings)
    trainer.train()
    assert compiled_graphs() > 0
    assert trainer.model is compiled
    assert_same_weights(compiled.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)
