"""Streamed text is the decoded text."""

import threading

import pytest
import torch
from tiny_translators import vanilla
from transformers import LogitsProcessorList, TextIteratorStreamer, TextStreamer

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerTokenizer,
)

TEXTS = ["a list:\n one\n two", "\n\n  deep\n deeper", "the dog", "the end \n", "\n one", "天 天\n 天"]


def write(tokens):
    """Processors that make greedy search write these tokens."""
    remaining = iter(tokens)

    def only_next(ids, scores):
        return torch.full_like(scores, -100.0).index_fill(1, torch.tensor([next(remaining)]), 0.0)

    return LogitsProcessorList([only_next])


@pytest.fixture(scope="module")
def translator():
    return vanilla()


@pytest.fixture(scope="module")
def writer():
    tokenizer = VanillaTransformerTokenizer.train([TEXTS], 290, min_frequency=1, show_progress=False)
    config = VanillaTransformerConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=8, num_attention_heads=2,
        encoder_layers=0, decoder_layers=1,
    )  # fmt: skip
    return VanillaTransformerForCausalLM(config).eval(), tokenizer


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("parts", ["translator", "writer"])
def test_streamed_text_is_the_decoded_text(parts, text, request, capsys):
    model, tokenizer = request.getfixturevalue(parts)
    tokens = tokenizer(text).input_ids
    prompt = tokenizer("the", return_tensors="pt")
    options = {"max_new_tokens": len(tokens), "num_beams": 1}
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    model.generate(**prompt, **options, streamer=streamer, logits_processor=write(tokens))
    assert capsys.readouterr().out == text + "\n"

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=20)
    options |= {"streamer": streamer, "logits_processor": write(tokens)}
    thread = threading.Thread(target=model.generate, kwargs={**prompt, **options})
    thread.start()
    streamed = "".join(streamer)
    thread.join()
    assert streamed == text


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_that_come_without_generate_are_streamed_alike(text, translator, capsys):
    _, tokenizer = translator
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    for token in tokenizer(text).input_ids:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert capsys.readouterr().out == text + "\n"
