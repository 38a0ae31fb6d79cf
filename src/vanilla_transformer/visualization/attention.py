"""A heat map of cross-attention: where each target piece looks in the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..extras import extra
from ..tokenization_vanilla_transformer import readable_tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_attention(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    target: str | None = None,
    layer: int = -1,
    head: int | None = None,
) -> Figure:
    """Draw the cross-attention of an encoder-decoder: one row per target piece, one column per source piece.

        figure = plot_attention(model, tokenizer, "And Jehovah said to Moses,")
        figure.savefig("attention.png")

    A row shows the weights with which the decoder predicts this piece, so each row sums to 1.

    Args:
        target: the text to score; the model generates it by default.
        layer: index of the decoder layer; -1 is the last one.
        head: index of the head; the mean over all heads by default.

    Raises:
        ValueError: the model is no encoder-decoder, or has no such layer or head.
    """
    with extra("plot"):
        from matplotlib.figure import Figure

    if not model.config.is_encoder_decoder:
        raise ValueError(
            f"{type(model).__name__} has no cross-attention; plot_attention needs an encoder-decoder"
        )
    inputs = tokenizer(source, return_tensors="pt").to(model.device)
    if target is None:
        generated: torch.Tensor = model.generate(**inputs)  # type: ignore[operator]
        labels = generated[0, 1:]  # without the start token
    else:
        labels = tokenizer(text_target=target, return_tensors="pt")["input_ids"][0].to(model.device)
    weights = _cross_attention(model, inputs, labels, layer)  # (heads, target, source)
    if head is not None and not -len(weights) <= head < len(weights):
        raise ValueError(f"head={head} does not exist; the heads are 0 to {len(weights) - 1}")
    weights = weights.mean(0) if head is None else weights[head]

    columns, rows = _pieces(tokenizer, inputs["input_ids"][0]), _pieces(tokenizer, labels)
    size = (1.8 + 0.42 * len(columns), 1.4 + 0.36 * len(rows))
    figure = Figure(figsize=size, dpi=120, layout="constrained")  # not pyplot, which keeps every figure
    axes = figure.subplots()
    image = axes.imshow(weights.float().cpu().numpy(), cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=11)
    axes.spines[:].set_visible(False)
    for number in range(1, max(weights.shape)):  # white lines between the cells
        if number < len(columns):
            axes.axvline(number - 0.5, color="white", linewidth=1.5)
        if number < len(rows):
            axes.axhline(number - 0.5, color="white", linewidth=1.5)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, label="attention weight")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


@torch.no_grad()
def _cross_attention(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, layer: int
) -> torch.Tensor:
    with _eager(model):
        outputs = model(**inputs, labels=labels[None], output_attentions=True)
    layers = outputs.cross_attentions
    if not -len(layers) <= layer < len(layers):
        raise ValueError(f"layer={layer} does not exist; the decoder layers are 0 to {len(layers) - 1}")
    return layers[layer][0]


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Switch to evaluation and to eager attention, the only one that returns weights; then restore both."""
    implementation, training = model.config._attn_implementation, model.training
    try:
        model.set_attn_implementation("eager")
        model.eval()
        yield
    finally:
        model.set_attn_implementation(implementation)
        model.train(training)


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor) -> list[str]:
    """Each piece as readable text, without the space before it."""
    # matplotlib reads text between two $ as a formula
    return [(text.strip() or "␣").replace("$", r"\$") for text in readable_tokens(tokenizer, ids.tolist())]
