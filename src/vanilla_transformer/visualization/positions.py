"""Positions as vectors, and words as points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..embeddings import LearnedGrid, LearnedPositions, SinusoidalGrid, sinusoids, sinusoids_2d
from ..extras import extra
from .figures import COLORS, SIGNED, Picture, color_bar, line_style, new_figure, place_labels, shorten, styled
from .weights import pieces

WAVES = 4  # columns that are drawn as curves
FIRST_PIECE = 260  # the tokens before are special or bytes; BPE adds frequent pieces first
WORD_STARTS = ("Ġ", "▁")  # of the pieces with a space before them


def position_vectors(model: PreTrainedModel | None, length: int, width: int) -> torch.Tensor:
    """Returns the vectors that a model adds for its positions, `(positions, width)`.

    These are sinusoids (section 3.5) of `width`, or of a model's own width, or what it learned. A model of
    images has one for each cell, row by row.
    """
    if model is None:
        return sinusoids(torch.arange(length), width)
    grids = LearnedPositions, LearnedGrid, SinusoidalGrid
    table: Any = next((module for module in model.modules() if isinstance(module, grids)), None)
    width = model.config.hidden_size
    if isinstance(table, LearnedPositions):
        return table.weight[:length].detach().float().cpu()
    if table is not None:
        with torch.no_grad():
            return table(torch.zeros(1, table.size, table.size, width)).flatten(0, 2).float().cpu()
    if model.config.model_type.endswith("detection"):
        side = max(2, round(length**0.5))
        rows, columns = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
        return sinusoids_2d(rows, columns, width).flatten(0, 1)
    return sinusoids(torch.arange(length), width)


@styled
def plot_positional_encoding(
    model: PreTrainedModel | None = None, length: int = 100, width: int = 128
) -> Picture:
    """Draw the vectors that mark positions, and some of their columns as waves.

    Args:
        model: whose positions to draw; by default sinusoids of this width (section 3.5).
        length: number of positions. A model of images has one for each cell, row by row.
    """
    vectors = position_vectors(model, length, width).numpy()
    figure = new_figure(9.0, 4.2)
    table, waves = figure.subplots(1, 2, width_ratios=(5, 4))
    most = float(abs(vectors).max()) or 1.0
    image = table.imshow(vectors, cmap=SIGNED, vmin=-most, vmax=most, aspect="auto", interpolation="none")
    table.set(xlabel="column of the vector", ylabel="position", title="Positional encoding")
    color_bar(figure, image, table, "value")
    columns = np.unique(np.linspace(0, vectors.shape[1] / 2, WAVES + 2)[1:-1].astype(int) // 2 * 2)
    for number, column in enumerate(columns):
        waves.plot(vectors[:, column], label=f"column {column}", **line_style(number))
    waves.set(xlabel="position", ylabel="value", title="Waves of its columns")
    waves.set_ylim(-1.1 * most, 1.6 * most)
    waves.legend(ncols=2, loc="upper center")
    waves.grid(alpha=0.3)
    waves.spines[["top", "right"]].set_visible(False)
    return figure


@styled
def plot_position_similarity(
    model: PreTrainedModel | None = None, length: int = 100, width: int = 128
) -> Picture:
    """Draw the dot products of the vectors of all positions, and those of the middle one as a curve.

    The product of two sinusoids depends on their distance alone. The arguments are those of
    `plot_positional_encoding`.
    """
    vectors = position_vectors(model, length, width).numpy()
    products = vectors @ vectors.T
    figure = new_figure(9.0, 4.2)
    table, curve = figure.subplots(1, 2, width_ratios=(5, 4))
    image = table.imshow(products, cmap=SIGNED, interpolation="none")
    table.set(xlabel="position", ylabel="position", title="Dot products of positions")
    color_bar(figure, image, table, "dot product")
    middle = len(vectors) // 2
    curve.plot(np.arange(len(vectors)) - middle, products[middle], color=COLORS[0], linewidth=1.8)
    curve.set(xlabel=f"distance from position {middle}", ylabel="dot product", title="By distance")
    curve.grid(alpha=0.3)
    curve.spines[["top", "right"]].set_visible(False)
    return figure


@styled
def plot_embeddings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    words: Sequence[str] | None = None,
    method: Literal["pca", "tsne"] = "pca",
    most: int = 150,
    seed: int = 0,
) -> Picture:
    """Draw the embeddings of words as points in a plane; near words are used alike.

    A point whose name would cover another name has none.

    Args:
        words: to draw; by default the most frequent pieces that begin a word. A word of several pieces
            has the mean of their embeddings.
        method: "pca" keeps the directions in which the words differ most, "tsne" the neighbours.
        most: number of words to choose by default.
        seed: of t-SNE.

    Raises:
        ValueError: there are fewer than 3 words, or one has no token.
    """
    with extra("metrics"):
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

    if method not in ("pca", "tsne"):
        raise ValueError(f"method={method!r} does not exist: choose pca or tsne")
    embedding: Any = model.get_input_embeddings()
    table = embedding.weight.detach().float().cpu()
    if words is None:
        chosen = dict(list(_frequent_words(tokenizer).items())[:most])
    else:
        chosen = {word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in words}
        if blank := [word for word, ids in chosen.items() if not ids]:
            raise ValueError(f"the tokenizer makes no token of {blank[0]!r}, so it has no embedding")
    if len(chosen) < 3:
        raise ValueError(f"{len(chosen)} words are too few for a plane: give at least 3")
    vectors = torch.stack([table[ids].mean(0) for ids in chosen.values()])
    directions = torch.nn.functional.normalize(vectors, dim=-1).numpy()
    if method == "pca":
        points = PCA(2).fit_transform(directions)
    else:
        near = min(30.0, (len(chosen) - 1) / 3)
        points = TSNE(2, perplexity=near, init="pca", random_state=seed).fit_transform(directions)
    return _named_points(points, list(chosen), {"pca": "principal component", "tsne": "t-SNE"}[method])


def _frequent_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The pieces that begin a word and have more than two letters, in the order of the vocabulary."""
    ids = torch.arange(FIRST_PIECE, len(tokenizer))
    names = tokenizer.convert_ids_to_tokens(ids.tolist())
    marks = any(name.startswith(WORD_STARTS) for name in names)
    return {
        text: [id]
        for id, name, text in zip(ids.tolist(), names, pieces(tokenizer, ids))
        if len(text) > 2 and text.isalpha() and (not marks or name.startswith(WORD_STARTS))
    }


