"""transformers' own pipelines with this package's heads: one text, lists, generators, data sets, batches."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerModel,
    VanillaTransformerTokenizer,
)

TEXTS = ["the quick fox", "a lazy dog sleeps in the sun all day", "Ada's dog", "foxes and dogs, and a café"]
TASKS = {
    "text-classification": VanillaTransformerForSequenceClassification,
    "sentiment-analysis": VanillaTransformerForSequenceClassification,
    "token-classification": VanillaTransformerForTokenClassification,
    "ner": VanillaTransformerForTokenClassification,
    "feature-extraction": VanillaTransformerModel,
}


@pytest.fixture(scope="module", params=["mean", "class_token"])
def folders(request, tmp_path_factory):
    """{task: a folder that the recipes would save}."""
    tokenizer = VanillaTransformerTokenizer.train([TEXTS], 280, min_frequency=1, show_progress=False)
    tokenizer.add_bos_token = request.param == "class_token"
    saved = {}
    for task, model_class in TASKS.items():
        torch.manual_seed(0)
        config = VanillaTransformerConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            encoder_layers=2,
            decoder_layers=0,
            pooling=request.param,
            id2label={0: "calm", 1: "glad", 2: "sad"},
            label2id={"calm": 0, "glad": 1, "sad": 2},
        )
        saved[task] = str(tmp_path_factory.mktemp(task))
        model_class(config).save_pretrained(saved[task])
        tokenizer.save_pretrained(saved[task])
    return saved


def flat(value) -> list:
    """Returns all numbers and texts of a nested output, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | np.ndarray | torch.Tensor):
        return [leaf for part in value for leaf in flat(part)]
    return [value.item() if hasattr(value, "item") else value]


def assert_same(one, other):
    one, other = flat(one), flat(other)
    assert [value for value in one if isinstance(value, str)] == [
        value for value in other if isinstance(value, str)
    ]
    numbers = [
        [float(value) for value in values if not isinstance(value, str | None)] for values in (one, other)
    ]
    np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_lists_generators_and_data_sets_give_the_same_as_single_texts(task, folders):
    pipe = pipeline(task, model=folders[task])
    expected = [pipe(text) for text in TEXTS]
    if TASKS[task] is VanillaTransformerForSequenceClassification:
        expected = [answer[0] for answer in expected]  # one text gives a list
    dataset = Dataset.from_dict({"text": TEXTS})
    for batch_size in (None, 3):
        for texts in (TEXTS, (text for text in TEXTS), KeyDataset(dataset, "text")):
            got = list(pipe(texts, batch_size=batch_size))
            if task == "feature-extraction":  # in a batch, transformers returns the features of padding too
                got = [[answer[0][: len(alone[0])]] for answer, alone in zip(got, expected)]
            assert_same(got, expected)


@pytest.mark.parametrize("task", ["text-classification", "sentiment-analysis"])
def test_scores_are_the_softmax_of_the_models_logits(task, folders):
    pipe = pipeline(task, model=folders[task])
    every = pipe(TEXTS[1], top_k=None)
    with torch.no_grad():
        shares = pipe.model(**pipe.tokenizer(TEXTS[1], return_tensors="pt")).logits.softmax(-1)[0]
    got = {out["label"]: out["score"] for out in every}
    assert got == pytest.approx(dict(zip(["calm", "glad", "sad"], shares.tolist())), abs=1e-5)
    assert pipe(TEXTS[1])[0]["label"] == max(got, key=got.get)
    pair = pipe({"text": TEXTS[0], "text_pair": TEXTS[1]})
    assert pair["label"] in got
    assert pipe("word " * 300, truncation=True, max_length=32)[0]["label"] in got


def test_token_offsets_cover_the_text(folders):
    pipe = pipeline("token-classification", model=folders["token-classification"])
    for text in TEXTS:
        tokens = pipe(text)
        assert tokens and {token["entity"] for token in tokens} <= {"calm", "glad", "sad"}
        assert tokens[-1]["end"] == len(text)
        covered = "".join(text[token["start"] : token["end"]] for token in tokens)
        assert set(text.replace(" ", "")) <= set(covered)
    groups = pipe(TEXTS[1], aggregation_strategy="simple")
    assert all(TEXTS[1][group["start"] : group["end"]].strip() == group["word"].strip() for group in groups)


def test_features_are_the_last_hidden_states(folders):
    pipe = pipeline("feature-extraction", model=folders["feature-extraction"])
    with torch.no_grad():
        states = pipe.model(**pipe.tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state
    np.testing.assert_allclose(np.array(pipe(TEXTS[0])), states.numpy(), rtol=1e-4, atol=1e-5)
    assert pipe(TEXTS[0], return_tensors=True).shape == states.shape


@pytest.mark.parametrize("task", ["text-generation", "fill-mask"])
def test_the_language_models_serve_their_pipelines(task, tmp_path):
    tokenizer = VanillaTransformerTokenizer.train([TEXTS], 280, min_frequency=1, show_progress=False)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.split_special_tokens = False  # else "<mask>" in a text is text
    tokenizer.save_pretrained(tmp_path)
    auto_class = AutoModelForMaskedLM if task == "fill-mask" else AutoModelForCausalLM
    config = VanillaTransformerConfig.from_preset("tiny", vocab_size=len(tokenizer), hidden_size=16)
    auto_class.from_config(config).save_pretrained(tmp_path)
    pipe = pipeline(task, model=str(tmp_path), device="cpu")
    if task == "fill-mask":
        assert len(pipe("the <mask> fox")) == 5
    else:
        assert pipe("the fox", max_new_tokens=4)[0]["generated_text"].startswith("the fox")
