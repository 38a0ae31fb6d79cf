"""Metrics of generated text: BLEU, chrF and ROUGE."""

import importlib.metadata
import math
from itertools import zip_longest

import evaluate
from datasets import Features, List, Value
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU, CHRF

from .offline import OfflineMetric

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


TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge(OfflineMetric):
    """Mean F1 over the examples, between 0 and 1, of n-grams and of longest common subsequences.

    Exact, where `evaluate`'s own module returns the median of a bootstrap. Of several references the one with
    the best F1 counts, for each type by itself. Words are runs of a-z and 0-9 in lower case, so other
    scripts need a `tokenizer`. rougeLsum takes the lines of a text for its sentences: write one a line.

    Args:
        rouge_types: of rouge1 to rouge9, rougeL (the text as one sentence) and rougeLsum (the union over
            sentences, what is published as "ROUGE-L" of summaries of several).
        use_stemmer: compare Porter's stems, as `ROUGE-1.5.5.pl -m` does and publications do.
        use_aggregator: False gives a list with the score of each example.
        tokenizer: a function from text to words, in place of that rule.
    """

    name = "rouge"

    def __init__(self, rouge_types=TYPES, use_stemmer=True, use_aggregator=True, tokenizer=None, **kwargs):
        super().__init__(**kwargs)
        self.options = {
            "rouge_types": rouge_types,
            "use_stemmer": use_stemmer,
            "use_aggregator": use_aggregator,
            "tokenizer": tokenizer,
        }
        self._scorer(**self.options)

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Chin-Yew Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004",
            inputs_description="predictions: texts; references: a text, or a list of texts, for each",
            features=TEXTS,
            reference_urls=["https://github.com/google-research/google-research/tree/master/rouge"],
        )

    def _scorer(self, rouge_types, use_stemmer, tokenizer, use_aggregator=True) -> RougeScorer:
        known = {*TYPES, *(f"rouge{size}" for size in range(1, 10))}
        if wrong := [name for name in rouge_types if name not in known]:
            raise ValueError(
                f"rouge_types has {wrong[0]!r}, which is none of rouge1 to rouge9, rougeL, rougeLsum"
            )
        words = DefaultTokenizer(use_stemmer) if tokenizer is None else _Words(tokenizer)
        return RougeScorer(list(rouge_types), tokenizer=words)

    def _compute(self, predictions, references, **options):
        unknown = options.keys() - self.options.keys()
        if unknown:
            raise TypeError(f"rouge has no option {sorted(unknown)}, only {', '.join(self.options)}")
        options = self.options | options
        scorer = self._scorer(**options)
        rows = []
        for index, (prediction, texts) in enumerate(zip(predictions, references)):
            texts = [texts] if isinstance(texts, str) else list(texts)
            if not texts:
                raise ValueError(f"prediction {index} has no reference: {prediction!r}")
            rows.append(scorer.score_multi(texts, prediction))
        scores = {name: [float(row[name].fmeasure) for row in rows] for name in options["rouge_types"]}
        if options["use_aggregator"]:
            scores = {name: math.fsum(column) / len(rows) for name, column in scores.items()}
        return scores | {"signature": _signature(**options)}


class _Words:
    """What rouge-score wants a tokenizer to be."""

    def __init__(self, tokenize):
        self.tokenize = tokenize


def _signature(use_stemmer, tokenizer, **_) -> str:
    words = "a-z0-9" if tokenizer is None else getattr(tokenizer, "__name__", type(tokenizer).__name__)
    stem = "porter" if use_stemmer and tokenizer is None else "no"
    return f"f1|words:{words}|stem:{stem}|rouge-score:{importlib.metadata.version('rouge-score')}"
