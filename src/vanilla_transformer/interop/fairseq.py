"""Checkpoints of fairseq's `transformer`, and FSMT, their form in transformers."""

import json
import math
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import FSMTConfig, FSMTForConditionalGeneration, FSMTTokenizer, GenerationConfig

from ..extras import extra
from .parts import Parts, dropout_notes
from .pieces import marian_tokenizer
from .reading import float_weights, has_file, load_checkpoint, read_lines, require_files, the_file
from .torch_nn import count_layers, final_norm
from .weights import (
    FAIRSEQ_NAMES,
    ConversionError,
    Weights,
    pop,
    refuse,
    rename,
    require_equal,
    split_in_proj,
    translation_model,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
FSMT_VOCABULARIES = ("vocab-src.json", "vocab-tgt.json")
PADDING = 1  # both count positions from the id of <pad> + 1
OLD_NAMES = (  # of checkpoints before 2019
    (r"(encoder\.layers\.\d+)\.layer_norms\.0\.", r"\1.self_attn_layer_norm."),
    (r"(decoder\.layers\.\d+)\.layer_norms\.0\.", r"\1.self_attn_layer_norm."),
    (r"(encoder\.layers\.\d+)\.layer_norms\.1\.", r"\1.final_layer_norm."),
    (r"(decoder\.layers\.\d+)\.layer_norms\.1\.", r"\1.encoder_attn_layer_norm."),
    (r"(decoder\.layers\.\d+)\.layer_norms\.2\.", r"\1.final_layer_norm."),
)
IGNORED = r".*(embed_positions\._float_tensor|\.version)"
# Settings of fairseq that change the function of a model; each is off in the plain Transformer.
OTHER_FUNCTIONS = (
    *("layernorm_embedding", "no_token_positional_embeddings", "adaptive_input", "adaptive_softmax_cutoff"),
    *("no_cross_attention", "cross_self_attention", "char_inputs", "merge_src_tgt_embed", "base_layers"),
    *("encoder_layerdrop", "decoder_layerdrop", "encoder_layers_to_keep", "decoder_layers_to_keep"),
    *("scale_attn", "scale_fc", "scale_heads", "scale_resids", "encoder_xformers_att_config"),
)
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu", "tanh": "tanh"}


def fairseq_sinusoids(positions: int, width: int) -> torch.Tensor:
    """The positions of fairseq: of tensor2tensor, whose last frequency is 1/10000, and counted from 2 on."""
    half = width // 2
    steps = torch.exp(torch.arange(half, dtype=torch.float64) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(PADDING + 1, PADDING + 1 + positions, dtype=torch.float64)[:, None] * steps
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def import_fairseq(source: str | PathLike) -> Parts:
    """A folder with `checkpoint_best.pt`, the dictionaries and the BPE codes or SentencePiece model.

    The original positions are not the paper's, so they become tables of learned positions.
    """
    path = the_file(source, "checkpoint_best.pt", "model.pt", "checkpoint_last.pt", "*.pt")
    held = load_checkpoint(path)
    settings = read_settings(path, held)
    name = str(settings.get("arch", settings.get("_name", "")))
    if not name.startswith("transformer") or "lm" in name or "align" in name:
        raise ConversionError(
            f"{path} is a {name or 'model without a name'}; of fairseq, only `transformer` fits"
        )
    off = {option: settings.get(option) for option in OTHER_FUNCTIONS}
    refuse(path, **{key: value for key, value in off.items() if value not in ("0", "None")})
    for option in ("embed_dim", "ffn_embed_dim", "attention_heads", "normalize_before", "learned_pos"):
        pair = settings.get(f"encoder_{option}"), settings.get(f"decoder_{option}")
        require_equal(path, **{option: pair})
    width = int(settings["encoder_embed_dim"])
    output_width = settings.get("decoder_output_dim") or width
    require_equal(path, output_dim=(width, output_width))
    activation = settings.get("activation_fn") or "relu"
    if activation not in ACTIVATIONS:
        raise ConversionError(f"{path} has activation_fn={activation!r}; known are {', '.join(ACTIVATIONS)}")

    weights = rename(float_weights(held["model"]), (*OLD_NAMES, *FAIRSEQ_NAMES), IGNORED)
    weights = split_in_proj(weights)
    source_words = pop(weights, "model.encoder.embed_tokens.weight", path)
    target_words = pop(weights, "model.decoder.embed_tokens.weight", path)
    output = weights.pop(
        "model.decoder.output_projection.weight", weights.pop("model.decoder.embed_out", None)
    )
    longest = max(int(settings.get(f"max_{side}_positions") or 1024) for side in ("source", "target"))
    for stack in ("encoder", "decoder"):
        table = f"model.{stack}.embed_positions.weight"
        if settings.get("encoder_learned_pos"):
            weights[table] = pop(weights, table, path)[PADDING + 1 :]
            longest = len(weights[table])
        else:
            weights[table] = fairseq_sinusoids(longest, width)
    norm = "pre" if settings.get("encoder_normalize_before") else "post"
    has_norm = final_norm(path, weights)
    fields = {
        "intermediate_size": int(settings["encoder_ffn_embed_dim"]),
        "num_attention_heads": int(settings["encoder_attention_heads"]),
        **{f"{stack}_layers": count_layers(weights, stack) for stack in ("encoder", "decoder")},
        "dropout": float(settings.get("dropout") or 0.0),
        "norm_position": norm,
        "final_norm": None if has_norm == (norm == "pre") else has_norm,
        "activation": ACTIVATIONS[activation],
        "decoder_start_token_id": 2,
        **positions_and_ids(longest),
    }
    scale = 1.0 if settings.get("no_scale_embedding") else math.sqrt(width)
    output = target_words if output is None else output
    model = translation_model(path, fields, weights, [source_words, target_words, output], None, scale)
    model.generation_config = GenerationConfig(
        num_beams=5, length_penalty=1.0, max_length=min(200, longest), **ids(model.config)
    )
    notes = [POSITIONS_NOTE] * (not settings.get("encoder_learned_pos")) + dropout_notes(settings)
    languages = [str(settings.get(f"{side}_lang") or "") for side in ("source", "target")]
    tokenizer = None
    if path.parent != Path(source).parent or Path(source).is_dir():
        tokenizer, more = read_tokenizer(path.parent, languages, len(source_words), len(target_words))
        notes += more
    return Parts(model, tokenizer, notes=notes)


TARGETS_NOTE = (
    "source and target have separate vocabularies, but FSMTTokenizer encodes targets with the source's: do "
    "not fine-tune or score with it"
)
POSITIONS_NOTE = (
    "fairseq's positions are not the paper's: they became learned positions, and fine-tuning changes them"
)


def positions_and_ids(longest: int) -> dict[str, Any]:
    return {
        "position_embedding_type": "learned",
        "max_position_embeddings": longest,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }


def ids(config: Any) -> dict[str, Any]:
    names = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
    return {name: getattr(config, name) for name in names}


def read_settings(path: Path, held: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of model and task, from `args` of old checkpoints or `cfg` of new ones."""
    if (args := held.get("args")) is not None:
        return dict(args if isinstance(args, Mapping) else vars(args))
    settings: dict[str, Any] = {}
    for part in ("task", "model"):
        entries = held.get("cfg", {}).get(part)
        if entries is None:
            raise ConversionError(f"{path} has no settings of the {part}: neither args nor cfg.{part}")
        settings |= dict(entries) if isinstance(entries, Mapping) else vars(entries)
    for stack in ("encoder", "decoder"):  # the nested form of newer configurations
        if isinstance(nested := settings.get(stack), Mapping):
            settings |= {f"{stack}_{name}": value for name, value in nested.items()}
    return settings


def read_tokenizer(
    folder: Path, languages: list[str], source_size: int, target_size: int
) -> tuple[Any, list[str]]:
    """The tokenizer of these files, and notes; None if a file is missing."""
    names = [folder / f"dict.{language}.txt" for language in languages]
    missing = [name.name for name in names if not name.is_file()]
    if missing:
        return None, [f"no tokenizer: {folder} lacks {' and '.join(missing)}"]
    words = [read_dictionary(name) for name in names]
    for name, found, size in zip(names, words, (source_size, target_size)):
        if len(found) != size:
            raise ConversionError(f"{name} has {len(found)} words, but the model has {size}")
    models = sorted(folder.glob("*sentencepiece*.model")) + sorted(folder.glob("*spm*.model"))
    if models:
        return marian_tokenizer(models[:1] * 2, words, languages), []
    codes = [file for name in ("bpecodes", "code", "codes", "bpe.codes") if (file := folder / name).is_file()]
    if not codes:
        return None, [f"no tokenizer: {folder} has neither bpecodes nor a SentencePiece model"]
    note = "texts are tokenised with Moses (sacremoses), the BPE codes, and FSMTTokenizer of transformers"
    notes = [note]
    if words[0] != words[1]:
        notes.append(TARGETS_NOTE)
    return fsmt_tokenizer(codes[0], words, languages), notes


def read_dictionary(path: Path) -> list[str]:
    lines = read_lines(path)
    words = [line.rsplit(" ", 1)[0] for line in lines if line.strip()]
    return SPECIAL + [word.removesuffix(" #fairseq:overwrite") for word in words]


def fsmt_tokenizer(codes: Path, words: list[list[str]], languages: list[str]) -> FSMTTokenizer:
    """FSMT's tokenizer; its vocabularies mark the ends of words, and fairseq's the places within words."""

    def vocabulary(side: list[str]) -> dict[str, int]:
        named = [
            word if word in SPECIAL else word[:-2] if word.endswith("@@") else f"{word}</w>" for word in side
        ]
        return {word: index for index, word in enumerate(named)}

    lines = [line for line in read_lines(codes) if not line.startswith("#version")]
    merges = [" ".join(line.split(" ")[:2]) for line in lines]  # fastBPE writes a frequency behind the pair
    with tempfile.TemporaryDirectory() as folder, extra("interop"):
        import sacremoses  # noqa: F401  # FSMTTokenizer needs it

        files = {name: Path(folder, f"vocab-{name}.json") for name in ("src", "tgt")}
        for file, side in zip(files.values(), words):
            file.write_text(json.dumps(vocabulary(side)), encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
        return FSMTTokenizer(
            languages, str(files["src"]), str(files["tgt"]), str(Path(folder, "merges.txt")), eos_token="</s>"
        )


def import_fsmt(source: str | PathLike) -> Parts:
    """A folder or Hub name of an `FSMTForConditionalGeneration`, such as facebook/wmt19-en-de."""
    require_files(source, "config.json")
    config: Any = FSMTConfig.from_pretrained(source)
    refuse(source, encoder_layerdrop=config.encoder_layerdrop, decoder_layerdrop=config.decoder_layerdrop)
    require_equal(
        source,
        ffn_dim=(config.encoder_ffn_dim, config.decoder_ffn_dim),
        attention_heads=(config.encoder_attention_heads, config.decoder_attention_heads),
    )
    original: Any = FSMTForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()
    weights: Weights = rename(original.state_dict(), FAIRSEQ_NAMES)
    for stack in ("encoder", "decoder"):
        table = f"model.{stack}.embed_positions.weight"
        weights[table] = pop(weights, table, source)[config.pad_token_id + 1 :]
    names = ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection")
    embeddings = [pop(weights, f"model.{name}.weight", source) for name in names]
    fields = {
        "intermediate_size": config.encoder_ffn_dim,
        "num_attention_heads": config.encoder_attention_heads,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "dropout": config.dropout,
        "activation": config.activation_function,
        "decoder_start_token_id": config.decoder_start_token_id,
        **positions_and_ids(len(weights["model.encoder.embed_positions.weight"])),
        **{name: getattr(config, name) for name in ("bos_token_id", "pad_token_id", "eos_token_id")},
    }
    scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    model = translation_model(source, fields, weights, embeddings, None, scale)
    model.generation_config = original.generation_config
    notes, tokenizer = [POSITIONS_NOTE, *dropout_notes(config.to_dict())], None
    if has_file(source, "merges.txt"):
        require_files(source, *FSMT_VOCABULARIES)
        with extra("interop"):
            import sacremoses  # noqa: F401  # FSMTTokenizer needs it
        tokenizer = FSMTTokenizer.from_pretrained(source, eos_token="</s>")
        if tokenizer.decoder != {index: word for word, index in tokenizer.encoder.items()}:
            notes.append(TARGETS_NOTE)
    return Parts(model, tokenizer, original, notes)
