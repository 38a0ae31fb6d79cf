"""Ensembles: against averaged probabilities, one by one, and with a model itself."""

import pytest
import torch
from plain_beam_search import plain_search, words
from test_decoding import steps as fast_steps  # noqa: F401  # a fixture
from tiny_generation import generate, padded_batch, plain, random_model
from tiny_translators import TEXTS, make, marian, vanilla
from transformers import pipeline

from vanilla_transformer import VanillaTransformerTokenizer, sequence_scores
from vanilla_transformer.terms import Terms

PAPER = {"num_beams": 4, "length_penalty_type": "gnmt", "length_penalty": 0.6}
SEARCHES = {
    "greedy": {"num_beams": 1},
    "greedy with limits": {"num_beams": 1, "max_extra_tokens": 2},
    "sampling": {"num_beams": 1, "do_sample": True, "temperature": 1.5, "num_return_sequences": 3},
    "paper": PAPER,
    "paper with limits": {**PAPER, "max_extra_tokens": 2, "num_return_sequences": 3},
    "paper with coverage": {**PAPER, "coverage_penalty": 0.2},
    "paper with a processor": {**PAPER, "repetition_penalty": 1.5},
    "transformers": {"num_beams": 4},
    "diverse": {**PAPER, "num_beam_groups": 2, "diversity_penalty": 0.5},
}
searches = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


@pytest.fixture(scope="module")
def models():
    """Three models of different sizes."""
    return [
        random_model(14, seed=2),
        random_model(14, seed=3, hidden_size=24, num_attention_heads=3, decoder_layers=1),
        random_model(14, seed=4, norm_position="pre", position_embedding_type="learned"),
    ]


@searches
@pytest.mark.parametrize("prompt", [None, [[0, 5], [0, 7], [0, 3], [0, 9]]], ids=["", "prompt"])
def test_the_fast_path_equals_the_plain_path(models, search, prompt, fast_steps):  # noqa: F811
    batch = padded_batch(14, [5, 2, 7, 1])
    if prompt is not None:
        batch["decoder_input_ids"] = torch.tensor(prompt)
    expected = plain(models[0], batch, ensemble=models[1:], **search)
    assert not fast_steps
    found = generate(models[0], batch, ensemble=models[1:], **search)
    assert torch.equal(found, expected) and fast_steps
    assert not torch.equal(found[:, :6], generate(models[0], batch, **search)[:, :6])


def test_models_with_and_without_fast_steps_generate_together(models):
    batch = padded_batch(14, [5, 2, 7, 1])
    expected = generate(models[0], batch, ensemble=models[1:], **PAPER)
    handle = models[1].lm_head.register_forward_hook(lambda *arguments: None)
    assert torch.equal(generate(models[0], batch, ensemble=models[1:], **PAPER), expected)
    handle.remove()


@searches
def test_with_itself_a_model_stays_as_it_is(models, search):
    batch = padded_batch(14, [5, 2, 7, 1])
    model = models[0]
    assert torch.equal(generate(model, batch, ensemble=[model], **search), generate(model, batch, **search))


@torch.no_grad()
def mean_predictions(models, batch, tokens):
    """log of the mean probability of every next token, `(rows, length, vocabulary)`, and mean attention."""
    passed = [model(**batch, decoder_input_ids=tokens, output_attentions=True) for model in models]
    probabilities = torch.stack([each.logits.softmax(-1) for each in passed]).mean(0)
    return probabilities.log(), torch.stack([each.cross_attentions[-1].mean(1) for each in passed]).mean(0)


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("count", [2, 3])
def test_the_search_finds_what_a_plain_one_finds(models, count, beta):
    models, lengths = models[:count], [5, 2, 7]
    batch = padded_batch(14, lengths)
    found = generate(
        models[0], batch, ensemble=models[1:], **PAPER, num_return_sequences=3, coverage_penalty=beta
    )
    for row, length in enumerate(lengths):
        single = {name: values[row : row + 1, :length] for name, values in batch.items()}

        def predict(tokens, single=single):
            expanded = {name: values.expand(len(tokens), -1) for name, values in single.items()}
            return [each[:, -1] for each in mean_predictions(models, expanded, tokens)]

        expected = plain_search(predict, 4, 12, 3, alpha=0.6, beta=beta)
        assert [words(each) for each in found.unflatten(0, (3, 3))[row]] == [output for _, output in expected]


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_scores_are_those_of_averaged_probabilities(models, beta):
    lengths = [5, 2, 7]
    batch, settings = padded_batch(14, lengths), {**PAPER, "coverage_penalty": beta}
    ids = generate(models[0], batch, ensemble=models[1:], **settings, num_return_sequences=2)
    scores = sequence_scores(models[0], batch, ids, ensemble=models[1:], **settings)
    expanded = {name: values.repeat_interleave(2, 0) for name, values in batch.items()}
    log_probs, attention = mean_predictions(models, expanded, ids)
    log_probs = log_probs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    for row, score in enumerate(scores):
        length = len(score["token_log_probabilities"])
        expected = log_probs[row, :length]
        torch.testing.assert_close(torch.tensor(score["token_log_probabilities"]), expected)
        coverage = attention[row, :length, : lengths[row // 2]].sum(0).clamp(max=1).log().sum()
        rank = expected.sum() / ((5 + length) / 6) ** 0.6 + beta * coverage
        assert score["score"] == pytest.approx(float(rank), abs=1e-4)


def test_terms_and_ensembles_go_together(models):
    terms = Terms([[[7, 8]], [[9]]])
    found = generate(models[0], padded_batch(14, [5, 2]), ensemble=models[1:], **PAPER, terms=terms)
    assert (7, 8) in zip(words(found[0]), words(found[0])[1:]) and 9 in words(found[1])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ensemble": ["outputs/second"]}, "must be a list of loaded models of this package"),
        ({"ensemble": "outputs/second"}, "must be a list of loaded models"),
        ({"ensemble": [random_model(15)]}, "model 1 .* has another vocabulary: its vocab_size is 15, not 14"),
        ({"ensemble": [random_model(14, eos_token_id=3)]}, "its eos_token_id is 3, not 2"),
        ({"ensemble": [random_model(14, pad_token_id=3)]}, "its pad_token_id is 3, not 1"),
        (
            {"ensemble": [random_model(14, decoder_start_token_id=3)]},
            "its decoder_start_token_id is 3, not 0",
        ),
        ({"ensemble": [random_model(14, encoder_layers=0)]}, "is no encoder-decoder model"),
        ({"return_dict_in_generate": True}, "an ensemble returns tokens only"),
        ({"do_sample": True, "num_beams": 2}, "not beam_sample"),
        ({"prompt_lookup_num_tokens": 2, "num_beams": 1}, "not assisted_generation"),
    ],
)
def test_what_cannot_be_is_one_clear_error(models, change, message):
    with pytest.raises(ValueError, match=message):
        generate(models[0], padded_batch(14, [5]), **{"ensemble": models[1:], **change})


