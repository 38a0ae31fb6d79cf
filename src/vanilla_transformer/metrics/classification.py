"""Metrics of classification, counted by scikit-learn, under the names and options of `evaluate`'s own.

Predictions and references are class ids, one for each example; or, where an example may have several
classes, a list of 0 and 1 with a place for each class.
"""

import evaluate
import numpy as np
from datasets import Features, List, Value
from sklearn import metrics as sklearn_metrics

from .offline import OfflineMetric

CLASSES = [
    Features({"predictions": Value("int64"), "references": Value("int64")}),
    Features({"predictions": List(Value("int64")), "references": List(Value("int64"))}),
]
AVERAGES = ("binary", "micro", "macro", "weighted", "samples", None)


class ClassificationMetric(OfflineMetric):
    """A score that scikit-learn computes; its options are given to the metric, or to `compute`."""

    def __init__(self, options: dict, **kwargs):
        super().__init__(**kwargs)
        self.options = options

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Pedregosa et al., Scikit-learn: Machine Learning in Python, JMLR 12, 2011",
            inputs_description="predictions, references: class ids, or a list of 0 and 1 for each example",
            features=CLASSES,
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions, references, **options):
        options = self.options | options
        unknown = options.keys() - self.options.keys()
        if unknown:
            raise TypeError(f"{self.name} has no option {sorted(unknown)}, only {', '.join(self.options)}")
        return {self.name: self.score(np.array(references), np.array(predictions), **options)}


class Accuracy(ClassificationMetric):
    """Share of the examples whose class is right, or, where there may be several, whose classes all are.

    Args:
        normalize: False gives the number of right examples.
    """

    name = "accuracy"

    def __init__(self, normalize=True, sample_weight=None, **kwargs):
        super().__init__({"normalize": normalize, "sample_weight": sample_weight}, **kwargs)

    def score(self, references, predictions, **options):
        return float(sklearn_metrics.accuracy_score(references, predictions, **options))


class PrecisionRecallF1(ClassificationMetric):
    """What precision, recall and F1 have in common: a score for each class, and how they are averaged.

    Args:
        average: "binary" scores class `pos_label` alone, "macro" is the mean over classes, "weighted" that
            mean by the classes' frequency, "micro" counts all decisions alike (with one class for each
            example it equals the accuracy), "samples" is the mean over examples of several classes, and None
            gives a list with the score of each class.
        labels: class ids, in the order of that list and as many; those that occur if None.
        zero_division: the score of a class that never occurs, 0 or 1, or nan, which leaves it out of means.
    """

    def __init__(
        self, average="binary", labels=None, pos_label=1, sample_weight=None, zero_division=0, **kwargs
    ):
        options = {"average": average, "labels": labels, "pos_label": pos_label}
        super().__init__(options | {"sample_weight": sample_weight, "zero_division": zero_division}, **kwargs)
        self._check(average)

    def _check(self, average):
        if average not in AVERAGES:
            raise ValueError(f"{average=} is none of {', '.join(map(repr, AVERAGES))}")

    def score(self, references, predictions, average, pos_label, **options):
        self._check(average)
        score = self.function(references, predictions, average=average, pos_label=pos_label, **options)
        return np.asarray(score).tolist()


class Precision(PrecisionRecallF1):
    """Of the examples that are said to be of a class, the share that are.

    The options are those of `PrecisionRecallF1`.
    """

    name = "precision"
    function = staticmethod(sklearn_metrics.precision_score)


class Recall(PrecisionRecallF1):
    """Of the examples of a class, the share that are said to be.

    The options are those of `PrecisionRecallF1`.
    """

    name = "recall"
    function = staticmethod(sklearn_metrics.recall_score)


class F1(PrecisionRecallF1):
    """The harmonic mean of precision and recall.

    The options are those of `PrecisionRecallF1`.
    """

    name = "f1"
    function = staticmethod(sklearn_metrics.f1_score)


class ConfusionMatrix(ClassificationMetric):
    """How many examples of class i (row) are said to be of class j (column), as lists.

    Args:
        labels: class ids, in the order of rows and columns; those that occur if None.
        normalize: "true", "pred" or "all" divides by the sum of the row, of the column, or of all.
    """

    name = "confusion_matrix"

    def __init__(self, labels=None, normalize=None, sample_weight=None, **kwargs):
        super().__init__({"labels": labels, "normalize": normalize, "sample_weight": sample_weight}, **kwargs)

    def score(self, references, predictions, **options):
        if references.ndim > 1:
            raise ValueError("confusion_matrix needs one class for each example, not several")
        return sklearn_metrics.confusion_matrix(references, predictions, **options).tolist()
