"""The Kneser-Ney baseline against its definition, counted the slow way."""

import importlib.util
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def kneser_ney():
    spec = importlib.util.spec_from_file_location(
        "kneser_ney", ROOT / "benchmarks" / "baselines" / "kneser_ney.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["kneser_ney"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def text(length: int, words: int, seed: int) -> np.ndarray:
    """Words that depend on the one before, as those of a language do."""
    draw, stream = random.Random(seed), [0]
    while len(stream) < length:
        stream.append(draw.choice([stream[-1] + 1, 2 * stream[-1], draw.randrange(words)]) % words)
    return np.array(stream)


def by_definition(stream: list, order: int, vocabulary: int, chen_goodman):
    """p(word | context) of Chen and Goodman (1998), section 4.3, from dictionaries."""
    grams = {
        n: [tuple(stream[at : at + n]) for at in range(len(stream) - n + 1)] for n in range(1, order + 1)
    }
    counts = {order: Counter(grams[order])}
    for n in range(1, order):
        counts[n] = Counter(dict.fromkeys(grams[n], 0))
        counts[n].update(gram[1:] for gram in set(grams[n + 1]))
    discounts = {n: chen_goodman(np.array(list(counts[n].values()))) for n in counts}

    def probability(word, context):
        lower = probability(word, context[1:]) if context else 1 / vocabulary
        n = len(context) + 1
        followers = {gram[-1]: count for gram, count in counts[n].items() if gram[:-1] == context}
        total = sum(followers.values())
        if not total:
            return lower
        taken = {word: discounts[n][min(count, 3)] for word, count in followers.items()}
        own = followers.get(word, 0) - taken.get(word, 0)
        return own / total + sum(taken.values()) / total * lower

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_it_is_what_its_authors_define(kneser_ney, order):
    train, held_out = text(300, 12, seed=0), text(60, 13, seed=1)  # one word is not in train
    expected = by_definition(train.tolist(), order, 13, kneser_ney.chen_goodman)
    got = kneser_ney.KneserNey(train, order, 13).probabilities(held_out)
    words = held_out.tolist()
    for place, word in enumerate(words):
        context = tuple(words[max(0, place - order + 1) : place])
        assert got[place] == pytest.approx(expected(word, context), rel=1e-12)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_after_any_context_probabilities_sum_to_1(kneser_ney, order):
    model = kneser_ney.KneserNey(text(500, 20, seed=2), order, 21)
    seen, never_seen = text(40, 20, seed=2)[: order + 3].tolist(), [20] * order
    for context in (seen, never_seen, never_seen + seen, seen + never_seen, []):
        last = [model.probabilities(np.array([*context, word]))[-1] for word in range(21)]
        assert min(last) > 0
        assert sum(last) == pytest.approx(1, rel=1e-12)


def test_longer_contexts_help_where_the_text_repeats_itself(kneser_ney):
    sentence = text(200, 30, seed=3)
    stream = np.concatenate([sentence] * 5)
    bits = [
        -np.log2(kneser_ney.KneserNey(stream, order, 30).probabilities(sentence)).mean()
        for order in (1, 2, 4)
    ]
    assert bits[0] > bits[1] > bits[2]


def test_odd_counts_fall_back(kneser_ney):
    for counts in ([1, 1, 1], [2, 3, 4], [1] * 5 + [2, 3] + [4] * 10):
        assert kneser_ney.chen_goodman(np.array(counts)).tolist() == kneser_ney.FALLBACK.tolist()


def test_a_text_shorter_than_the_order_raises(kneser_ney):
    with pytest.raises(ValueError, match="order=5 .* 5 words"):
        kneser_ney.KneserNey(np.arange(5), 5, 9)


def test_both_units_score_the_same_characters(kneser_ney):
    splits = {"train": ["a dog", "a cat"], "validation": ["a dög"]}
    streams, vocabulary = kneser_ney.as_characters(splits)
    assert len(streams["validation"]) == len("a dög\n")
    assert streams["validation"].max() == vocabulary - 1  # ö is not in train
    assert streams["train"].max() == vocabulary - 2
