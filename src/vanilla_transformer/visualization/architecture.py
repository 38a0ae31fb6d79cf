"""The diagram of a model: figure 1 of the paper, drawn from the model itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from ..configuration_vanilla_transformer import (
    LayersConfig,
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerVisionConfig,
)
from ..modeling_vanilla_transformer import (
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
)
from ..modeling_vanilla_transformer_detection import VanillaTransformerForObjectDetection
from ..modeling_vanilla_transformer_encoder import VanillaTransformerForMaskedLM
from ..modeling_vanilla_transformer_vision import VanillaTransformerForImageClassification
from .figures import Axes, Picture, draw_box, new_figure, styled

# Light, so that black text is readable in colour and in grey.
FILLS = {
    "embedding": "#F4D3E3",
    "attention": "#FBE0B4",
    "feed-forward": "#C5E3F6",
    "norm": "#EFEFEF",
    "head": "#CBE8DA",
}
WIDTH, GAP, MARGIN = 3.1, 0.24, 0.75  # of a block, between blocks, beside a column; all in inches
LINE: dict[str, Any] = {"color": "black", "linewidth": 1.1}
ARROW = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.1}


@dataclass
class Block:
    """A box, or plain text if it has no kind.

    Attributes:
        text, detail: its first line, and its second in small letters.
    """

    text: str
    detail: str = ""
    kind: str = ""

    @property
    def height(self) -> float:
        return 0.46 if self.detail else 0.3


@dataclass
class Stack:
    """A column of the diagram, from the bottom.

    Attributes:
        sublayers: of one layer, each with its norm.
        times: number of layers.
    """

    before: list[Block]
    sublayers: list[tuple[Block, Block]]
    times: int
    after: list[Block] = field(default_factory=list)


@styled
def plot_architecture(model: PreTrainedModel | LayersConfig) -> Picture:
    """Draw the diagram of a model of this package: its layers, residuals, norms, shapes and parameters.

    Args:
        model: a model, or the configuration of one, whose weights are then not made.

    Raises:
        ValueError: the model is not of this package.
    """
    if isinstance(model, LayersConfig):
        with torch.device("meta"):
            model = _usual_head(model)(model)
    if not isinstance(model.config, LayersConfig):
        raise ValueError(f"{type(model).__name__} is no model of this package, whose layers are known")
    stacks = _stacks(model)
    pre_norm = model.config.norm_position == "pre"
    heights = [_height(stack, pre_norm) for stack in stacks]
    column = WIDTH + 2 * MARGIN
    width, height = column * len(stacks), max(heights) + 0.8
    figure = new_figure(width, height, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    axes.text(width / 2, height - 0.15, type(model).__name__, ha="center", va="top", weight="bold")
    total = f"{model.num_parameters():,} parameters (after a colon: those of a box)"
    axes.text(width / 2, height - 0.38, total, ha="center", va="top", fontsize=9)
    ends = [
        _draw_stack(axes, stack, column * (number + 0.5), -1 if number == 0 else 1, pre_norm)
        for number, stack in enumerate(stacks)
    ]
    if len(stacks) == 2:
        _draw_memory(axes, column, ends[0][0], ends[1][1])
    return figure


def _usual_head(config: LayersConfig) -> Any:
    if isinstance(config, VanillaTransformerVisionConfig):
        return VanillaTransformerForImageClassification
    if isinstance(config, VanillaTransformerDetectionConfig):
        return VanillaTransformerForObjectDetection
    if config.is_encoder_decoder:
        return VanillaTransformerForConditionalGeneration
    return VanillaTransformerForMaskedLM if config.encoder_layers else VanillaTransformerForCausalLM


# What the model has


def _stacks(model: Any) -> list[Stack]:
    base, config = model.base_model, model.config
    encoder, decoder = (getattr(base, name, None) for name in ("encoder", "decoder"))
    if encoder is None and decoder is None:  # the stack alone
        raise ValueError(f"{type(model).__name__} is a part of a model: give the whole model")
    stacks = []
    if encoder is not None:
        before = _before_encoder(base, encoder, config)
        stacks.append(Stack(before, _sublayers(encoder.layers[0], config), len(encoder.layers)))
        stacks[-1].after += _final_norm(encoder)
    if decoder is not None:
        before = _before_decoder(base, decoder, config)
        stacks.append(Stack(before, _sublayers(decoder.layers[0], config, decoder), len(decoder.layers)))
        stacks[-1].after += _final_norm(decoder)
    if len(stacks) == 2:
        words = "cells" if isinstance(config, VanillaTransformerDetectionConfig) else "source"
        stacks[0].after.append(Block(f"memory (batch, {words}, {config.hidden_size})"))
    stacks[-1].after += _head(model, config)
    return stacks


def _count(module: Any) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"


def _final_norm(stack: Any) -> list[Block]:
    return [] if isinstance(stack.norm, torch.nn.Identity) else [_norm(stack.norm, "Norm")]


def _norm(norm: Any, name: str) -> Block:
    return Block(
        name, f"{'batch' if 'Batch' in type(norm).__name__ else 'layer'} norm: {_count(norm)}", "norm"
    )


def _sublayers(layer: Any, config: LayersConfig, decoder: Any = None) -> list[tuple[Block, Block]]:
    add = "Norm" if config.norm_position == "pre" else "Add & Norm"
    heads = f"{config.num_attention_heads} heads, {config.head_dim} wide"
    if config.value_dim != config.head_dim:
        heads = f"{config.num_attention_heads} heads, d_k {config.head_dim}, d_v {config.value_dim}"
    masked = decoder is not None and decoder.is_causal
    names = {"self_attn": "Masked self-attention" if masked else "Self-attention"}
    if hasattr(layer, "cross_attn"):
        names["cross_attn"] = "Cross-attention"
    found = [
        (
            Block(name, f"{heads}: {_count(getattr(layer, part))}", "attention"),
            _norm(getattr(layer, f"{part}_add_norm").norm, add),
        )
        for part, name in names.items()
    ]
    widths = f"{config.hidden_size} to {config.intermediate_size:,} to {config.hidden_size}"
    inner = f"{widths}, {config.activation}"
    forward = Block("Feed-forward", f"{inner}: {_count(layer.feed_forward)}", "feed-forward")
    return [*found, (forward, _norm(layer.feed_forward_add_norm.norm, add))]


def _before_encoder(base: Any, encoder: Any, config: Any) -> list[Block]:
    if isinstance(config, VanillaTransformerConfig):
        name = "source" if config.decoder_layers else "length"
        return _words(encoder, config, name, "source tokens" if config.decoder_layers else "tokens")
    detection = isinstance(config, VanillaTransformerDetectionConfig)
    stem = base.stem if detection else encoder.embed_patches
    size = config.patch_size
    if detection:
        image = f"image (batch, {config.num_channels}, height, width)"
    else:
        image = f"image (batch, {config.num_channels}, {config.image_size}, {config.image_size})"
    name = "Convolutions" if config.stem == "convolutions" else "Linear"
    patches = f"{name}, each {size} x {size} pixels to {config.hidden_size}"
    blocks = [Block(image), Block("Patches", f"{patches}: {_count(stem)}", "embedding")]
    if detection:
        return [*blocks, Block("(batch, cells, " + f"{config.hidden_size}); positions enter q and k")]
    side = config.image_size // size
    kind = f"learned: {_count(encoder.embed_positions)}"
    kind = kind if config.position_embedding_type == "learned" else "sinusoids in two dimensions"
    blocks.append(Block(f"Add positions of {side} x {side} patches", kind, "embedding"))
    count = side**2
    if config.pooling == "class_token":
        blocks.append(Block("Put the class token first", _count(encoder.class_token), "embedding"))
        count += 1
    return [*blocks, Block(f"(batch, {count}, {config.hidden_size})")]


def _before_decoder(base: Any, decoder: Any, config: Any) -> list[Block]:
    if isinstance(config, VanillaTransformerConfig):
        name = "target" if config.encoder_layers else "length"
        return _words(decoder, config, name, "target so far" if config.encoder_layers else "tokens so far")
    proposals = Block("Proposals", f"a label and a box for each cell: {_count(base.proposals)}", "head")
    best = f"the {config.num_queries} best cells (batch, {config.num_queries}, {config.hidden_size})"
    return [Block("memory"), proposals, Block(best)]


def _words(stack: Any, config: VanillaTransformerConfig, length: str, tokens: str) -> list[Block]:
    words, width = stack.embed_tokens.weight.shape
    shared = ", shared" if config.has_shared_embeddings and config.is_encoder_decoder else ""
    learned = config.position_embedding_type == "learned"
    positions = f"learned: {_count(stack.embed_positions)}" if learned else "sinusoids"
    return [
        Block(f"{tokens} (batch, {length})"),
        Block(f"Embedding times √{width}", f"{words:,} words{shared}: {words * width:,}", "embedding"),
        Block("Add positions", positions, "embedding"),
        Block(f"(batch, {length}, {width})"),
    ]


def _head(model: Any, config: Any) -> list[Block]:
    if hasattr(model, "lm_head"):
        words = model.lm_head.out_features
        is_tied = config.tie_word_embeddings
        detail = "the matrix of the embeddings" if is_tied else _count(model.lm_head)
        length = "target" if config.is_encoder_decoder else "length"
        output = Block(f"probabilities (batch, {length}, {words:,})")
        return [Block("Linear & Softmax", detail, "head"), output]
    if isinstance(config, VanillaTransformerDetectionConfig) and hasattr(model, "head"):
        output = Block(f"(batch, {config.num_queries}, {config.num_labels} labels + 4 sides)")
        return [Block("Labels and boxes", _count(model.head), "head"), output]
    if hasattr(model, "qa_outputs"):
        output = Block("start and end (batch, length, 2)")
        return [Block("Linear", _count(model.qa_outputs), "head"), output]
    if hasattr(model, "classifier"):
        linear = Block("Linear", _count(model.classifier), "head")
        if type(model).__name__.endswith("TokenClassification"):
            return [linear, Block(f"logits (batch, length, {config.num_labels})")]
        pooled = "Class token" if config.pooling == "class_token" else "Mean over the length"
        return [Block(pooled, "", "head"), linear, Block(f"logits (batch, {config.num_labels})")]
    return [Block(f"vectors {config.hidden_size} wide")]


# How it is drawn


def _sequence(stack: Stack, pre_norm: bool) -> list[Block]:
    """The blocks of one layer from the bottom; pre-norm adds where post-norm adds and normalises."""
    if pre_norm:
        return [
            block
            for sublayer, norm in stack.sublayers
            for block in (norm, sublayer, Block("Add", "", "norm"))
        ]
    return [block for pair in stack.sublayers for block in pair]


def _height(stack: Stack, pre_norm: bool) -> float:
    blocks = [*stack.before, *_sequence(stack, pre_norm), *stack.after]
    return sum(block.height + GAP for block in blocks) + GAP  # the frame needs twice a half of it


def _draw_stack(axes: Axes, stack: Stack, x: float, side: int, pre_norm: bool) -> tuple[float, float]:
    """Draws a column around `x`, with residuals on the left (`side` -1) or right.

    Returns:
        the y of its top, and the y of its cross-attention, or 0.
    """
    y, cross = 0.15, 0.0
    for number, block in enumerate(stack.before):
        y = _draw_block(axes, block, x, y, arrow=number > 0)
    bottom = y + GAP / 2
    axes.plot((x, x), (y, bottom), **LINE)
    y = bottom
    for sublayer, norm in stack.sublayers:
        start = y + GAP / 2
        if pre_norm:
            y = _draw_block(axes, norm, x, y)
        y = _draw_block(axes, sublayer, x, y)
        if sublayer.text == "Cross-attention":
            cross = y - sublayer.height / 2
        add = Block("Add", "", "norm") if pre_norm else norm
        y = _draw_block(axes, add, x, y)
        outer = x + side * (WIDTH / 2 + 0.2)
        axes.plot((x, outer, outer), (start, start, y - add.height / 2), **LINE)
        _arrow(axes, (outer, y - add.height / 2), (x + side * WIDTH / 2, y - add.height / 2))
    top = y + GAP / 2
    frame = x - WIDTH / 2 - 0.3, top, x + WIDTH / 2 + 0.3, bottom
    draw_box(axes, frame, fill=False, edgecolor="0.4", linestyle="--")
    axes.text(
        x + side * (WIDTH / 2 + 0.35),
        (bottom + top) / 2,
        f"{stack.times} ×",
        ha="left" if side > 0 else "right",
        va="center",
        fontsize=11,
    )
    for block in stack.after:
        y = _draw_block(axes, block, x, y, gap=2 * GAP if block is stack.after[0] else GAP)
    return y, cross


def _draw_block(axes: Axes, block: Block, x: float, y: float, arrow: bool = True, gap: float = GAP) -> float:
    """Draws an arrow from `y` and a block above it, and returns the y of its top."""
    if arrow:
        y = _draw_arrow(axes, x, y, gap)
    if block.kind:
        box = x - WIDTH / 2, y + block.height, x + WIDTH / 2, y
        draw_box(axes, box, facecolor=FILLS[block.kind], edgecolor="black")
    middle = y + block.height / 2
    first = middle + (0.095 if block.detail else 0)
    axes.text(x, first, block.text, ha="center", va="center", fontsize=10 if block.kind else 9)
    if block.detail:
        axes.text(x, middle - 0.105, block.detail, ha="center", va="center", fontsize=8)
    return y + block.height


def _draw_arrow(axes: Axes, x: float, y: float, gap: float) -> float:
    _arrow(axes, (x, y), (x, y + gap))
    return y + gap


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={**ARROW, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9})


def _draw_memory(axes: Axes, column: float, top: float, cross: float) -> None:
    """The line from the top of the encoder to the cross-attention of the decoder."""
    above, between = top + 0.12, column
    axes.plot((column / 2, column / 2, between, between), (top, above, above, cross), **LINE)
    _arrow(axes, (between, cross), (column + MARGIN, cross))


__all__ = ["plot_architecture"]
