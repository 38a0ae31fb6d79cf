"""The search alone, on Markov chains in place of a model."""

import pytest
import torch
from plain_beam_search import END, PAD, START, plain_search, words

from vanilla_transformer.beam_search import BeamSearch, top_k


def search_markov_chains(log_probs, attention, limits, drop_done, beams=3, **settings):
    """Searches sentences that are Markov chains, `(sentences, steps, vocabulary, vocabulary or source)`."""
    prompts = torch.full((len(limits) * (1 if drop_done else beams), 1), START)
    coverage = torch.zeros(len(prompts), attention.shape[-1])
    end = torch.tensor([END])
    search = BeamSearch(
        prompts, limits, beams=beams, end=end, pad=PAD, coverage=coverage, drop_done=drop_done, **settings
    )
    while not search.done:
        index = search.sentences[:, None], search.length, search.tokens[..., -1]
        search.step(log_probs[index].flatten(0, 1), attention[index].flatten(0, 1))
    return search


@pytest.mark.parametrize("alpha, beta", [(-2.0, 0.0), (0.0, 0.0), (0.6, 0.0), (3.0, 0.0), (0.6, 0.3)])
@pytest.mark.parametrize("returned", [1, 3])
def test_the_search_stops_no_sentence_too_early(alpha, beta, returned):
    torch.manual_seed(0)
    sentences, vocabulary, beams = 60, 6, 3
    log_probs = (2 * torch.randn(sentences, 12, vocabulary, vocabulary)).log_softmax(-1)
    attention = (3 * torch.randn(sentences, 12, vocabulary, 4)).softmax(-1)
    limits = torch.randint(2, 12, (sentences,))
    searches = [
        search_markov_chains(
            log_probs, attention, limits, drop_done, alpha=alpha, beta=beta, returned=returned
        )
        for drop_done in (True, False)
    ]
    for sentence, limit in enumerate(limits.tolist()):

        def predict(prefixes, sentence=sentence):
            index = sentence, prefixes.shape[1] - 1, prefixes[:, -1]
            return log_probs[index], attention[index]

        expected = plain_search(predict, beams, limit, returned, alpha, beta)
        for search in searches:
            found = [words(sequence) for sequence in search.finished[sentence, :returned]]
            assert found == [output for _, output in expected]
            scores = torch.tensor([score for score, _ in expected])
            torch.testing.assert_close(search.ranks[sentence, :returned], scores)


def test_early_stopping_finds_the_same_whether_done_sentences_are_dropped_or_kept():
    torch.manual_seed(0)
    log_probs = (2 * torch.randn(60, 12, 6, 6)).log_softmax(-1)
    attention, limits = torch.ones(60, 12, 6, 1), torch.full((60,), 12)
    thorough = search_markov_chains(log_probs, attention, limits, drop_done=True, alpha=2.0)
    dropped, kept = (
        search_markov_chains(log_probs, attention, limits, drop_done, alpha=2.0, stop_early=True)
        for drop_done in (True, False)
    )
    assert torch.equal(dropped.finished, kept.finished)
    assert dropped.length < thorough.length
    assert (dropped.ranks[:, 0] <= thorough.ranks[:, 0]).all()
    assert (dropped.ranks[:, 0] < thorough.ranks[:, 0]).any()


@pytest.mark.parametrize("width", [1, 5, 63, 64, 1000, 1031])
def test_top_k_equals_that_of_torch(width):
    torch.manual_seed(0)
    values = torch.randn(3, width)
    values[1] = float("-inf")
    found, ids = top_k(values, 8)
    assert torch.equal(found, values.topk(min(8, width)).values)
    assert torch.equal(values.gather(1, ids), found)


@pytest.mark.parametrize("drop_done", [True, False])
def test_early_stopping_waits_until_as_many_hypotheses_as_beams_are_finished(drop_done):
    torch.manual_seed(0)
    log_probs = (2 * torch.randn(60, 12, 6, 6)).log_softmax(-1)
    attention, limits = torch.ones(60, 12, 6, 1), torch.full((60,), 12)
    search = search_markov_chains(
        log_probs, attention, limits, drop_done, alpha=0.6, returned=3, stop_early=True
    )
    assert (search.ranks > float("-inf")).all()  # (60, 3)
