"""Checkpoints of OpenNMT-py 3 and of eole, its successor."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from .parts import Parts, dropout_notes
from .pieces import WORDS_NOTE, Given, Side, beside, missing_subwords, toolkit_tokenizer, with_given_subwords
from .reading import float_weights, load_checkpoint, read_settings, the_file
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
CUTS = {"bpe": "subword-nmt", "sentencepiece": "sentencepiece"}  # transforms that cut texts -> `Cutter`
OTHER_CUTS = ("onmt_tokenize", "huggingface_tokenize")
# Transforms that filter or distort the pairs of training, and do nothing when a text is translated.
TRAINING_ONLY = {
    *("filtertoolong", "filtertooshort", "clean", "switchout", "tokendrop", "tokenmask", "bart"),
}


def import_opennmt(
    source: str | PathLike, source_subwords: Given = None, target_subwords: Given = None
) -> Parts:
    """A `.pt` file of OpenNMT-py 3; with `save_format: safetensors`, beside the file of the same name.

    Args:
        source_subwords, target_subwords: SentencePiece models, or codes of subword-nmt, instead of those that
            the checkpoint names. One alone serves both sides.
    """
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
        beside_it = path.with_suffix(".safetensors")
        if not beside_it.is_file():
            raise ConversionError(f"{path} holds no weights, and {beside_it.name} is not beside it")
        weights = float_weights(load_checkpoint(beside_it))
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
    parts = assemble(path, fields, weights, OPENNMT_RULES, matrices, tables, held["vocab"])
    parts.notes = inner_dropout(options)
    given = source_subwords, target_subwords
    add_tokenizer(parts, path.parent, held["vocab"], options.get("transforms") or [], options, given)
    return parts


def import_eole(
    source: str | PathLike, source_subwords: Given = None, target_subwords: Given = None
) -> Parts:
    """A folder of eole: config.json, vocab.json and model.00.safetensors.

    Args:
        source_subwords, target_subwords: as for `import_opennmt`.
    """
    folder = Path(source)
    config, vocabulary = (read_settings(folder, f"{name}.json", "eole") for name in ("config", "vocab"))
    weights: Weights = {}
    for file in sorted(folder.glob("model.*.safetensors")):
        weights |= float_weights(load_checkpoint(file))
    if not weights:
        raise ConversionError(f"{folder} has no weights, such as model.00.safetensors: copy them there")

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
    training = config.get("training") or {}
    fields = {
        "num_attention_heads": int(setting("heads", 8)),
        "layer_norm_eps": float(setting("norm_eps", 1e-5)),
        "dropout": first(training.get("dropout", 0.0)),
        "activation": activation(folder, setting("mlp_activation_fn", "relu")),
    }
    parts = assemble(folder, fields, weights, EOLE_RULES, matrices, tables, vocabulary)
    parts.notes = inner_dropout(training)
    transforms, settings = config["transforms"] or [], config.get("transforms_configs") or {}
    options = {key: value for name in CUTS for key, value in (settings.get(name) or {}).items()}
    add_tokenizer(parts, folder, vocabulary, transforms, options, (source_subwords, target_subwords))
    return parts


STACKS, SIDES = ("encoder", "decoder"), ("src", "tgt")


def first(value: Any) -> float:
    """Dropout is one number, or a list of one number for each phase of training."""
    return float((value[0] if isinstance(value, list) else value) or 0.0)


def inner_dropout(settings: Mapping[str, Any]) -> list[str]:
    """`dropout` acts inside feed-forward networks too."""
    names = ("dropout", "attention_dropout")
    return dropout_notes({name: first(settings.get(name)) for name in names}, names)


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
    return Parts(model)


def add_tokenizer(
    parts: Parts,
    folder: Path,
    vocabulary: Mapping[str, Any],
    transforms: list[str],
    options: Mapping[str, Any],
    given: tuple[Given, Given],
) -> None:
    """Adds the tokenizer of a checkpoint's transforms, or a note that says why there is none."""
    cutting = [name for name in transforms if name in (*CUTS, *OTHER_CUTS)]
    cut = CUTS.get(*cutting) if len(cutting) == 1 else None if cutting else "words"
    named = [options.get(f"{side}_subword_model") if cut != "words" else None for side in SIDES]
    named[1] = named[1] or named[0]
    sides = [
        Side(list(vocabulary[side]), {"cut": cut}, beside(folder, file) if file else None)
        for side, file in zip(SIDES, named)
    ]
    with_given_subwords(sides, given)
    problems = missing_subwords(sides)
    if any(options.get(f"{side}_vocab_threshold") and options.get(f"{side}_subword_vocab") for side in SIDES):
        problems = ["no tokenizer: src_vocab_threshold or tgt_vocab_threshold restricts the subwords"]
    elif any(side.settings["cut"] is None for side in sides):
        problems = [
            f"no tokenizer: texts are cut by {' and '.join(cutting)}; bpe or sentencepiece alone is known"
        ]
    elif any(side.file is None and side.settings["cut"] != "words" for side in sides):
        problems = [f"no tokenizer: the checkpoint names no model of {cutting[0]}; give source_subwords"]
    if problems:
        parts.notes += [
            f"{problems[0]}. Sources have no {SPECIAL['eos_token_id']} at the end, targets have it"
        ]
        return
    if sides[0].settings["cut"] == "words":
        parts.notes.append(WORDS_NOTE)
    parts.notes += [
        f"the transform {name!r} of the checkpoint can change texts; it is not applied here"
        for name in transforms
        if name not in (*CUTS, *OTHER_CUTS, *TRAINING_ONLY)
    ]
    padding, _, end = special_names(vocabulary)
    unknown = (vocabulary.get("specials") or {}).get("unk_token") or "<unk>"
    special = {"unk_token": unknown, "pad_token": padding, "eos_token": end}
    parts.processor = toolkit_tokenizer(sides, source_ends=False, special_tokens=special)


def special_ids(where: Any, vocabulary: Mapping[str, Any], matrices: list[Any]) -> dict[str, int]:
    """The ids of the special tokens in the target's vocabulary."""
    sides = [list(vocabulary[side]) for side in SIDES]
    for side, words, matrix in zip(SIDES, sides, matrices):
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
