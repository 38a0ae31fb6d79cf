"""State dicts of models around `torch.nn.Transformer`, whose other parts have names of the user's choice."""

import re
from os import PathLike
from typing import Any, Literal

import torch

from ..embeddings import sinusoids
from .parts import Parts
from .reading import float_weights, load_checkpoint, the_file
from .weights import (
    ConversionError,
    Weights,
    has_half_split_sinusoids,
    rename,
    split_in_proj,
    translation_model,
)

RULES = (
    (r"^(encoder|decoder)\.", r"model.\1."),
    (r"multihead_attn\.", "cross_attn."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.linear([12])\.", r".feed_forward.fc\1."),
    (r"\.norm1\.", ".self_attn_add_norm.norm."),
    (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.feed_forward_add_norm.norm."),
    (r"(decoder\.layers\.\d+)\.norm2\.", r"\1.cross_attn_add_norm.norm."),
    (r"\.norm3\.", ".feed_forward_add_norm.norm."),
)
IDS = {"bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"}
FIRST = re.compile(r"(.*?)decoder\.layers\.0\.multihead_attn\.in_proj_weight")
NAMES = {  # what a part is usually called
    "source_embedding": r"src|source|enc|input",
    "target_embedding": r"tgt|trg|target|dec|output_emb",
    "output": r"gen|fc|out|head|proj|linear|classifier",
}


def import_torch(
    source: str | PathLike,
    num_attention_heads: int | None = None,
    norm_position: Literal["post", "pre"] = "post",
    activation: str = "relu",
    scale_embedding: bool = True,
    layer_norm_eps: float = 1e-5,
    source_embedding: str | None = None,
    target_embedding: str | None = None,
    output: str | None = None,
    **ids: int,
) -> Parts:
    """A file with the state dict of a module that contains a `torch.nn.Transformer`.

    A state dict does not tell how it is used, so that these settings must be those of the module.

    Args:
        num_attention_heads: `nhead`.
        norm_position: "pre" if `norm_first`.
        scale_embedding: whether the module multiplies embeddings by √d_model.
        source_embedding, target_embedding, output: names of the matrices, such as "src_tok_emb.weight", if
            their names do not say what they are.
        ids: special tokens, such as `pad_token_id=1`; those of `VanillaTransformerConfig` by default.
    """
    path = the_file(source, "*.pt", "*.pth", "*.bin", "*.safetensors")
    if num_attention_heads is None:
        raise ConversionError(
            f"{path} does not say how many heads the model has: give num_attention_heads (nhead of "
            "torch.nn.Transformer); check norm_position, activation and scale_embedding too"
        )
    if unknown := ids.keys() - IDS:
        raise ConversionError(
            f"the format torch has no setting {', '.join(unknown)}; besides those of import_torch it knows "
            f"{', '.join(sorted(IDS))}"
        )
    held = load_checkpoint(path)
    weights = float_weights(held.get("state_dict", held))
    prefix = next((match[1] for name in weights if (match := FIRST.fullmatch(name))), None)
    if prefix is None:
        raise ConversionError(
            f"{path} has no decoder.layers.0.multihead_attn: no torch.nn.Transformer is in it"
        )
    stacks = re.compile(re.escape(prefix) + r"(encoder|decoder)\.(layers\.\d+|norm)\..*")
    layers = {name[len(prefix) :]: weights.pop(name) for name in list(weights) if stacks.fullmatch(name)}
    layers = with_biases(rename(split_in_proj(layers), RULES))
    width = layers["model.decoder.layers.0.self_attn.q_proj.weight"].shape[1]
    matrices = {
        name: weight for name, weight in weights.items() if weight.dim() == 2 and not is_position(name)
    }
    words = {
        "source_embedding": source_embedding,
        "target_embedding": target_embedding,
        "output": output,
    }
    for part, name in words.items():
        words[part] = name if name in weights else find_matrix(path, part, name, matrices)
    tables = {name: value for name in list(weights) if is_position(name) for value in [weights.pop(name)]}
    bias = weights.pop(str(words["output"]).replace("weight", "bias"), None)
    if left := weights.keys() - set(words.values()):
        raise ConversionError(f"{path} has weights that are no part of the architecture: {', '.join(left)}")
    position_fields, half_split = positions(path, tables, layers, width)
    fields: dict[str, Any] = {
        "intermediate_size": len(layers["model.decoder.layers.0.feed_forward.fc1.weight"]),
        "num_attention_heads": num_attention_heads,
        **{f"{stack}_layers": count_layers(layers, stack) for stack in ("encoder", "decoder")},
        "norm_position": norm_position,
        "activation": activation,
        "layer_norm_eps": layer_norm_eps,
        "final_norm": final_norm(path, layers),
        **position_fields,
        **ids,
    }
    if fields["final_norm"] == (norm_position == "pre"):
        fields["final_norm"] = None
    embedded = [weights[str(words[part])] for part in words]
    scale = width**0.5 if scale_embedding else 1.0
    model = translation_model(path, fields, layers, embedded, bias, scale, half_split)
    assumed = (
        f"taken from you, because a state dict does not say it: num_attention_heads={num_attention_heads}, "
        f"norm_position={norm_position!r}, activation={activation!r}, scale_embedding={scale_embedding}"
    )
    notes = [assumed] + ["no table of positions is stored: sinusoids of the paper are assumed"] * (not tables)
    return Parts(model, notes=notes)


def find_matrix(path: Any, part: str, given: str | None, matrices: Weights) -> str:
    """The name of the matrix that is this part, by its name."""
    found = [name for name in matrices if re.search(NAMES[part], name, re.IGNORECASE)]
    if part == "output":  # "decoder.weight" of the tutorial, but no embedding
        found = [name for name in found if not re.search("emb", name, re.IGNORECASE)] or [
            name for name in matrices if "dec" in name.lower() and "emb" not in name.lower()
        ]
    else:
        found = [name for name in found if re.search("emb|tok", name, re.IGNORECASE)]
    if not found and part != "output":  # one embedding for both sides
        found = [name for name in matrices if re.search("emb|tok", name, re.IGNORECASE)]
    if given is None and len(found) == 1:
        return found[0]
    problem = f"there is no weight {given}" if given else f"{len(found)} weights could be the {part}"
    raise ConversionError(f"{path}: {problem}; give {part}= one of {', '.join(sorted(matrices))}")


def is_position(name: str) -> bool:
    return re.search(r"pos|\.pe$|^pe$", name, re.IGNORECASE) is not None


def positions(path: Any, tables: Weights, layers: Weights, width: int) -> tuple[dict[str, Any], bool]:
    """Fields of the configuration, and whether the positions are sinusoids of two halves.

    Learned tables become weights in `layers`.
    """
    flat = {name: table.reshape(-1, width) for name, table in tables.items()}
    if not flat:
        return {}, False
    longest = min(map(len, flat.values()))
    fields: dict[str, Any] = {"max_position_embeddings": longest}
    for matches, half_split in ((has_sinusoids, False), (has_half_split_sinusoids, True)):
        if all(map(matches, flat.values())):
            return fields, half_split
    for stack, side in (("encoder", "source_embedding"), ("decoder", "target_embedding")):
        found = [table for name, table in flat.items() if re.search(NAMES[side], name, re.IGNORECASE)]
        table = list(flat.values()) if len(flat) == 1 else found
        if len(table) != 1:
            raise ConversionError(f"{path} has positions {', '.join(flat)}: which of them the {stack} uses?")
        layers[f"model.{stack}.embed_positions.weight"] = table[0][:longest]
    return {**fields, "position_embedding_type": "learned"}, False


def has_sinusoids(table: torch.Tensor) -> bool:
    return bool((sinusoids(torch.arange(len(table)), table.shape[1]) - table).abs().max() < 1e-3)


def count_layers(layers: Weights, stack: str) -> int:
    pattern = re.compile(rf"model\.{stack}\.layers\.(\d+)\..*")
    return 1 + max((int(match[1]) for name in layers if (match := pattern.fullmatch(name))), default=-1)


def final_norm(path: Any, layers: Weights) -> bool:
    found = {f"model.{stack}.norm.weight" in layers for stack in ("encoder", "decoder")}
    if len(found) > 1:
        raise ConversionError(f"{path} has a norm after one of the stacks only; here both or none have it")
    return found.pop()


def with_biases(layers: Weights) -> Weights:
    """Adds zeros for the biases that modules with `bias=False` lack."""
    for name, weight in list(layers.items()):
        if name.endswith(".weight"):
            layers.setdefault(name.replace(".weight", ".bias"), torch.zeros(len(weight)))
    return layers
