"""Metrics for `evaluate` that need no network: BLEU, chrF, perplexity, token accuracy."""

import difflib
import importlib

# Imported when asked for: `evaluate` and sacreBLEU take a second.
NAMES = {
    "sacrebleu": "SacreBleu",
    "chrf": "Chrf",
    "perplexity": "Perplexity",
    "token_accuracy": "TokenAccuracy",
}
__all__ = [*NAMES.values(), "load_metric"]


def load_metric(name, **options):
    """A metric by its lower-case name and its constructor's options: `load_metric("chrf", word_order=2)`."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"there is no metric {name!r}{meant}, only {', '.join(NAMES)}")
    return getattr(importlib.import_module(f"{__name__}.scores"), NAMES[name])(**options)


def __getattr__(name):
    if name in NAMES.values():
        return getattr(importlib.import_module(f"{__name__}.scores"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