def test_the_encoder_of_each_model_needs_the_texts(models):
    batch = padded_batch(14, [5])
    batch["encoder_outputs"] = models[0].get_encoder()(**batch)
    with pytest.raises(ValueError, match="an ensemble needs input_ids, not encoder_outputs"):
        generate(models[0], batch, ensemble=models[1:])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models with one vocabulary, one with another vocabulary of the same size, and a Marian model."""
    root = tmp_path_factory.mktemp("models")
    (first, tokenizer), (second, _) = vanilla(), vanilla(hidden_size=32, decoder_layers=2)
    other = VanillaTransformerTokenizer.train(
        [["zebras zip by", *TEXTS[:2]]], vocab_size=len(tokenizer), min_frequency=1, show_progress=False
    )
    for name, parts in {
        "first": (first, tokenizer),
        "second": (second, tokenizer),
        "other": (first, other),
        "marian": marian(),
    }.items():
        for part in parts:
            part.save_pretrained(root / name)
    return root


def test_pipelines_take_folders(folders):
    settings = dict(device="cpu", max_new_tokens=6)
    one = pipeline("translation", model=str(folders / "first"), **settings)
    both = pipeline("translation", model=str(folders / "first"), ensemble=[folders / "second"], **settings)
    itself = pipeline(
        "translation", model=str(folders / "first"), ensemble=[str(folders / "first")], **settings
    )
    assert itself(TEXTS) == one(TEXTS)
    found = both(TEXTS, return_scores=True)
    assert [each["translation_text"] for each in found] != [each["translation_text"] for each in one(TEXTS)]
    member = pipeline("translation", model=str(folders / "second"), **settings).model
    batch = both.tokenizer(TEXTS[:1], return_tensors="pt")
    ids = one.model.generate(**batch, ensemble=[member], num_beams=4, max_new_tokens=6)
    (score,) = sequence_scores(one.model, batch, ids, ensemble=[member])
    assert found[0]["score"] == pytest.approx(score["score"], abs=1e-5)
    assert (
        both(TEXTS[0], generation_config=both.model.generation_config, max_new_tokens=6, num_beams=4)[0][
            "translation_text"
        ]
        == found[0]["translation_text"]
    )


@pytest.mark.parametrize(
    "folder, message",
    [
        ("other", "other has another vocabulary than the first model"),
        ("marian", "marian holds a model of type marian, not vanilla_transformer"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(folders, folder, message):
    with pytest.raises(ValueError, match=message):
        pipeline("translation", model=str(folders / "first"), ensemble=[str(folders / folder)], device="cpu")


def test_a_folder_that_is_missing_is_named(folders):
    with pytest.raises(OSError, match="nowhere"):
        pipeline("translation", model=str(folders / "first"), ensemble=["./nowhere"], device="cpu")


def test_only_models_of_this_package_lead_an_ensemble(folders):
    with pytest.raises(ValueError, match="MarianMTModel cannot lead an ensemble"):
        make("translation", marian(), ensemble=[str(folders / "first")])
    with pytest.raises(ValueError, match="must be a list of folders"):
        make("translation", vanilla(), ensemble=str(folders / "first"))
