"""Metrics for `evaluate` that need no network: of texts, tokens, classes, entities and boxes."""

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from ..extras import extra

if TYPE_CHECKING:
    from .offline import OfflineMetric

# Name -> module and class. Imported on first use: `evaluate`, sacreBLEU and scikit-learn take seconds.
NAMES = {
    "sacrebleu": ("text", "SacreBleu"),
    "chrf": ("text", "Chrf"),
    "perplexity": ("likelihood", "Perplexity"),
    "bits_per_character": ("likelihood", "BitsPerCharacter"),
    "token_accuracy": ("likelihood", "TokenAccuracy"),
    "rouge": ("text", "Rouge"),
    "accuracy": ("classification", "Accuracy"),
    "precision": ("classification", "Precision"),
    "recall": ("classification", "Recall"),
    "f1": ("classification", "F1"),
    "balanced_accuracy": ("classification", "BalancedAccuracy"),
    "roc_auc": ("classification", "RocAuc"),
    "confusion_matrix": ("classification", "ConfusionMatrix"),
    "seqeval": ("entities", "SeqEval"),
    "mean_average_precision": ("detection", "MeanAveragePrecision"),
}
MODULES = {class_name: module for module, class_name in NAMES.values()}
__all__ = [*MODULES, "load_metric"]


def load_metric(name: str, **options: Any) -> "OfflineMetric":
    """Return a metric of this package by its lower-case name: `load_metric("chrf", word_order=2)`.

    Raises:
        ValueError: no metric has this name.
        TypeError: the metric has no such option.

    Example:
        >>> load_metric("f1").compute(predictions=[1, 0, 1], references=[1, 1, 1])
        {'f1': 0.8}
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"metric {name!r} does not exist{meant}; use one of {', '.join(NAMES)}")
    return __getattr__(NAMES[name][1])(**options)


def __getattr__(name: str) -> Any:
    if name in MODULES:
        with extra("metrics"):
            return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
