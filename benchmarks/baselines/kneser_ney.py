"""Scores modified Kneser-Ney models (Chen and Goodman 1998) in bits per character, as a baseline.

    python benchmarks/baselines/kneser_ney.py recipes/language_modeling/bible_en.yaml [--key value ...]
    python benchmarks/baselines/kneser_ney.py recipes/language_modeling/bible_en.yaml --orders 5 6 7

Takes the YAML and flags of the language modelling recipe, and scores the same characters of each held-out
split, including the end of each document. One model predicts characters. The other predicts tokens, of the
vocabulary that the recipe trains or of `--tokenizer`, which can be the folder of a run.

The probability of an n-gram is its count minus a discount, divided by the count of its context, plus the
discounted mass times the probability of the next lower order. Below the highest order, the count of an n-gram
is the number of different words before it. The lowest order is interpolated with a uniform distribution, so
no word has probability 0. The discounts are Chen and Goodman's closed form.
"""

import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from transformers import AutoTokenizer

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerTokenizer
from vanilla_transformer.tasks.language_modeling import LanguageModelingArguments, load_texts
from vanilla_transformer.tasks.settings import parse
from vanilla_transformer.training import VanillaTransformerTrainingArguments

FALLBACK = np.array([0, 0.5, 1, 1.5])  # discounts if there are too few counts to estimate them


@dataclass
class BaselineArguments:
    """The n-gram models."""

    _argument_group_name = "baseline"

    orders: list[int] = field(
        default_factory=lambda: [5], metadata={"help": "the lengths n of the longest n-grams to compare"}
    )


@dataclass
class Order:
    """The n-grams of one length. An id is an index into `keys`; a key combines context id and last word."""

    keys: np.ndarray  # sorted (n-grams,)
    counts: np.ndarray  # minus the discounts (n-grams,)
    totals: np.ndarray  # sum of the counts of each context (contexts,)
    left: np.ndarray  # share of each context's mass for the next lower order (contexts,)


class KneserNey:
    """An n-gram model of a stream `(length,)` of words, which are integers below `vocabulary`."""

    def __init__(self, stream: np.ndarray, order: int, vocabulary: int):
        if not 1 <= order < len(stream):
            raise ValueError(
                f"order={order} must be at least 1 and below the {len(stream)} words of the text"
            )
        self.vocabulary = vocabulary
        contexts = np.zeros(len(stream), dtype=np.int64)  # id of the n-gram before each word
        keys, ids, firsts, counts = [], [], [], []  # of each length; `firsts`: first position of each n-gram
        for n in range(order):
            found = np.unique(contexts * vocabulary + stream[n:], True, True, True)
            for held, new in zip((keys, firsts, ids, counts), found):
                held.append(new)
            contexts = ids[n][:-1]
        for n in range(order - 1):  # count the different words before each n-gram
            counts[n] = np.bincount(ids[n][firsts[n + 1] + 1], minlength=len(keys[n]))
        sizes = [1, *map(len, keys)]  # contexts of each length
        self.orders = [discounted(*of_length, vocabulary) for of_length in zip(keys, counts, sizes)]

    def probabilities(self, stream: np.ndarray) -> np.ndarray:
        """Return the probability of each word of a stream given the words before it, float64 `(length,)`."""
        shares = np.full(len(stream), 1 / self.vocabulary)
        contexts = np.zeros(len(stream), dtype=np.int64)  # -1 for an unseen context
        for n, order in enumerate(self.orders):
            ids = find(order.keys, contexts * self.vocabulary + stream[n:])
            known = (contexts >= 0) & (order.totals[contexts] > 0)
            contexts = np.where(known, contexts, 0)
            counts = np.where(ids >= 0, order.counts[ids], 0)
            mixed = counts / np.maximum(order.totals[contexts], 1) + order.left[contexts] * shares[n:]
            shares[n:] = np.where(known, mixed, shares[n:])
            contexts = ids[:-1]
        return shares


def discounted(keys: np.ndarray, counts: np.ndarray, contexts: int, vocabulary: int) -> Order:
    of = keys // vocabulary  # the context of each n-gram
    discounts = chen_goodman(counts)[np.minimum(counts, 3)]  # (n-grams,)
    totals = np.bincount(of, counts, contexts)
    left = np.bincount(of, discounts, contexts) / np.maximum(totals, 1)
    return Order(keys, counts - discounts, totals, left)


def chen_goodman(counts: np.ndarray) -> np.ndarray:
    """Return the discounts of the counts 0, 1, 2, and 3 or more."""
    ones, twos, threes, fours = np.bincount(np.minimum(counts, 5), minlength=6)[1:5]
    if not all((ones, twos, threes)):
        return FALLBACK
    y = ones / (ones + 2 * twos)
    found = np.array([0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes])
    return found if (found >= 0).all() else FALLBACK


def find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the indices of `wanted` in the sorted keys, -1 if it is missing."""
    indices = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[indices] == wanted, indices, -1)


def as_characters(splits: dict[str, list[str]]) -> tuple[dict[str, np.ndarray], int]:
    """Return each split as numbers, and the size of the vocabulary: with one unknown character."""
    texts = {name: "".join(f"{text}\n" for text in rows) for name, rows in splits.items()}
    known = {character: number for number, character in enumerate(sorted(set(texts["train"])))}
    streams = {
        name: np.array([known.get(character, len(known)) for character in text])
        for name, text in texts.items()
    }
    for name, stream in streams.items():
        if strange := int((stream == len(known)).sum()):
            print(f"{name}: {strange} characters are not in train, and share one number")
    return streams, len(known) + 1


def as_tokens(splits: dict[str, list[str]], tokenizer) -> tuple[dict[str, np.ndarray], int]:
    def stream(texts: Iterable[str]) -> np.ndarray:
        ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        return np.fromiter(
            chain.from_iterable([*text, tokenizer.eos_token_id] for text in ids), dtype=np.int64
        )

    return {name: stream(texts) for name, texts in splits.items()}, len(tokenizer)


def main():
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _, data, baseline, _ = parse(
        VanillaTransformerConfig,
        LanguageModelingArguments,
        BaselineArguments,
        VanillaTransformerTrainingArguments,
    )
    splits = {name: list(rows["text"]) for name, rows in load_texts(data).items()}
    held_out = [name for name in splits if name != "train"]
    if data.tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(data.tokenizer)
    else:
        tokenizer = VanillaTransformerTokenizer.train(
            [splits["train"]], data.vocab_size, lowercase=data.lowercase, show_progress=False
        )
    units = {"characters": as_characters(splits), f"{len(tokenizer):,} tokens": as_tokens(splits, tokenizer)}
    lengths = {name: sum(len(text) + 1 for text in splits[name]) for name in held_out}
    print(f"\n| model of | order | {' | '.join(held_out)} |\n|---|---|{'---|' * len(held_out)}")
    for unit, (streams, vocabulary) in units.items():
        for order in baseline.orders:
            model = KneserNey(streams["train"], order, vocabulary)
            bits = [-np.log2(model.probabilities(streams[name])).sum() / lengths[name] for name in held_out]
            print(f"| {unit} | {order} | {' | '.join(f'{score:.3f}' for score in bits)} |", flush=True)
    print("\nbits per character; the end of a document counts as a character")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # InputError among them
        sys.exit(f"error: {error}")
