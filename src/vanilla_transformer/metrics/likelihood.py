"""Metrics of a model's likelihood: perplexity, bits per character, token accuracy."""

import math
from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value

from .offline import OfflineMetric


class Perplexity(OfflineMetric):
    """The exponential of the mean negative log-likelihood of a token of the corpus.

    `nll` holds one sum of negative natural log-likelihoods for each sentence or batch, without label
    smoothing. `tokens` holds the number of tokens in each sum, without padding. The batch size does not
    change the result. Perplexities of models with different tokenizers cannot be compared: use
    `bits_per_character`.
    """

    name = "perplexity"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="nll: summed negative log-likelihoods; tokens: how many are in each sum",
            features=Features({"nll": Value("float64"), "tokens": Value("int64")}),
        )

    def _compute(self, nll: Sequence[float], tokens: Sequence[int]) -> dict[str, Any]:
        total = sum(tokens)
        if total < 1:
            raise ValueError(f"perplexity needs at least one token, got {total}")
        mean = math.fsum(nll) / total
        with np.errstate(over="ignore"):  # the result is inf
            return {"perplexity": float(np.exp(mean)), "loss": mean, "tokens": total}


class BitsPerCharacter(OfflineMetric):
    """The mean negative log-likelihood of a character of the corpus, in bits, for any tokenizer.

    `nll` holds one sum of negative natural log-likelihoods for each text or batch. `characters` holds the
    number of characters that each sum predicts. Count line ends if the model predicts them.
    """

    name = "bits_per_character"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="nll: summed negative log-likelihoods; characters: how many are in each sum",
            features=Features({"nll": Value("float64"), "characters": Value("int64")}),
        )

    def _compute(self, nll: Sequence[float], characters: Sequence[int]) -> dict[str, Any]:
        total = sum(characters)
        if total < 1:
            raise ValueError(f"bits_per_character needs at least one character, got {total}")
        return {"bits_per_character": math.fsum(nll) / math.log(2) / total, "characters": total}


class TokenAccuracy(OfflineMetric):
    """The share of tokens that are the model's most likely token, given the true tokens before them.

    Predictions and references are lists of ids, one list of equal length for each sentence. References equal
    to `ignore_index` (padding) are ignored.
    """

    name = "token_accuracy"

    def __init__(self, ignore_index: int = -100, **kwargs: Any):
        super().__init__(**kwargs)
        self.ignore_index = ignore_index

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions, references: lists of token ids of equal length",
            features=Features({"predictions": List(Value("int64")), "references": List(Value("int64"))}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]
    ) -> dict[str, Any]:
        correct = total = 0
        for index, (predicted, true) in enumerate(zip(predictions, references)):
            if len(predicted) != len(true):
                raise ValueError(
                    f"sentence {index} has {len(predicted)} predictions but {len(true)} references"
                )
            ids = np.array(true, dtype=np.int64)
            real = ids != self.ignore_index
            correct += int((np.array(predicted, dtype=np.int64) == ids)[real].sum())
            total += int(real.sum())
        if total == 0:
            raise ValueError(
                f"token_accuracy has nothing to score: every reference is {self.ignore_index} (padding)"
            )
        return {"token_accuracy": correct / total, "tokens": total}
