"""Diverse beam search: against a plain one on lists, in `generate`, and what it is for."""

import pytest
import torch
from plain_beam_search import END, PAD, START, plain_diverse_search, words
from test_decoding import steps as fast_steps  # noqa: F401  # a fixture
from tiny_generation import generate, padded_batch, plain, random_model

from vanilla_transformer import sequence_scores
from vanilla_transformer.beam_search import BeamSearch, TransformersBeamSearch
from vanilla_transformer.diverse_beam_search import DiverseBeamSearch
from vanilla_transformer.terms import Terms

PAPER = {"length_penalty_type": "gnmt", "length_penalty": 0.6}
DIVERSE = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7, "num_return_sequences": 6}
SEARCHES = {
    "paper": {**DIVERSE, **PAPER},
    "paper with limits": {**DIVERSE, **PAPER, "max_extra_tokens": 2, "num_beam_groups": 2},
    "paper with coverage": {**DIVERSE, **PAPER, "coverage_penalty": 0.2},
    "paper, groups of one": {**DIVERSE, **PAPER, "num_beam_groups": 6},
    "transformers": DIVERSE,
    "transformers, early": {**DIVERSE, "early_stopping": True},
    "transformers with a processor": {**DIVERSE, "no_repeat_ngram_size": 2},
}


def markov_chains(sentences=40, vocabulary=6, steps=12):
    """Log-probabilities `(sentences, steps, vocabulary, vocabulary)`, and limits `(sentences,)`."""
    torch.manual_seed(0)
    log_probs = (2 * torch.randn(sentences, steps, vocabulary, vocabulary)).log_softmax(-1)
    return log_probs, torch.randint(2, steps, (sentences,))


