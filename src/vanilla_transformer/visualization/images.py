"""What image models look at: attention over the image, and boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from ..image_processing_vanilla_transformer import to_rgb
from .figures import (
    COLORS,
    DASHES,
    VEIL,
    Picture,
    color_bar,
    draw_box,
    new_figure,
    outlined,
    place_labels,
    shorten,
    styled,
)
from .weights import chosen_heads, eager, stacked

FAINT = 0.25  # contrast of an image under its attention
SIDES = ("xmin", "ymin", "xmax", "ymax")
LONGEST_SIDE = 6.4  # inches of a picture with boxes


@styled
def plot_image_attention(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: Image.Image | Sequence[Image.Image],
    layer: int = -1,
    head: int | Literal["all"] | None = None,
    titles: Sequence[str] | None = None,
) -> Picture:
    """Draw which patches of an image its classifier looks at; a column for each image.

    It is the attention of the class token or, for a model that takes the mean of its patches, the attention
    that each patch gets on average.

    Args:
        layer: index of the layer, from 0; -1 is the last one.
        head: index of the head, from 0; -1 is the last one, and "all" gives a row of each. By default the
            mean over all heads.
        titles: of the images.

    Raises:
        ValueError: the model has no such layer or head, or there are no images.
    """
    images = [to_rgb(image) for image in ([images] if isinstance(images, Image.Image) else images)]
    if not images:
        raise ValueError("there are no images: give one at least")
    found = [_patch_weights(model, processor, image, layer, head) for image in images]
    rows = len(found[0])
    side = 1.7 if len(images) > 2 else 2.4
    figure = new_figure(side * len(images) + 1.2, (side + 0.1) * (1 + rows) + 0.35)
    panels = figure.subplots(1 + rows, len(images), squeeze=False)
    most = max(float(maps.max()) for maps in found)
    for column, (image, maps) in enumerate(zip(images, found)):
        panels[0, column].imshow(image, interpolation="none")
        if titles is not None:
            panels[0, column].set_title(shorten(titles[column], int(9 * side)), fontsize=10)
        for row, weights in enumerate(maps):
            drawn = _overlay(panels[1 + row, column], image, weights, most)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    names = [f"head {number}" for number in range(rows)] if head == "all" else ["attention"]
    for name, axes in zip(["image", *names], panels[:, 0]):
        axes.set_ylabel(name)
    color_bar(figure, drawn, list(panels[1:].flat), "attention weight")
    return figure


@torch.no_grad()
def _patch_weights(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    image: Image.Image,
    layer: int,
    head: int | Literal["all"] | None,
) -> np.ndarray:
    """The attention that each patch gets, `(maps, rows, columns)`."""
    pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    with eager(model):
        weights = stacked(model(pixels, output_attentions=True).attentions)
    rows, columns = (length // model.config.patch_size for length in pixels.shape[-2:])
    if head == "all":
        chosen_heads(weights, layer, None, "encoder")
        chosen = weights[layer]
    else:
        chosen = chosen_heads(weights, layer, head, "encoder")[None]
    extra_tokens = chosen.shape[-1] - rows * columns  # the class token comes first
    of_image = chosen[:, 0] if extra_tokens else chosen.mean(1)
    return of_image[:, extra_tokens:].unflatten(-1, (rows, columns)).numpy()


def _overlay(
    axes: Any,
    image: Image.Image,
    weights: np.ndarray,
    most: float,
    cell: tuple[float, float] | None = None,
) -> Any:
    """Draws weights `(rows, columns)` over the faint image: the darker, the more.

    Args:
        cell: its width and height in pixels of the image; by default the weights cover the whole image.
    """
    faint = 255 - FAINT * (255 - np.asarray(image.convert("L")))
    axes.imshow(faint, cmap="gray", vmin=0, vmax=255, interpolation="none")
    width, height = cell or (image.width / weights.shape[1], image.height / weights.shape[0])
    extent = (-0.5, weights.shape[1] * width - 0.5, weights.shape[0] * height - 0.5, -0.5)
    drawn = axes.imshow(weights, cmap=VEIL, vmin=0, vmax=most, extent=extent, interpolation="none")
    axes.set(xlim=(-0.5, image.width - 0.5), ylim=(image.height - 0.5, -0.5))
    return drawn


@styled
def plot_detections(image: Image.Image, objects: Sequence[Mapping[str, Any]]) -> Picture:
    """Draw boxes on an image, each label with a colour and dashes of its own, the best score first.

        plot_detections(image, pipe(image)).savefig("found.png")

    Args:
        objects: as the pipeline for object detection returns them: `{"label": "dog", "score": 0.98, "box":
            {"xmin": 2, "ymin": 3, "xmax": 40, "ymax": 30}}`. Without a score the label is alone.
    """
    image = to_rgb(image)
    inches = LONGEST_SIDE / max(image.size)
    figure = new_figure(image.width * inches, image.height * inches, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_boxes(axes, image, objects)
    return figure


def _draw_boxes(axes: Any, image: Image.Image, objects: Sequence[Mapping[str, Any]]) -> None:
    axes.imshow(image, aspect="auto", interpolation="none")
    axes.set_axis_off()
    axes.set(xlim=(-0.5, image.width - 0.5), ylim=(image.height - 0.5, -0.5))
    axes.get_figure(root=True).draw_without_rendering()
    names = sorted({found["label"] for found in objects})
    texts, places = [], []
    for found in sorted(objects, key=lambda found: -found.get("score", 0)):
        number = names.index(found["label"])
        color = COLORS[number % len(COLORS)]
        _outline(axes, found, color, DASHES[number // len(COLORS) % len(DASHES)])
        score = f" {found['score']:.2f}" if "score" in found else ""
        background = {"facecolor": color, "edgecolor": "white", "pad": 1.5, "linewidth": 0.5}
        text = axes.text(0, 0, shorten(found["label"]) + score, fontsize=10, color="white", bbox=background)
        if color in LIGHT:
            text.set_color("black")
        texts.append(text)
        places.append(_places_at_box(axes, found))
    place_labels(axes, texts, places)


LIGHT = ("#56B4E9", "#E69F00", "#CC79A7")  # colours on which black is easier to read


def _outline(axes: Any, one: Mapping[str, Any], color: str, dashes: Any = "-", width: float = 2.0) -> None:
    """Draws the box of an object, with white edges, which show on any image."""
    style = {"edgecolor": color, "linestyle": dashes, "linewidth": width}
    draw_box(axes, _corners(one), fill=False, path_effects=outlined(width + 2), **style)


def _corners(one: Mapping[str, Any]) -> list[float]:
    """The sides of the box of an object, where the center of the first pixel is 0."""
    return [one["box"][side] - 0.5 for side in SIDES]


def _places_at_box(axes: Any, one: Mapping[str, Any]) -> list[tuple[float, float, str, str]]:
    """Where the label of a box can be: outside its corners, inside them, then along its sides."""
    corners = _corners(one)
    (left, top), (right, bottom) = axes.transData.transform([corners[:2], corners[2:]])
    gap = axes.get_figure(root=True).dpi / 24
    outside = [(left, top + gap, "left", "bottom"), (right, top + gap, "right", "bottom")]
    outside += [(left, bottom - gap, "left", "top"), (right, bottom - gap, "right", "top")]
    inside = [(left + gap, top - gap, "left", "top"), (right - gap, bottom + gap, "right", "bottom")]
    beside = [
        (x + sign * gap, y, align, "center")
        for y in np.linspace(top, bottom, 5)
        for x, sign, align in ((right, 1, "left"), (left, -1, "right"))
    ]
    return [*outside, *inside, *beside]


@styled
def plot_query_attention(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    image: Image.Image,
    most: int = 5,
    threshold: float = 0.3,
    layer: int = -1,
    head: int | None = None,
) -> Picture:
    """Draw the boxes that a detector finds, and where the query of each looks in the image.

    The attention is the decoder's cross-attention to the cells of the image (Carion et al. 2020, figure 6).

    Args:
        most: number of queries, those with the highest scores.
        threshold: the lowest score of a query; the best one is drawn in any case.
        layer: index of the decoder layer; -1 is the last one.
        head: index of the head; the mean over all heads by default.

    Raises:
        ValueError: the model has no such layer or head.
    """
    image = to_rgb(image)
    found, maps, cell = _best_queries(model, processor, image, most, threshold, layer, head)
    columns = min(3, 1 + len(found))
    rows = math.ceil((1 + len(found)) / columns)
    width = 2.6
    figure = new_figure(
        columns * (width + 0.15) + 0.9,
        rows * (width * image.height / image.width + 0.4),
        layout="constrained",
    )
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    highest = float(maps.max()) if len(found) else 1.0
    for axes in panels[1 + len(found) :]:
        axes.remove()
    for number, (axes, one, weights) in enumerate(zip(panels[1:], found, maps), start=1):
        drawn = _overlay(axes, image, weights, highest, cell)
        _outline(axes, one, "black", width=1.5)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{number}: {shorten(one['label'], 14)} {one['score']:.2f}", fontsize=10)
    panels[0].set_title("image", fontsize=10)
    panels[0].imshow(image, interpolation="none")
    panels[0].set_axis_off()
    for one in found:
        _outline(panels[0], one, "black", width=1.5)
    if len(found):
        color_bar(figure, drawn, list(figure.axes), "attention weight")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    texts = [_number(panels[0], str(number)) for number in range(1, 1 + len(found))]
    place_labels(panels[0], texts, [_places_at_box(panels[0], one) for one in found])
    return figure


def _number(axes: Any, text: str) -> Any:
    background = {"facecolor": "white", "edgecolor": "black", "pad": 1.2, "linewidth": 0.5}
    return axes.text(0, 0, text, fontsize=9, bbox=background)


@torch.no_grad()
def _best_queries(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    image: Image.Image,
    most: int,
    threshold: float,
    layer: int,
    head: int | None,
) -> tuple[list[dict[str, Any]], np.ndarray, tuple[float, float]]:
    """The objects of the queries with the highest scores, their attention, and the size of a cell.

    Returns:
        objects as those of the pipeline; weights `(queries, rows, columns)`; width and height of a cell in
        pixels of the image.
    """
    inputs = processor(images=image, return_tensors="pt").to(model.device)
    pixels = inputs["pixel_values"]
    with eager(model):
        outputs = model(**inputs, output_attentions=True)
    patch = model.config.patch_size
    rows, columns = (math.ceil(length / patch) for length in pixels.shape[-2:])
    weights = chosen_heads(stacked(outputs.cross_attentions), layer, head, "decoder")  # (queries, cells)
    scores, labels = outputs.logits[0].float().sigmoid().cpu().max(-1)
    best = scores.topk(min(most, len(scores))).indices
    best = best[: max(1, int((scores[best] > threshold).sum()))]
    size = torch.tensor([image.width, image.height] * 2)
    center, sides = outputs.pred_boxes[0, best].float().cpu().split(2, dim=-1)
    boxes = torch.cat((center - sides / 2, center + sides / 2), dim=-1).clamp(0, 1) * size
    names: Any = model.config.id2label
    found = [
        {"label": names[int(labels[query])], "score": float(scores[query])}
        | {"box": dict(zip(SIDES, box.tolist()))}
        for query, box in zip(best, boxes)
    ]
    cell = patch * image.width / pixels.shape[-1], patch * image.height / pixels.shape[-2]
    return found, weights[best].unflatten(-1, (rows, columns)).numpy(), cell
