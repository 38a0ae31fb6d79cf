"""Every public name has a docstring with an example, and the examples run."""

import doctest
import inspect

import numpy as np
import pytest
import torch
from PIL import Image

import vanilla_transformer
from vanilla_transformer import training

PUBLIC = {
    name: getattr(module, name) for module in (vanilla_transformer, training) for name in module.__all__
}
WITHOUT = {
    "PRESETS": "a dictionary",
    "VISION_PRESETS": "a dictionary",
    "DETECTION_PRESETS": "a dictionary",
    "TrainingInterrupted": "raised after Ctrl-C",
    "VanillaTransformerPreTrainedModel": "a base class",
    "VanillaTransformerModel": "docs/architecture.md shows it",
    "VanillaTransformerTrainer": "docs/usage.md trains with it",
    "VanillaTransformerSeq2SeqTrainer": "docs/usage.md trains with it",
    "ToolkitTokenizer": "made by an import",
    "last_checkpoints": "needs the checkpoints of a run",
}


@pytest.fixture(scope="module")
def names():
    """What the examples have already: the names of docs/usage.md, without training."""
    english, german = ["A dog runs.", "Two men sit."], ["Ein Hund rennt.", "Zwei Männer sitzen."]
    tokenizer = vanilla_transformer.VanillaTransformerTokenizer.train(
        [english * 4, german * 4], vocab_size=300, show_progress=False
    )
    config = vanilla_transformer.VanillaTransformerConfig.from_preset("tiny", vocab_size=300)
    torch.manual_seed(0)
    model = vanilla_transformer.VanillaTransformerForConditionalGeneration(config).eval()
    model.generation_config.max_new_tokens = 4
    collator = vanilla_transformer.Seq2SeqCollator(tokenizer.pad_token_id)
    encoded = tokenizer(english, text_target=german)
    batch = collator(
        [{"input_ids": ids, "labels": labels} for ids, labels in zip(encoded["input_ids"], encoded["labels"])]
    )
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    image = Image.new("RGB", (40, 30))
    return {**PUBLIC, **locals(), "torch": torch, "np": np}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_docstring_runs(name, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    docstring = inspect.getdoc(PUBLIC[name])
    assert docstring
    example = doctest.DocTestParser().get_doctest(docstring, dict(names), name, None, None)
    assert bool(example.examples) == (name not in WITHOUT)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failures = []
    runner.run(example, out=failures.append)
    assert not runner.failures, "".join(failures)
