"""The metrics themselves, as `evaluate` modules."""

import math
from inspect import signature
from itertools import zip_longest

import evaluate
import numpy as np
from datasets import Features, List, Value
from sacrebleu.metrics import BLEU, CHRF


class OfflineMetric(evaluate.Metric):
    """An `evaluate.Metric` that neither loads nor leaves a file.

    Inputs are held in memory, so that any number of processes may score at once. With `num_process` > 1, or
    `keep_in_memory=False`, they go through files in `cache_dir`, as `evaluate` does it.
    """

    def __init__(self, keep_in_memory=None, num_process=1, **kwargs):
        unknown = kwargs.keys() - signature(evaluate.Metric.__init__).parameters.keys()
        if unknown:
            raise TypeError(f"{self.name} has no option {sorted(unknown)}")
        keep_in_memory = num_process == 1 if keep_in_memory is None else keep_in_memory
        super().__init__(keep_in_memory=keep_in_memory, num_process=num_process, **kwargs)

    def _build_data_dir(self):
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _infer_feature_from_batch(self, batch):
        if not all(map(len, batch.values())):
            raise ValueError(f"{self.name} has nothing to score: an empty batch came first")
        return super()._infer_feature_from_batch(batch)

    def _finalize(self):
        if self.writer is None and self.num_process == 1:
            raise ValueError(f"{self.name} has nothing to score: no predictions were given")
        super()._finalize()


TEXTS = [  # one reference for each prediction, or a list of them, whose number may vary
    Features({"predictions": Value("string"), "references": Value("string")}),
    Features({"predictions": Value("string"), "references": List(Value("string"))}),
]


def score_texts(scorer, predictions, references):
    """sacreBLEU's score and signature; it wants all first references, then all second ones, and so on."""
    references = [[texts] if isinstance(texts, str) else texts for texts in references]
    for index, texts in enumerate(references):
        if not texts:
            raise ValueError(f"prediction {index} has no reference: {predictions[index]!r}")
    score = scorer.corpus_score(list(predictions), list(zip_longest(*references)))
    return score, str(scorer.get_signature())


class SacreBleu(OfflineMetric):
    """BLEU as sacreBLEU counts it, with the signature that makes it comparable.

    The options are sacreBLEU's. `compute` takes them too, and its `smooth_method` and `smooth_value`.
    """

    name = "sacrebleu"

    def __init__(self, tokenize="13a", lowercase=False, force=False, **kwargs):
        super().__init__(**kwargs)
        self.options = {"tokenize": tokenize, "lowercase": lowercase, "force": force}
        if tokenize not in BLEU.TOKENIZERS:
            raise ValueError(f"{tokenize=} is none of sacreBLEU's: {', '.join(BLEU.TOKENIZERS)}")

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Matt Post, A Call for Clarity in Reporting BLEU Scores, WMT 2018",
            inputs_description="predictions: texts; references: a text, or a list of texts, for each",
            features=TEXTS,
            reference_urls=["https://github.com/mjpost/sacrebleu"],
        )

    def _compute(self, predictions, references, **options):
        score, signed = score_texts(BLEU(**self.options | options), predictions, references)
        names = ("score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len")
        return {name: getattr(score, name) for name in names} | {"signature": signed}


class Chrf(OfflineMetric):
    """chrF2, or chrF2++ with `word_order=2`, as sacreBLEU counts it. The options are sacreBLEU's."""

    name = "chrf"

    def __init__(self, word_order=0, char_order=6, beta=2, lowercase=False, whitespace=False, **kwargs):
        super().__init__(**kwargs)
        self.options = {
            "word_order": word_order,
            "char_order": char_order,
            "beta": beta,
            "lowercase": lowercase,
            "whitespace": whitespace,
        }

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Maja Popović, chrF: character n-gram F-score for automatic MT evaluation, WMT 2015",
            inputs_description="predictions: texts; references: a text, or a list of texts, for each",
            features=TEXTS,
            reference_urls=["https://github.com/mjpost/sacrebleu"],
        )

    def _compute(self, predictions, references, **options):
        score, signed = score_texts(CHRF(**self.options | options), predictions, references)
        names = ("score", "char_order", "word_order", "beta")
        return {name: getattr(score, name) for name in names} | {"signature": signed}


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