def search_markov_chains(log_probs, limits, drop_done, paper=True, beams=6, groups=3, penalty=0.7, alpha=0.6):
    def start(prompts):
        settings = dict(beams=beams // groups, returned=beams // groups, alpha=alpha, end=torch.tensor([END]))
        if paper:
            return BeamSearch(prompts, limits, pad=PAD, drop_done=False, **settings)
        return TransformersBeamSearch(prompts, limits, pad=PAD, drop_done=False, strict=True, **settings)

    prompts = torch.full((len(limits) * (1 if drop_done else beams), 1), START)
    search = DiverseBeamSearch(
        start, prompts, len(limits), groups=groups, penalty=penalty, returned=beams, drop_done=drop_done
    )
    length = 0
    while not search.done:
        index = search.sentences[:, None], length, search.tokens[..., -1]
        search.step(log_probs[index].flatten(0, 1))
        length += 1
    return search


@pytest.mark.parametrize("drop_done", [True, False])
@pytest.mark.parametrize("paper", [True, False], ids=["paper", "transformers"])
@pytest.mark.parametrize(
    "groups, penalty, alpha", [(3, 0.7, 0.6), (2, 5.0, 0.0), (6, 0.1, 1.0), (3, 0.7, -1.0)]
)
def test_equals_the_plain_search(drop_done, paper, groups, penalty, alpha):
    log_probs, limits = markov_chains()
    search = search_markov_chains(
        log_probs, limits, drop_done, paper=paper, groups=groups, penalty=penalty, alpha=alpha
    )
    for sentence, limit in enumerate(limits.tolist()):

        def predict(prefixes, sentence=sentence):
            return log_probs[sentence, prefixes.shape[1] - 1, prefixes[:, -1]], torch.ones(len(prefixes), 1)

        expected = plain_diverse_search(predict, 6, limit, alpha, groups, penalty, paper)
        scores = torch.tensor([score for score, _ in expected])
        torch.testing.assert_close(search.ranks[sentence, : len(scores)], scores)
        found = {words(each) for each in search.finished[sentence, : len(scores)]}
        assert found == {tuple(t for t in output if t != PAD) for _, output in expected}


def test_one_group_is_ordinary_beam_search():
    log_probs, limits = markov_chains()
    diverse = search_markov_chains(log_probs, limits, True, groups=1)
    search = BeamSearch(
        torch.full((len(limits), 1), START),
        limits,
        beams=6,
        returned=6,
        alpha=0.6,
        end=torch.tensor([END]),
        pad=PAD,
    )
    while not search.done:
        index = search.sentences[:, None], search.length, search.tokens[..., -1]
        search.step(log_probs[index].flatten(0, 1))
    assert torch.equal(diverse.finished, search.finished) and torch.equal(diverse.ranks, search.ranks)
    model, batch = random_model(14, seed=2), padded_batch(14, [5, 2, 7])
    settings = {**PAPER, "num_beams": 6, "num_return_sequences": 6}
    assert torch.equal(
        generate(model, batch, **settings, num_beam_groups=1), generate(model, batch, **settings)
    )


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_the_fast_path_equals_the_plain_path(search, fast_steps):  # noqa: F811
    model, batch = random_model(14, seed=2), padded_batch(14, [5, 2, 7, 1])
    expected = plain(model, batch, **search)
    assert not fast_steps
    assert torch.equal(generate(model, batch, **search), expected)
    assert fast_steps


@pytest.mark.parametrize("kind", [PAPER, {}], ids=["paper", "transformers"])
def test_outputs_of_a_batch_are_those_of_single_sentences(kind):
    model, lengths = random_model(14, seed=2), [5, 2, 7, 1]
    batch = padded_batch(14, lengths)
    together = generate(model, batch, **DIVERSE, **kind).unflatten(0, (4, 6))
    for row, length in enumerate(lengths):
        single = {name: values[row : row + 1, :length] for name, values in batch.items()}
        alone = generate(model, single, **DIVERSE, **kind)
        assert [words(each) for each in alone] == [words(each) for each in together[row]]


def distinct(sequences: torch.Tensor) -> int:
    """Different pairs of neighbouring tokens in the outputs of each sentence, in sum."""
    pairs = [{pair for row in rows for pair in zip(words(row), words(row)[1:])} for rows in sequences]
    return sum(map(len, pairs))


@pytest.mark.parametrize("kind", [PAPER, {}], ids=["paper", "transformers"])
def test_diversity_grows_with_the_penalty(kind):
    model, batch = random_model(40, seed=2), padded_batch(40, [5, 2, 7, 4, 6, 3])
    settings = {**DIVERSE, **kind, "num_beam_groups": 6}
    counts = [
        distinct(generate(model, batch, **settings | {"diversity_penalty": penalty}).unflatten(0, (6, 6)))
        for penalty in (1e-6, 0.5, 5.0)
    ]
    assert counts == sorted(counts) and counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("kind", [PAPER, {}], ids=["paper", "transformers"])
def test_scores_of_the_search_include_the_penalty(kind):
    """They are log P less the penalties on the way, and those of the steps add up to them."""
    model, batch = random_model(14, seed=2), padded_batch(14, [5, 2, 7])
    wanted = {"return_dict_in_generate": True, "output_scores": True}
    output = generate(model, batch, **DIVERSE, **kind, **wanted)
    transitions = model.compute_transition_scores(
        output.sequences, output.scores, output.beam_indices, normalize_logits=False
    )
    lengths = (output.beam_indices >= 0).sum(-1)
    penalty = ((5 + lengths) / 6) ** 0.6 if kind else lengths
    torch.testing.assert_close(transitions.sum(-1) / penalty, output.sequences_scores)
    own = sequence_scores(model, batch, output.sequences, **kind)
    own = torch.tensor([each["score"] for each in own])
    assert (output.sequences_scores <= own + 1e-5).all() and (output.sequences_scores < own - 0.01).any()


def test_terms_are_in_the_outputs_of_every_group():
    model, batch = random_model(14, seed=2), padded_batch(14, [5, 2, 7])
    terms = Terms([[[7, 8]], [], [[9], [5, 4]]])
    found = generate(model, batch, **DIVERSE, **PAPER, terms=terms).unflatten(0, (3, 6))
    for rows, phrases in zip(found, terms.phrases):
        for row in rows:
            text = f" {' '.join(map(str, words(row)))} "
            assert all(f" {' '.join(map(str, phrase))} " in text for phrase in phrases)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_beams": 7}, "num_beams=7 must be a multiple of num_beam_groups=3"),
        ({"diversity_penalty": 0.0}, "num_beam_groups=3 needs a diversity_penalty"),
        ({"diversity_penalty": -1.0}, "diversity_penalty=-1.0 must be a number that is not negative"),
        ({"diversity_penalty": "high"}, "diversity_penalty='high' must be a number"),
        ({"num_beam_groups": 1}, "diversity_penalty=0.7 needs num_beam_groups > 1"),
        ({"num_beam_groups": 0}, "num_beam_groups=0 must be a whole number, at least 1"),
        ({"num_beam_groups": 1.5}, "num_beam_groups=1.5 must be a whole number"),
        ({"do_sample": True}, "num_beam_groups=3 cannot sample"),
        ({"num_return_sequences": 7}, "num_return_sequences"),
    ],
)
def test_settings_that_contradict_each_other_are_one_clear_error(settings, message):
    model, batch = random_model(14), padded_batch(14, [5])
    with pytest.raises(ValueError, match=message):
        generate(model, batch, **DIVERSE | settings)


def test_a_saved_generation_config_may_have_groups(tmp_path):
    model, batch = random_model(14, seed=2), padded_batch(14, [5, 2])
    expected = generate(model, batch, **DIVERSE)
    for name, value in DIVERSE.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.generation_config.num_beam_groups == 3
    assert torch.equal(generate(again, batch), expected)
