"""Foreign weights under the names of this package: renamed, split, reordered, and none left over."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from ..configuration_vanilla_transformer import VanillaTransformerConfig
from ..modeling_vanilla_transformer import VanillaTransformerForConditionalGeneration

Weights = dict[str, torch.Tensor]
Model = TypeVar("Model", bound=nn.Module)
Rules = Iterable[tuple[str, str]]  # a regular expression and its replacement

# Names of fairseq, which Marian and FSMT in transformers have too.
FAIRSEQ_NAMES: Rules = (
    (r"encoder_attn_layer_norm", "cross_attn_add_norm.norm"),
    (r"self_attn_layer_norm", "self_attn_add_norm.norm"),
    (r"final_layer_norm", "feed_forward_add_norm.norm"),
    (r"encoder_attn\.", "cross_attn."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.(fc[12])\.", r".feed_forward.\1."),
    (r"^(encoder|decoder)\.", r"model.\1."),
    (r"^(model\.\w+)\.layer_norm\.", r"\1.norm."),
)
READS = re.compile(r".*(embed_tokens|embed_positions|shared|lm_head|[qkv]_proj|fc1)\.weight")
WRITES = re.compile(r".*((o_proj|fc2)\.(weight|bias)|norm\.(weight|bias))")


class ConversionError(ValueError):
    """A conversion would change the results of a model, or its files cannot be read."""


def refuse(where: Any, **found: Any) -> None:
    """Raises ConversionError if one of these settings is on; its name says what it is."""
    wrong = {name: value for name, value in found.items() if value}
    if wrong:
        shown = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
        raise ConversionError(f"{where} has {shown}, which this architecture lacks: its results would change")


def require_equal(where: Any, **pairs: tuple[Any, Any]) -> None:
    """Raises ConversionError for a setting that differs between encoder and decoder."""
    for name, (encoder, decoder) in pairs.items():
        if encoder != decoder:
            raise ConversionError(
                f"{where} has {name}={encoder} in the encoder but {decoder} in the decoder; here both "
                "are equal"
            )


def rename(weights: Mapping[str, torch.Tensor], rules: Rules, ignored: str = "(?!)") -> Weights:
    """Applies every rule to every name, and drops the names that match `ignored`."""
    renamed = {}
    for name, weight in weights.items():
        if not re.fullmatch(ignored, name):
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
            renamed[name] = weight
    return renamed


def split_in_proj(weights: Weights) -> Weights:
    """Splits the one matrix of queries, keys and values that `torch.nn.MultiheadAttention` has."""
    split = {}
    for name, weight in weights.items():
        if match := re.fullmatch(r"(.*\.)in_proj_(weight|bias)", name):
            parts = zip("qkv", weight.chunk(3))
            split.update({f"{match[1]}{part}_proj.{match[2]}": value for part, value in parts})
        else:
            split[name] = weight
    return split


def pop(weights: Weights, name: str, where: Any) -> torch.Tensor:
    if name not in weights:
        raise ConversionError(f"{where} lacks the weights {name}")
    return weights.pop(name)


def interleaved(weights: Weights, width: int) -> Weights:
    """Reorders the residual basis so that sinusoids of two halves, sines and cosines, become pairs.

    No result changes, because every weight that reads or writes a vector of this width moves with them.
    """
    order = torch.arange(width).view(2, -1).T.flatten()  # 0, width / 2, 1, width / 2 + 1, …
    moved = {}
    for name, weight in weights.items():
        if READS.fullmatch(name):
            weight = weight[:, order]
        elif WRITES.fullmatch(name):
            weight = weight[order]
        moved[name] = weight
    return moved


def half_split_sinusoids(positions: int, width: int) -> torch.Tensor:
    """Marian's positions, `(positions, width)`: all sines, then all cosines."""
    angles = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (
        torch.arange(0, width, 2, dtype=torch.float64) / width
    )
    return torch.cat((angles.sin(), angles.cos()), dim=1).float()


def has_half_split_sinusoids(table: torch.Tensor) -> bool:
    """Whether a table of positions `(positions, width)` is Marian's, perhaps rounded to half precision."""
    expected = half_split_sinusoids(*table.shape)
    return expected.shape == table.shape and bool((expected - table).abs().max() < 1e-3)


def translation_model(
    where: Any,
    fields: dict[str, Any],
    layers: Weights,
    words: Sequence[torch.Tensor],
    output_bias: torch.Tensor | None = None,
    embedding_scale: float = 1.0,
    has_half_split: bool = False,
) -> VanillaTransformerForConditionalGeneration:
    """An encoder-decoder with these weights.

    Args:
        where: the source, for errors.
        fields: of the configuration, other than those that follow from the weights.
        layers: all other weights, under the names of this package.
        words: the embeddings of source and target and the output projection, `(words, width)`. Those that
            are equal are tied.
        embedding_scale: what the source multiplies embeddings by; here it is always √d_model.
        has_half_split: whether positions are Marian's; see `interleaved`.
    """
    source, target, output = words
    width = source.shape[1]
    ties_output = output.shape == target.shape and torch.equal(output, target)
    ties_source = source.shape == target.shape and torch.equal(source, target)
    has_own_words = not ties_source and (ties_output or len(source) != len(target))
    weights = dict(layers)
    factor = embedding_scale / math.sqrt(width)
    if ties_output and ties_source:
        weights["model.shared.weight"] = source * factor
    else:
        weights["model.encoder.embed_tokens.weight"] = source * factor
        weights["model.decoder.embed_tokens.weight"] = target * factor
    if not ties_output:
        weights["lm_head.weight"] = output
    if output_bias is not None and output_bias.any():
        weights["lm_head.bias"] = output_bias.flatten()
    if ties_output and factor != 1:  # the output matrix has the factor too: the norm before it undoes that
        last = f"model.decoder.layers.{fields['decoder_layers'] - 1}.feed_forward_add_norm.norm"
        last = "model.decoder.norm" if "model.decoder.norm.weight" in weights else last
        for name in (f"{last}.weight", f"{last}.bias"):
            weights[name] = pop(weights, name, where) / factor
    if has_half_split:
        weights = interleaved(weights, width)
    config = VanillaTransformerConfig(
        hidden_size=width,
        vocab_size=len(source),
        target_vocab_size=len(target) if has_own_words else None,
        tie_word_embeddings=ties_output and (ties_source or has_own_words),
        output_bias="lm_head.bias" in weights,
        **fields,
    )
    return fill(VanillaTransformerForConditionalGeneration(config), weights, where)


def fill(model: Model, weights: Weights, where: Any) -> Model:
    """Gives the model these weights; raises ConversionError unless names and shapes are the same."""
    tied = getattr(model, "all_tied_weights_keys", {})
    own = {name: weight for name, weight in model.state_dict().items() if name not in tied}
    for problem, names in {
        "lacks weights that the model needs": own.keys() - weights.keys(),
        "has weights that the model has no place for": weights.keys() - own.keys(),
        "has weights of other shapes": {
            name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape
        },
    }.items():
        if names:
            shown = ", ".join(sorted(names)[:6]) + ", …" * (len(names) > 6)
            raise ConversionError(f"{where} {problem}: {shown}")
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])
    return model.eval()
