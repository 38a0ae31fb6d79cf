"""The tensors of fixed size that a GPU decodes with, here without its graphs."""

import pytest
import torch
from tiny_generation import GREEDY, PAPER, generate, padded_batch, plain, random_model
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

import vanilla_transformer.generation
from vanilla_transformer.decoding import StaticDecoding
from vanilla_transformer.prepared import prepared_decoder


@pytest.fixture(autouse=True)
def static(monkeypatch):
    monkeypatch.setattr(vanilla_transformer.generation, "is_static", lambda device: True)


@pytest.mark.parametrize("search", [GREEDY, PAPER, {"num_beams": 3}], ids=["greedy", "paper", "transformers"])
def test_tensors_of_fixed_size_serve_batches_of_other_sizes(search):
    model = random_model(14, seed=10)
    for lengths in ([5, 2, 7], [1], [3, 4, 5, 6, 7, 8, 9], [16, 2], [17]):
        batch = padded_batch(14, lengths)
        for _ in range(2):
            assert torch.equal(generate(model, batch, **search), plain(model, batch, **search))
    kept = prepared_decoder(model).static
    assert len(kept) == 2  # sources of up to 16 and up to 32 tokens
    batch = padded_batch(14, [5, 2])
    expected = plain(model, batch, **search)
    with torch.inference_mode():
        assert torch.equal(generate(model, batch, **search), expected)
    assert torch.equal(generate(model, batch, **search), expected)
    for length in range(16, 400, 16):
        generate(model, padded_batch(14, [length]), **search)
    assert len(kept) == StaticDecoding.MOST


@pytest.mark.parametrize("search", [GREEDY, PAPER], ids=["greedy", "paper"])
def test_numbers_that_are_nan_stay_in_their_batch(search):
    model, batch = random_model(14, seed=10), padded_batch(14, [5, 2, 7])
    expected = plain(model, batch, **search)
    bad = torch.full((3, 12, model.config.hidden_size), float("nan"))
    broken = {"encoder_outputs": BaseModelOutput(bad), "attention_mask": torch.ones(3, 12, dtype=torch.long)}
    generate(model, broken, **search)
    assert torch.equal(generate(model, batch, **search), expected)


def test_a_call_inside_another_gets_tensors_of_its_own():
    model, batch = random_model(14, seed=11), padded_batch(14, [5, 2, 7])
    expected = plain(model, batch, **GREEDY)
    inner = []

    class CallAgain(LogitsProcessor):
        def __call__(self, input_ids, scores):
            if not inner:
                inner.append(None)
                inner.append(generate(model, batch, **GREEDY))
            return scores

    outer = generate(model, batch, **GREEDY, logits_processor=LogitsProcessorList([CallAgain()]))
    assert torch.equal(outer, expected) and torch.equal(inner[1], expected)
