"""ROUGE as Google's rouge-score counts it, the port of ROUGE-1.5.5 that summarization is compared by."""

import importlib.metadata
import math

import evaluate
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from .scores import TEXTS, OfflineMetric

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
