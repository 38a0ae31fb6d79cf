"""Minimum Bayes risk: of several outputs, the one that is most like the others.

Eikema and Aziz 2020 (arXiv 2005.10283) draw samples of a model and choose the one with the largest expected
utility, the mean over all samples. Fernandes et al. 2022 (arXiv 2205.00978) compare samples with the n best
outputs of a beam search. The utility here is sentence chrF by sacreBLEU.
"""

import importlib
import math
from collections import Counter
from collections.abc import Sequence

from .extras import extra


def expected_utilities(candidates: Sequence[str]) -> list[float]:
    """Of each candidate, the mean chrF, 0 to 100, with every candidate as the reference.

    A text that occurs twice counts twice, as an estimate by samples needs it.
    """
    with extra("metrics"):  # an `import` here would make every saved folder need sacreBLEU
        chrf = importlib.import_module("sacrebleu.metrics").CHRF()
    counts = Counter(candidates)
    known = {
        text: math.fsum(
            count * chrf.sentence_score(text, [reference]).score for reference, count in counts.items()
        )
        / len(candidates)
        for text in counts
    }
    return [known[text] for text in candidates]


def minimum_bayes_risk(candidates: Sequence[str]) -> int:
    """The index of the candidate with the largest expected utility, the first one of equals.

    Raises:
        ValueError: there is no candidate.

    Example:
        >>> texts = ["a dog sleeps", "the dog sleeps", "two men run"]  # samples of one translation
        >>> texts[minimum_bayes_risk(texts)]
        'the dog sleeps'
    """
    if isinstance(candidates, str) or not candidates:
        raise ValueError("minimum_bayes_risk needs a list of texts with at least one")
    utilities = expected_utilities(candidates)
    return utilities.index(max(utilities))


__all__ = ["minimum_bayes_risk"]
