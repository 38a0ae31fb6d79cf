"""Metrics of a model's likelihood: perplexity, bits per character, token accuracy."""

import math

import evaluate
import numpy as np
from datasets import Features, List, Value

from .offline import OfflineMetric


class Perplexity(OfflineMetric):
    """exp of the negative log-likelihood per token of the whole corpus, however it was cut into batches.

    `nll` holds sums of negative natural log-likelihoods, one for each sentence or batch, and `tokens` the
    number of tokens in each, without padding. Label smoothing has no place in it. Models that divide text
    into other tokens have perplexities of other things: `bits_per_character` compares them.
    """

    name = "perplexity"

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="nll: summed negative log-likelihoods; tokens: how many tokens each sums over",
            features=Features({"nll": Value("float64"), "tokens": Value("int64")}),
        )

    def _compute(self, nll, tokens):
        total = sum(tokens)
        if total < 1:
            raise ValueError(f"perplexity needs tokens to divide by, got {total}")
        mean = math.fsum(nll) / total
        with np.errstate(over="ignore"):  # it is infinite then
            return {"perplexity": float(np.exp(mean)), "loss": mean, "tokens": total}


class BitsPerCharacter(OfflineMetric):
    """Bits that the model needs for a character of the corpus, whatever tokens it divides the text into.

    `nll` holds sums of negative natural log-likelihoods, one for each text or batch, and `characters` the
    number of characters in each: all that the sum predicts, line ends among them where it predicts those.
    """

    name = "bits_per_character"

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="nll: summed negative log-likelihoods; characters: of the text of each",
            features=Features({"nll": Value("float64"), "characters": Value("int64")}),
        )

    def _compute(self, nll, characters):
        total = sum(characters)
        if total < 1:
            raise ValueError(f"bits_per_character needs characters to divide by, got {total}")
        return {"bits_per_character": math.fsum(nll) / math.log(2) / total, "characters": total}


class TokenAccuracy(OfflineMetric):
    """Share of tokens that the model finds most likely given the true ones before them.

    Predictions and references are lists of ids of equal length, one list for each sentence; a reference of
    `ignore_index` (padding) does not count.
    """

    name = "token_accuracy"

    def __init__(self, ignore_index=-100, **kwargs):
        super().__init__(**kwargs)
        self.ignore_index = ignore_index

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions, references: lists of token ids, equally long",
            features=Features({"predictions": List(Value("int64")), "references": List(Value("int64"))}),
        )

    def _compute(self, predictions, references):
        correct = total = 0
        for index, (predicted, true) in enumerate(zip(predictions, references)):
            predicted, true = np.array(predicted, dtype=np.int64), np.array(true, dtype=np.int64)
            if len(predicted) != len(true):
                raise ValueError(f"sentence {index}: {len(predicted)} predictions for {len(true)} references")
            real = true != self.ignore_index
            correct += int((predicted == true)[real].sum())
            total += int(real.sum())
        if total == 0:
            raise ValueError("token_accuracy has no token to count: every reference is padding")
        return {"token_accuracy": correct / total, "tokens": total}
