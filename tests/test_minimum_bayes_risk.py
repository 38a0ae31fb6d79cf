"""Minimum Bayes risk: against brute force, and in the pipelines."""

import pytest
import torch
from sacrebleu.metrics import CHRF
from tiny_translators import TEXTS, make, marian, vanilla

from vanilla_transformer import minimum_bayes_risk
from vanilla_transformer.minimum_bayes_risk import expected_utilities

CANDIDATES = ["a dog sleeps here", "the dog sleeps", "a dog is sleeping", "the dog sleeps", "two cats", ""]


def brute_force(candidates):
    chrf = CHRF()
    return [sum(chrf.sentence_score(c, [r]).score for r in candidates) / len(candidates) for c in candidates]


def test_utilities_are_mean_chrf_and_the_largest_wins():
    expected = brute_force(CANDIDATES)
    assert expected_utilities(CANDIDATES) == pytest.approx(expected)
    assert CANDIDATES[minimum_bayes_risk(CANDIDATES)] == CANDIDATES[expected.index(max(expected))]


def test_one_candidate_is_the_answer():
    assert minimum_bayes_risk(["a dog"]) == 0 and minimum_bayes_risk([""]) == 0


def test_of_equals_the_first_wins():
    assert minimum_bayes_risk(["cat", "dog", "dog", "cat"]) == 0
    assert minimum_bayes_risk(["a dog", "dog a dog", "dog a dog"]) == 1
    assert minimum_bayes_risk(["", ""]) == 0


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 5, 0, 3, 1, 4]])
def test_the_order_of_candidates_changes_no_utility(order):
    utilities = expected_utilities(CANDIDATES)
    assert expected_utilities([CANDIDATES[i] for i in order]) == [utilities[i] for i in order]


@pytest.mark.parametrize("nothing", [[], "a dog"])
def test_no_candidates_are_one_clear_error(nothing):
    with pytest.raises(ValueError, match="needs a list of texts"):
        minimum_bayes_risk(nothing)


@pytest.mark.parametrize("family", [vanilla, marian])
def test_pipelines_return_the_choice_among_the_n_best(family):
    pipe = make("translation", family())
    settings = dict(num_beams=6, num_return_sequences=6, return_scores=True)
    for best, chosen in zip(pipe(TEXTS, **settings), pipe(TEXTS, **settings, mbr=True)):
        texts = [record["translation_text"] for record in best]
        utility = chosen.pop("utility")
        assert chosen == best[minimum_bayes_risk(texts)] and utility == max(expected_utilities(texts))
    (alone,) = pipe(TEXTS[0], **settings, mbr=True)
    assert alone["translation_text"] == pipe(TEXTS, **settings, mbr=True)[0]["translation_text"]


def test_pipelines_choose_among_samples():
    pipe = make("translation", vanilla())
    settings = dict(do_sample=True, num_beams=1, num_return_sequences=5)
    torch.manual_seed(0)
    samples = pipe(TEXTS, **settings)
    torch.manual_seed(0)
    for texts, chosen in zip(samples, pipe(TEXTS, **settings, mbr=True)):
        texts = [record["translation_text"] for record in texts]
        assert chosen["translation_text"] == texts[minimum_bayes_risk(texts)]


def test_blank_texts_stay_as_they_are():
    pipe = make("translation", vanilla())
    assert pipe(" ", mbr=True, num_return_sequences=3)[0] == {"translation_text": "", "utility": 0.0}
    (ids,) = pipe(TEXTS[0], mbr=True, num_return_sequences=3, return_tensors=True)
    assert set(ids) == {"translation_token_ids", "utility"}


@pytest.mark.parametrize("settings", [{}, {"num_return_sequences": 1}, {"do_sample": True, "num_beams": 1}])
def test_a_choice_among_one_output_is_an_error(settings):
    pipe = make("translation", vanilla())
    with pytest.raises(ValueError, match="mbr chooses among several outputs .* set num_return_sequences"):
        pipe(TEXTS, mbr=True, **settings)