def _named_points(points: np.ndarray, names: list[str], axis: str) -> Picture:
    side = float(np.clip(0.75 * len(names) ** 0.5, 5.0, 14.0))
    figure = new_figure(1.25 * side, side)
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], s=14, color=COLORS[0], zorder=1)
    axes.set(xticks=[], yticks=[], xlabel=f"{axis} 1", ylabel=f"{axis} 2", title="Embeddings of words")
    axes.margins(0.08)
    figure.draw_without_rendering()  # the layout is final
    figure.set_layout_engine("none")
    pixels, gap = axes.transData.transform(points), figure.dpi / 18
    texts = [axes.text(0, 0, shorten(name), fontsize=9, zorder=2) for name in names]
    directions: list[tuple[float, float, str, str]] = [(1, 0, "left", "center"), (-1, 0, "right", "center")]
    directions += [(0, 1, "center", "bottom"), (0, -1, "center", "top")]
    directions += [(0.7, 0.7, "left", "bottom"), (0.7, -0.7, "left", "top")]
    directions += [(-0.7, 0.7, "right", "bottom"), (-0.7, -0.7, "right", "top")]
    places = [[(x + gap * i, y + gap * j, ha, va) for i, j, ha, va in directions] for x, y in pixels]
    place_labels(axes, texts, places, pixels.tolist())
    return figure
