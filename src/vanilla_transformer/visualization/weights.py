"""The attention weights of a model for a text, for the heat maps and the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..terms import source_words
from ..tokenization_vanilla_transformer import readable_tokens

Kind = Literal["cross", "encoder", "decoder"]
MOST = 512  # pieces of a text: all weights are held at once, and nobody reads a larger map
MEANING = {
    "cross": "cross-attention",
    "encoder": "self-attention of the encoder",
    "decoder": "masked self-attention of the decoder",
}


class Attention(NamedTuple):
    """Where each row looks among the columns.

    Attributes:
        weights: `(layers, heads, rows, columns)`; each row sums to 1.
        rows, columns: the pieces of text. In cross-attention a row is the piece that the decoder predicts
            with these weights; in self-attention rows and columns are the pieces that the stack reads.
    """

    weights: torch.Tensor
    rows: list[str]
    columns: list[str]


@torch.no_grad()
def attention_of_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str, target: str | None = None
) -> dict[str, Attention]:
    """Returns the attention of each kind that the model has.

    Args:
        target: what an encoder-decoder writes; by default the model generates it.

    Raises:
        ValueError: a text has more than 512 pieces, or there is a target, but no encoder-decoder to write it.
        TypeError: source or target is no text.
    """
    check_text("source", source, tokenizer)
    if target is not None:
        check_text("target", target, tokenizer)
    inputs = tokenizer(source, return_tensors="pt").to(model.device)
    columns = pieces(tokenizer, inputs["input_ids"][0], of_source=True)
    if not model.config.is_encoder_decoder:
        if target is not None:
            raise ValueError(f"{type(model).__name__} is no encoder-decoder, so it takes no target")
        with eager(model):
            outputs = model(**inputs, output_attentions=True)
        kind = "decoder" if is_decoder(model) else "encoder"
        return {kind: Attention(stacked(outputs.attentions), columns, columns)}
    if target is None:
        generated: torch.Tensor = model.generate(**inputs)  # type: ignore[operator]
        labels = generated[0, 1:]  # without the start token
    else:
        labels = tokenizer(text_target=target, return_tensors="pt")["input_ids"][0].to(model.device)
    ids = torch.cat((labels.new_tensor([start_token(model)]), labels[:-1]))
    with eager(model):
        outputs = model(**inputs, decoder_input_ids=ids[None], output_attentions=True, use_cache=False)
    read = pieces(tokenizer, ids)
    return {
        "cross": Attention(stacked(outputs.cross_attentions), pieces(tokenizer, labels), columns),
        "encoder": Attention(stacked(outputs.encoder_attentions), columns, columns),
        "decoder": Attention(stacked(outputs.decoder_attentions), read, read),
    }


def check_text(name: str, text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name} must be one text, not {text!r:.60}")
    if (length := len(tokenizer(text)["input_ids"])) > MOST:
        raise ValueError(f"the {name} has {length:,} pieces, but a picture shows at most {MOST}: shorten it")


def chosen_heads(weights: torch.Tensor, layer: int, head: int | None, stack: str) -> torch.Tensor:
    """Returns the weights `(rows, columns)` of a head, or of the mean over the heads.

    Args:
        weights: `(layers, heads, rows, columns)`.
        stack: the name of the layers in an error.

    Raises:
        ValueError: there is no such layer or head.
    """
    layers, heads = weights.shape[:2]
    if not -layers <= layer < layers:
        raise ValueError(f"layer={layer} does not exist; the {stack} layers are 0 to {layers - 1}")
    if head is None:
        return weights[layer].mean(0)
    if isinstance(head, bool) or not isinstance(head, int):
        raise ValueError(f"head={head!r} does not exist: give a number, None for the mean of all, or 'all'")
    if not -heads <= head < heads:
        raise ValueError(f"head={head} does not exist; the heads are 0 to {heads - 1}")
    return weights[layer, head]


def is_decoder(model: PreTrainedModel) -> bool:
    """Whether a model with one stack is a decoder."""
    config = model.config
    return (
        model.can_generate()
        or getattr(config, "is_decoder", False)
        or getattr(config, "encoder_layers", None) == 0
    )


def start_token(model: Any) -> int:
    start = model.generation_config.decoder_start_token_id
    return model.config.decoder_start_token_id if start is None else start


def stacked(layers: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The weights of all layers for the first text, `(layers, heads, rows, columns)`."""
    return torch.stack([weights[0].float().cpu() for weights in layers])


@contextmanager
def eager(model: PreTrainedModel) -> Iterator[None]:
    """Switch to evaluation and to eager attention, the only one that returns weights; then restore both."""
    implementation, training = model.config._attn_implementation, model.training
    try:
        model.set_attn_implementation("eager")
        model.eval()
        yield
    finally:
        model.set_attn_implementation(implementation)
        model.train(training)


def pieces(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, of_source: bool = False) -> list[str]:
    """Each piece as readable text, without the space before it."""
    words: AbstractContextManager[dict[str, Any]] = source_words(tokenizer) if of_source else nullcontext({})
    with words as options:
        return [text.strip() or "␣" for text in readable_tokens(tokenizer, ids.tolist(), **options)]
