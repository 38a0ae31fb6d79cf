"""Metrics for `evaluate` that need no network, of texts, tokens and classes."""

import difflib
import importlib

from ..extras import extra

# Name -> module and class. Imported when asked for: `evaluate`, sacreBLEU and scikit-learn take seconds.
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
    "confusion_matrix": ("classification", "ConfusionMatrix"),
    "mean_average_precision": ("detection", "MeanAveragePrecision"),
}
MODULES = {class_name: module for module, class_name in NAMES.values()}
__all__ = [*MODULES, "load_metric"]


def load_metric(name, **options):
    """A metric by its lower-case name and its constructor's options: `load_metric("chrf", word_order=2)`."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"there is no metric {name!r}{meant}, only {', '.join(NAMES)}")
    return __getattr__(NAMES[name][1])(**options)


def __getattr__(name):
    if name in MODULES:
        with extra("metrics"):
            return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
