"""Checkpoints of OpenNMT-py 3 and of eole, its successor."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import GenerationConfig

from .parts import Parts
from .reading import float_weights, load_checkpoint, read_json, the_file
from .torch_nn import count_layers, positions, with_biases
from .weights import ConversionError, Weights, pop, refuse, rename, require_equal, translation_model

COMMON_RULES = (
    (r"\.linear_query\.", ".q_proj."),
    (r"\.linear_keys\.", ".k_proj."),
    (r"\.linear_values\.", ".v_proj."),
    (r"\.final_linear\.", ".o_proj."),
    (r"\.context_attn\.", ".cross_attn."),
    (r"^(encoder|decoder)\.(transformer_layers|transformer)\.", r"model.\1.layers."),
    (r"^(encoder|decoder)\.layer_norm\.", r"model.\1.norm."),
)
OPENNMT_RULES = (
    (r"\.feed_forward\.layer_norm\.", ".feed_forward_add_norm.norm."),
    (r"\.feed_forward\.w_([12])\.", r".feed_forward.fc\1."),
    (r"(layers\.\d+)\.layer_norm(_1)?\.", r"\1.self_attn_add_norm.norm."),
    (r"(layers\.\d+)\.layer_norm_2\.", r"\1.cross_attn_add_norm.norm."),
)
EOLE_RULES = (
    (r"\.input_layernorm\.", ".self_attn_add_norm.norm."),
    (r"\.precontext_layernorm\.", ".cross_attn_add_norm.norm."),
    (r"\.post_attention_layernorm\.", ".feed_forward_add_norm.norm."),
    (r"\.mlp\.gate_up_proj\.", ".feed_forward.fc1."),
    (r"\.mlp\.down_proj\.", ".feed_forward.fc2."),
)
SPECIAL = {"pad_token_id": "<blank>", "bos_token_id": "<s>", "eos_token_id": "</s>"}
NO_TOKENIZER = (
    "no tokenizer: OpenNMT cuts texts outside of the model. Its sources have no </s> at the end, its targets "
    "start with <s> and end with </s>"
)


def import_opennmt(source: str | PathLike) -> Parts:
    """A `.pt` file of OpenNMT-py 3; with `save_format: safetensors`, beside the file of the same name."""
    path = the_file(source, "*.pt")
    held = load_checkpoint(path)
    options = dict(vars(held["opt"]))
    if not isinstance(held.get("vocab"), Mapping):
        raise ConversionError(
            f"{path} is of OpenNMT-py 2 or older: convert it with its tools/convertv2_v3.py"
        )
    for part in ("encoder_type", "decoder_type"):
        if options.get(part) != "transformer":
            raise ConversionError(f"{path} has {part}={options.get(part)!r}, but only 'transformer' fits")
    positive = {"max_relative_positions": options.get("max_relative_positions") or 0}
    refuse(
        path,
        **positive,  # -1 is rotary, -2 is ALiBi
        copy_attn=options.get("copy_attn"),
        aan=options.get("self_attn_type") == "average",
        num_kv=options.get("num_kv"),
        multiquery=options.get("multiquery"),
        parallel_residual=options.get("parallel_residual"),
        rms_norm=options.get("layer_norm", "standard") != "standard",
        sliding_window=options.get("sliding_window"),
        num_experts=options.get("num_experts"),
        no_position_encoding=not options.get("position_encoding"),
        model_type=options.get("model_type", "text") != "text",
        lora_layers=options.get("lora_layers"),
        quant_layers=options.get("quant_layers"),
    )
    if "model" in held:
        weights = float_weights(held["model"])
        weights |= {f"generator.{name}": weight.float() for name, weight in held["generator"].items()}
    else:
        weights = float_weights(load_file(path.with_suffix(".safetensors")))
    embeddings = [f"{stack}.embeddings.make_embedding" for stack in ("encoder", "decoder")]
    matrices = [pop(weights, f"{name}.emb_luts.0.weight", path) for name in embeddings]
    tables = {
        f"{stack}.pe": weights.pop(f"{name}.pe.pe") for stack, name in zip(("encoder", "decoder"), embeddings)
    }
    fields = {
        "num_attention_heads": int(options["heads"]),
        "layer_norm_eps": float(options.get("norm_eps", 1e-6)),
        "dropout": first(options.get("dropout", 0.0)),
        "activation": activation(path, options.get("pos_ffn_activation_fn", "relu")),
    }
    return assemble(path, fields, weights, OPENNMT_RULES, matrices, tables, held["vocab"])


def import_eole(source: str | PathLike) -> Parts:
    """A folder of eole: config.json, vocab.json and model.00.safetensors."""
    folder = Path(source)
    config, vocabulary = read_json(folder / "config.json"), read_json(folder / "vocab.json")
    weights: Weights = {}
    for file in sorted(folder.glob("model.*.safetensors")):
        weights |= float_weights(load_file(file))

    def setting(name: str, default: Any) -> Any:
        """The setting of both stacks; each is written where it was set, or not at all."""
        model = config["model"]
        found = [(model.get(stack) or {}).get(name, model.get(name, default)) for stack in STACKS]
        require_equal(folder, **{name: (found[0], found[1])})
        return found[0]

    embeddings = config["model"].get("embeddings") or {}
    kind = embeddings.get("position_encoding_type", "SinusoidalInterleaved")
    off = (
        "parallel_residual",
        "ffn_layernorm",
        "query_norm",
        "key_norm",
        "value_norm",
        "q_gating",
        "attn_scaling",
    )
    refuse(
        folder,
        **{name: setting(name, None) for name in (*off, "num_experts", "sliding_window", "head_dim")},
        rms_norm=setting("layer_norm", "standard") not in ("standard", "standardFP32"),
        heads_kv=setting("heads_kv", None) not in (None, setting("heads", 8)),
        encoder_layer_style=(config["model"].get("encoder") or {}).get("encoder_layer_style", "standard")
        != "standard",
        position_encoding_type="" if kind.startswith("Sinusoidal") else kind,
        embedding_layer_norm=embeddings.get("embedding_layer_norm"),
        normalize=embeddings.get("normalize"),
        embedding_type=embeddings.get("embedding_type", "standard") != "standard",
    )
    scalars = {name: weights.pop(name) for name in list(weights) if name.endswith(".layer_scalar")}
    refuse(folder, **{name: bool((scalar != 1).any()) for name, scalar in scalars.items()})
    matrices = [pop(weights, "src_emb.embeddings.weight", folder)]
    matrices.append(weights.pop("tgt_emb.embeddings.weight", matrices[0]))
    tables = {
        f"{stack}.pe": weights.pop(name)
        for stack, name in zip(STACKS, ("src_emb.pe.pe", "tgt_emb.pe.pe"))
        if name in weights
    }
    fields = {
        "num_attention_heads": int(setting("heads", 8)),
        "layer_norm_eps": float(setting("norm_eps", 1e-5)),
        "dropout": first((config.get("training") or {}).get("dropout", 0.0)),
        "activation": activation(folder, setting("mlp_activation_fn", "relu")),
    }
    return assemble(folder, fields, weights, EOLE_RULES, matrices, tables, vocabulary)


STACKS = ("encoder", "decoder")


def first(value: Any) -> float:
    """Dropout is one number, or a list of one number for each phase of training."""
    return float(value[0] if isinstance(value, list) else value)


def activation(where: Any, name: str) -> str:
    if name not in ("relu", "gelu"):  # the others are gated
        raise ConversionError(f"{where} has the activation {name!r}; only relu and gelu are not gated")
    return name


def assemble(
    where: Any,
    fields: dict[str, Any],
    weights: Weights,
    rules: Any,
    matrices: list[Any],
    tables: Weights,
    vocabulary: Mapping[str, Any],
) -> Parts:
    output = weights.pop("generator.weight", matrices[1])  # not stored if it is shared
    bias = weights.pop("generator.bias", None)
    layers = with_biases(rename(weights, (*COMMON_RULES, *rules)))
    width = matrices[0].shape[1]
    position_fields, half_split = positions(where, tables, layers, width)
    ids = special_ids(where, vocabulary, matrices)
    fields |= {
        "intermediate_size": len(layers["model.decoder.layers.0.feed_forward.fc1.weight"]),
        **{f"{stack}_layers": count_layers(layers, stack) for stack in STACKS},
        "norm_position": "pre",
        **position_fields,
        **ids,
    }
    model = translation_model(where, fields, layers, [*matrices, output], bias, width**0.5, half_split)
    model.generation_config = GenerationConfig(num_beams=5, length_penalty=1.0, max_length=250, **ids)
    return Parts(model, notes=[NO_TOKENIZER])


def special_ids(where: Any, vocabulary: Mapping[str, Any], matrices: list[Any]) -> dict[str, int]:
    """The ids of the special tokens in the target's vocabulary."""
    sides = [list(vocabulary[side]) for side in ("src", "tgt")]
    for side, words, matrix in zip(("src", "tgt"), sides, matrices):
        if len(words) != len(matrix):
            raise ConversionError(
                f"{where}: the vocabulary {side} has {len(words)} words, but the model {len(matrix)}"
            )
    find: Callable[[str], int] = sides[1].index
    named = {**SPECIAL, **dict(zip(SPECIAL, special_names(vocabulary)))}
    missing = [word for word in named.values() if word not in sides[1]]
    if missing:
        raise ConversionError(f"{where}: the target vocabulary lacks {', '.join(missing)}")
    ids = {name: find(word) for name, word in named.items()}
    if sides[0][ids["pad_token_id"] : ids["pad_token_id"] + 1] != [named["pad_token_id"]]:
        raise ConversionError(f"{where}: {named['pad_token_id']} has different ids in source and target")
    start = vocabulary.get("decoder_start_token") or named["bos_token_id"]
    return {**ids, "decoder_start_token_id": find(start)}


def special_names(vocabulary: Mapping[str, Any]) -> list[str]:
    """The names of padding, start and end, which eole's vocabularies give."""
    names = vocabulary.get("specials") or {}
    keys = ("pad_token", "bos_token", "eos_token")
    return [names.get(key) or word for key, word in zip(keys, SPECIAL.values())]
