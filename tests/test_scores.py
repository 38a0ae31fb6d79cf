"""Scores of outputs equal those of the search that found them, and those of a forced pass over the text."""

import pytest
import torch
from plain_beam_search import END, PAD, START
from test_generation import rows
from tiny_generation import padded_batch, random_model
from tiny_translators import FAMILIES, TEXTS, make, vanilla

import vanilla_transformer.generation
import vanilla_transformer.scores
from vanilla_transformer import sequence_scores

PAPER = {"num_beams": 4, "length_penalty_type": "gnmt", "length_penalty": 0.6, "num_return_sequences": 3}
# A model with random weights predicts padding, which an output without an end token would end with.
THEIRS = {"num_beams": 4, "num_return_sequences": 4, "suppress_tokens": [PAD]}
SEARCHES = {
    "greedy": {"num_beams": 1},
    "paper": PAPER,
    "paper with limits": {**PAPER, "max_extra_tokens": 2},
    "paper with coverage": {**PAPER, "coverage_penalty": 0.2},
    "transformers": THEIRS,
    "transformers, short": {**THEIRS, "length_penalty": -1.0, "early_stopping": "never"},
}
searches = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
PENALTIES = ("length_penalty_type", "length_penalty", "coverage_penalty")


def scored(model, batch, search, **others):
    ids = model.generate(**batch, **{"max_new_tokens": 9, **search, **others})
    penalties = {name: search.get(name) for name in PENALTIES}
    return ids, sequence_scores(model, batch, ids, **penalties)


@searches
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_scores_equal_those_of_the_search(search, path, monkeypatch):
    if path == "plain":
        monkeypatch.setattr(vanilla_transformer.generation, "why_not_prepared", lambda model: "a test")
    model, batch = random_model(14, seed=2), padded_batch(14, [5, 2, 7, 1])
    ids, scores = scored(model, batch, search)
    wanted = {"return_dict_in_generate": True, "output_scores": True}
    found = model.generate(**batch, max_new_tokens=9, **search, **wanted)
    assert torch.equal(found.sequences, ids)
    origins = getattr(found, "beam_indices", None)
    steps = model.compute_transition_scores(
        found.sequences, found.scores, origins, normalize_logits=origins is None
    )
    for row, score in enumerate(scores):
        log_probs = torch.tensor(score["token_log_probabilities"])
        torch.testing.assert_close(log_probs, steps[row, : len(log_probs)], atol=1e-4, rtol=0)
        assert score["log_probability"] == pytest.approx(float(log_probs.sum()), abs=1e-5)
        if origins is not None:
            assert len(log_probs) == int((origins[row] >= 0).sum())
            assert score["score"] == pytest.approx(float(found.sequences_scores[row]), abs=1e-4)


@searches
def test_scores_equal_those_of_each_text_alone(search, monkeypatch):
    model, batch = random_model(14, seed=3), padded_batch(14, [5, 2, 7, 1])
    ids, scores = scored(model, batch, search)
    monkeypatch.setattr(vanilla_transformer.scores, "MOST_TOKENS", 1)  # one output in each forward pass
    penalties = {name: search.get(name) for name in PENALTIES}
    assert_close(sequence_scores(model, batch, ids, **penalties), scores)
    outputs = len(ids) // 4
    for text, source in enumerate(rows(batch)):
        of_text = slice(text * outputs, (text + 1) * outputs)
        assert_close(sequence_scores(model, source, ids[of_text], **penalties), scores[of_text])


def assert_close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one == {name: pytest.approx(value, abs=1e-4) for name, value in other.items()}, (one, other)


def test_an_output_without_an_end_token_ends_before_its_padding():
    model, batch = random_model(14), padded_batch(14, [5, 2, 7])
    ids = [[START, 5, 6, END, PAD], [START, 5, 6, PAD, PAD], [START, 5, PAD, 7, PAD]]
    scores = sequence_scores(model, batch, torch.tensor(ids))
    assert [len(score["token_log_probabilities"]) for score in scores] == [3, 2, 3]


def test_a_prompt_of_the_decoder_has_no_score():
    model, batch = random_model(14), padded_batch(14, [5])
    ids = torch.tensor([[START, 5, 6, 7, END]])
    (whole,), (rest,) = sequence_scores(model, batch, ids), sequence_scores(model, batch, ids, 3)
    expected = whole["token_log_probabilities"][2:]
    assert rest["token_log_probabilities"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_pipelines_return_scores_with_every_output(family, batch_size):
    model, tokenizer = FAMILIES[family]()
    pipe = make("translation", (model, tokenizer), num_beams=3, return_scores=True)
    plain = make("translation", (model, tokenizer), num_beams=3)
    options = {"num_return_sequences": 3, "batch_size": batch_size}
    results, expected = pipe(TEXTS, **options), plain(TEXTS, **options)
    for text, records, without in zip(TEXTS, results, expected):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, max_new_tokens=6, num_beams=3, num_return_sequences=3)
        assert_close(
            [{name: value for name, value in record.items() if "text" not in name} for record in records],
            sequence_scores(model, inputs, ids),
        )
        assert [{"translation_text": record["translation_text"]} for record in records] == without
    assert "score" not in pipe(TEXTS[0], return_scores=False)[0]


def test_a_blank_text_has_no_tokens_to_score():
    record = make("translation", vanilla(), return_scores=True)(" ")[0]
    assert record == {
        "translation_text": "", "log_probability": 0.0, "score": 0.0, "token_log_probabilities": []
    }  # fmt: skip


def test_the_attention_kernel_is_the_same_after_a_score_with_coverage():
    model, batch = random_model(14), padded_batch(14, [5, 2])
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        scored(model, batch, SEARCHES["paper with coverage"])
    assert model.config._attn_implementation == "sdpa"
