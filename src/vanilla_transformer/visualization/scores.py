"""How good a model is, and where it is not: by length, by class, by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..extras import extra
from ..losses import IGNORE_INDEX
from .figures import (
    COLORS,
    Picture,
    color_bar,
    heat_map,
    label_cells,
    length_of_axis,
    new_figure,
    panels,
    room_for,
    styled,
)

MOST_NUMBERS = 15  # classes; more have cells too small for numbers


@styled
def plot_length_against_bleu(
    sources: Sequence[str],
    outputs: Sequence[str],
    references: Sequence[str],
    bins: int = 6,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> Picture:
    """Draw BLEU of short and of long sources; each bar has about the same number of them.

    Args:
        sources, outputs, references: texts, as many of each.
        bins: number of bars, fewer if many sources have the same length.
        tokenize: of sacrebleu, such as "zh".
        lowercase: ignore case.

    Raises:
        ValueError: there are no texts, or not as many of each.
    """
    with extra("metrics"):
        from sacrebleu.metrics import BLEU

    if not len(sources) == len(outputs) == len(references) or not len(sources):
        raise ValueError(
            f"{len(sources)} sources, {len(outputs)} outputs and {len(references)} references: give as many "
            "of each, and one at least"
        )
    lengths = np.array([len(source.split()) for source in sources])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1), method="nearest"))[:-1]
    if not len(edges):  # all have one length
        edges = lengths[:1]
    numbers = np.searchsorted(edges, lengths, side="right") - 1
    bleu, scores, names = BLEU(tokenize=tokenize, lowercase=lowercase), [], []
    for number in range(len(edges)):
        chosen = np.flatnonzero(numbers == number).tolist()
        texts = [outputs[index] for index in chosen], [references[index] for index in chosen]
        scores.append(bleu.corpus_score(texts[0], [texts[1]]).score)
        low, high = lengths[chosen].min(), lengths[chosen].max()
        names.append(f"{low}–{high}\n({len(chosen):,})" if high > low else f"{low}\n({len(chosen):,})")
    figure, (axes,) = panels(1, 1, width=max(4.5, 1.5 + 0.8 * len(names)))
    bars = axes.bar(range(len(names)), scores, color=COLORS[0], width=0.7)
    axes.bar_label(bars, [f"{score:.1f}" for score in scores], padding=2)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.set(xlabel="words in the source (number of sentences)", ylabel="BLEU", title="Length against BLEU")
    return figure


@styled
def plot_confusion_matrix(matrix: Any, names: Sequence[str]) -> Picture:
    """Draw how often each class is taken for each other one.

    A cell is as dark as its share of the true class, so rare classes show too. With at most 15 classes each
    cell also has its number.

    Args:
        matrix: counts `(classes, classes)`; rows are the true classes, such as the recipes write to
            classes.json.
        names: of the classes.

    Raises:
        ValueError: the matrix has not as many rows and columns as there are names.
    """
    counts = np.asarray(matrix)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"the matrix has the shape {counts.shape}, but there are {len(names)} names")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with_numbers = len(names) <= MOST_NUMBERS
    digits = len(f"{counts.max(initial=0):,}")
    side = length_of_axis(len(names)) * (max(1.0, 0.3 * digits) if with_numbers else 1.0)
    figure = new_figure(side + 1.4 + room_for(names), side + 0.6 + room_for(names, 0.8))
    axes = figure.subplots()
    image = heat_map(axes, shares, most=1.0)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="predicted", ylabel="true")
    label_cells(axes, names, names, (side, side))
    if with_numbers:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=9)
    color_bar(figure, image, axes, "share of the true class")
    return figure


@styled
def plot_reliability(probabilities: Any, labels: Any, bins: int = 10) -> Picture:
    """Draw how often a classifier is right against how sure it is (Guo et al. 2017, "On Calibration").

    A calibrated one lies on the diagonal; below it, it is too sure. The title has the expected calibration
    error: the mean distance from the diagonal, weighted by the number of examples.

    Args:
        probabilities: `(examples, classes)`.
        labels: `(examples,)`, class ids; -100 is ignored.

    Raises:
        ValueError: no example has a label.
    """
    with extra("metrics"):
        from sklearn.calibration import calibration_curve

    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    known = labels != IGNORE_INDEX
    if not known.any():
        raise ValueError("no example has a label")
    sure = probabilities[known].max(-1).clip(0, 1)
    right = probabilities[known].argmax(-1) == labels[known]
    share, confidence = calibration_curve(right, sure, n_bins=bins)  # only of bins with examples
    edges = np.linspace(0, 1, bins + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], sure), minlength=bins)
    error = np.average(abs(share - confidence), weights=counts[counts > 0])

    figure = new_figure(5.0, 5.6)
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for panel in (curve, histogram):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
    curve.plot((0, 1), (0, 1), color="0.4", linestyle="--", label="calibrated")
    curve.plot(confidence, share, color=COLORS[0], marker="o", linewidth=1.8, label="this model")
    curve.set(ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
    curve.set_title(f"Reliability: calibration error {error:.1%} of {len(sure):,} examples")
    curve.legend(loc="upper left")
    histogram.bar((edges[:-1] + edges[1:]) / 2, counts, width=0.9 / bins, color=COLORS[0])
    histogram.set(xlabel="probability of the predicted class", ylabel="examples")
    histogram.locator_params(axis="y", nbins=4)
    figure.align_ylabels()
    return figure
