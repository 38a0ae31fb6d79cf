"""Attention as heat maps, and the words that it aligns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..alignments import split_words, word_alignments
from .figures import (
    COLORS,
    Picture,
    color_bar,
    heat_map,
    label_cells,
    length_of_axis,
    new_figure,
    room_for,
    shorten,
    styled,
)
from .weights import MEANING, Attention, Kind, attention_of_text, chosen_heads

READS = {"cross": ("source", "predicts"), "encoder": ("key", "query"), "decoder": ("key", "query")}
WIDEST_GRID = 16.0  # of heads, in inches


@styled
def plot_attention(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    target: str | None = None,
    layer: int = -1,
    head: int | Literal["all"] | None = None,
    kind: Kind = "cross",
) -> Picture:
    """Draw where each piece of a text looks: one row per piece that looks, one column per piece it looks at.

        figure = plot_attention(model, tokenizer, "And Jehovah said to Moses,")
        figure.savefig("attention.png")

    Each row sums to 1. In cross-attention a row shows the weights with which the decoder predicts this piece.

    Args:
        target: the text to score; the model generates it by default.
        layer: index of the layer, from 0; -1 is the last one.
        head: index of the head, from 0; -1 is the last one, and "all" gives a panel of each. By default the
            mean over all heads.
        kind: "cross" for cross-attention, "encoder" for its self-attention, "decoder" for masked
            self-attention. A model with one stack has one kind.

    Raises:
        ValueError: the model has no such attention, layer or head.
    """
    if kind not in MEANING:
        raise ValueError(f"kind={kind!r} does not exist: choose one of {', '.join(MEANING)}")
    if kind == "cross" and not model.config.is_encoder_decoder:
        raise ValueError(
            f"{type(model).__name__} has no cross-attention; give kind='encoder' or kind='decoder', "
            "or an encoder-decoder"
        )
    found = attention_of_text(model, tokenizer, source, target)
    if kind not in found:
        raise ValueError(
            f"{type(model).__name__} has no {MEANING[kind]}: give kind={' or '.join(map(repr, found))}"
        )
    stack = "encoder" if kind == "encoder" else "decoder"
    if head == "all":
        chosen_heads(found[kind].weights, layer, None, stack)
        return _grid_of_heads(found[kind], layer, kind)
    weights = chosen_heads(found[kind].weights, layer, head, stack)
    return _one_map(weights, found[kind], kind)


def _one_map(weights: torch.Tensor, found: Attention, kind: str) -> Picture:
    width, height = length_of_axis(len(found.columns)), length_of_axis(len(found.rows))
    margins = 1.5 + room_for(found.rows), 0.6 + room_for(found.columns, 0.8)
    figure = new_figure(width + margins[0], height + margins[1])
    axes = figure.subplots()
    image = heat_map(axes, weights.numpy())
    _name_axes(axes, kind)
    label_cells(axes, found.rows, found.columns, (width, height))
    color_bar(figure, image, axes, "attention weight")
    return figure


def _name_axes(axes: Any, kind: str) -> None:
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    across, down = READS[kind]
    axes.set_xlabel(across)
    axes.set_ylabel(down)


def _grid_of_heads(found: Attention, layer: int, kind: str) -> Picture:
    weights = found.weights[layer]  # (heads, rows, columns)
    share = 0.7  # of the size that one map alone has
    width, height = (share * length_of_axis(len(names)) for names in (found.columns, found.rows))
    columns = math.ceil((len(weights) * height / width) ** 0.5)  # about as wide as high
    columns = max(1, min(columns, len(weights), int(WIDEST_GRID / width)))
    rows = math.ceil(len(weights) / columns)
    figure = new_figure(
        columns * (width + 0.3) + room_for(found.rows) + 1.6,
        rows * (height + 0.5) + room_for(found.columns, 0.8) + 0.4,
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    for head, axes in enumerate(panels.flat):
        if head >= len(weights):
            axes.remove()
            continue
        image = heat_map(axes, weights[head].numpy(), most=float(weights.max()))
        axes.text(0.5, -0.02, f"head {head}", transform=axes.transAxes, ha="center", va="top")
        axes.xaxis.tick_top()
        label_cells(axes, found.rows, found.columns, (width, height))
        axes.tick_params(labeltop=head < columns, labelleft=head % columns == 0)
    across, down = READS[kind]
    figure.supxlabel(f"{across}: {MEANING[kind]}")
    figure.supylabel(down)
    color_bar(figure, image, list(figure.axes), "attention weight", fraction=0.04 / columns * 2)
    return figure


@styled
def plot_alignment(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    target: str | None = None,
    layer: int | None = None,
    shift: bool | None = None,
) -> Picture:
    """Draw the words of a text and of its translation, with lines between those that belong together.

    The links are those of `vanilla_transformer.word_alignments`, which also explains `layer` and `shift`.

    Args:
        target: the translation; the model generates it by default.
    """
    if target is None:
        inputs = tokenizer(source, return_tensors="pt").to(model.device)
        generated: torch.Tensor = model.generate(**inputs)  # type: ignore[operator]
        target = str(tokenizer.decode(generated[0], skip_special_tokens=True))
    (links,) = word_alignments(model, tokenizer, [source], [target], layer, shift)
    pairs = [tuple(map(int, link.split("-"))) for link in links.split()]
    return _linked_columns(split_words(source), split_words(target), pairs)


def _linked_columns(source: Sequence[str], target: Sequence[str], links: Sequence[tuple]) -> Picture:
    """Two columns of words; each source word gives its lines a colour and dashes."""
    sides = room_for(source), room_for(target)
    width, height = sum(sides) + 2.6, 0.5 + 0.3 * max(len(source), len(target), 2)
    figure = new_figure(width, height, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    left, right = 0.2 + sides[0], width - 0.2 - sides[1]
    places = []  # of the words of each side, from the top
    for words, x, align in ((source, left, "right"), (target, right, "left")):
        step = (height - 0.5) / max(1, len(words))
        places.append([0.25 + step * (number + 0.5) for number in range(len(words))])
        for word, y in zip(words, places[-1]):
            axes.text(x, y, shorten(word), ha=align, va="center", fontsize=11)
    for first, second in links:
        axes.plot(
            (left + 0.1, right - 0.1),
            (places[0][first], places[1][second]),
            color=COLORS[first % 4],
            linestyle=("-", "--")[first // 4 % 2],
            linewidth=1.6,
            marker="o",
            markersize=4,
        )
    return figure
