"""Metrics of classification, computed by scikit-learn, with the names and options of `evaluate`'s own.

Predictions and references hold one class id for each example. If an example can have several classes, they
hold a list of 0 and 1 for each example, with one entry for each class.
"""

import warnings
from collections.abc import Callable
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value
from sklearn import metrics as sklearn_metrics

from .offline import OfflineMetric, checked_options

CLASSES = [
    Features({"predictions": Value("int64"), "references": Value("int64")}),
    Features({"predictions": List(Value("int64")), "references": List(Value("int64"))}),
]
AVERAGES = ("binary", "micro", "macro", "weighted", "samples", None)


class ClassificationMetric(OfflineMetric):
    """A score that scikit-learn computes. The constructor and `compute` take its options."""

    score: Callable[..., Any]  # a method of each metric: references, predictions, options -> score

    def __init__(self, options: dict[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.options = options

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Pedregosa et al., Scikit-learn: Machine Learning in Python, JMLR 12, 2011",
            inputs_description="predictions, references: class ids, or a list of 0 and 1 for each example",
            features=CLASSES,
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, Any]:
        options = self.options | checked_options(self.name, options, self.options)
        return {self.name: self.score(np.array(references), np.array(predictions), **options)}


class Accuracy(ClassificationMetric):
    """The share of examples with the right class. If there can be several classes, all must be right.

    Args:
        normalize: False returns the number of right examples.
    """

    name = "accuracy"

    def __init__(self, normalize: bool = True, sample_weight: Any = None, **kwargs: Any):
        super().__init__({"normalize": normalize, "sample_weight": sample_weight}, **kwargs)

    def score(self, references: np.ndarray, predictions: np.ndarray, **options: Any) -> float:
        return float(sklearn_metrics.accuracy_score(references, predictions, **options))


class PrecisionRecallF1(ClassificationMetric):
    """The base class of precision, recall and F1: a score for each class, and their average.

    Args:
        average: "binary" scores only the class `pos_label`. "macro" is the mean over the classes, and
            "weighted" weights it by how often each class occurs. "micro" counts all decisions together (with
            one class for each example, this is the accuracy). "samples" is the mean over examples that can
            have several classes. None returns a list with the score of each class.
        labels: the class ids to score, in the order of that list. None takes the classes that occur.
        zero_division: the score of a class that never occurs: 0, 1, or nan, which means ignore.
    """

    function: Callable[..., Any]

    def __init__(
        self,
        average: str | None = "binary",
        labels: list[int] | None = None,
        pos_label: int = 1,
        sample_weight: Any = None,
        zero_division: float = 0,
        **kwargs: Any,
    ):
        options = {"average": average, "labels": labels, "pos_label": pos_label}
        super().__init__(options | {"sample_weight": sample_weight, "zero_division": zero_division}, **kwargs)
        self._check(average)

    def _check(self, average: str | None) -> None:
        if average not in AVERAGES:
            raise ValueError(f"{average=} is unknown; use one of {', '.join(map(repr, AVERAGES))}")

    def score(self, references: np.ndarray, predictions: np.ndarray, **options: Any) -> Any:
        self._check(options["average"])
        return np.asarray(self.function(references, predictions, **options)).tolist()


class Precision(PrecisionRecallF1):
    """The share of the predictions of a class that are right. Takes the options of `PrecisionRecallF1`."""

    name = "precision"
    function = staticmethod(sklearn_metrics.precision_score)


class Recall(PrecisionRecallF1):
    """The share of the examples of a class that are found. Takes the options of `PrecisionRecallF1`."""

    name = "recall"
    function = staticmethod(sklearn_metrics.recall_score)


class F1(PrecisionRecallF1):
    """The harmonic mean of precision and recall. Takes the options of `PrecisionRecallF1`."""

    name = "f1"
    function = staticmethod(sklearn_metrics.f1_score)


class BalancedAccuracy(ClassificationMetric):
    """The mean over the classes of the share of its examples that are found, whatever their numbers.

    Args:
        adjusted: 0 is chance then, and 1 is perfect.
    """

    name = "balanced_accuracy"

    def __init__(self, adjusted: bool = False, sample_weight: Any = None, **kwargs: Any):
        super().__init__({"adjusted": adjusted, "sample_weight": sample_weight}, **kwargs)

    def score(self, references: np.ndarray, predictions: np.ndarray, **options: Any) -> float:
        if references.ndim > 1:
            raise ValueError("balanced_accuracy needs one class for each example, not several")
        with warnings.catch_warnings():  # a class that is predicted but never true does not count
            warnings.filterwarnings("ignore", "y_pred contains classes|A single label", UserWarning)
            return float(sklearn_metrics.balanced_accuracy_score(references, predictions, **options))


class RocAuc(ClassificationMetric):
    """The area under the ROC curve of two classes: the chance that an example of class 1 scores higher.

    `predictions` are scores of class 1, and `references` are 0 or 1. It is nan if one class does not occur.
    """

    name = "roc_auc"

    def __init__(self, sample_weight: Any = None, **kwargs: Any):
        super().__init__({"sample_weight": sample_weight}, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        info = super()._info()
        info.inputs_description = "predictions: a score for each example; references: 0 or 1"
        info.features = Features({"predictions": Value("float64"), "references": Value("int64")})
        return info

    def score(self, references: np.ndarray, predictions: np.ndarray, **options: Any) -> float:
        if len(np.unique(references)) < 2:
            return float("nan")
        return float(sklearn_metrics.roc_auc_score(references, predictions, **options))


class ConfusionMatrix(ClassificationMetric):
    """A list of rows: row i, column j is the number of examples of class i with prediction j.

    Args:
        labels: the class ids, in the order of rows and columns. None takes the classes that occur.
        normalize: "true", "pred" or "all" divides by the sum of the row, the column, or everything.
    """

    name = "confusion_matrix"

    def __init__(
        self,
        labels: list[int] | None = None,
        normalize: str | None = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ):
        super().__init__({"labels": labels, "normalize": normalize, "sample_weight": sample_weight}, **kwargs)

    def score(self, references: np.ndarray, predictions: np.ndarray, **options: Any) -> list[list[float]]:
        if references.ndim > 1:
            raise ValueError("confusion_matrix needs one class for each example, not several")
        return sklearn_metrics.confusion_matrix(references, predictions, **options).tolist()
