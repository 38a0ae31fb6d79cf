"""Checkpoints of JoeyNMT: config.yaml, a `.ckpt` file, and the two vocabularies."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ..generation import paper_generation_config
from ..tokenization_toolkit import CUTS
from .parts import Parts, dropout_notes
from .pieces import WORDS_NOTE, Given, Side, missing_subwords, toolkit_tokenizer, with_given_subwords
from .reading import float_weights, load_checkpoint, read_lines, read_settings, the_file
from .torch_nn import count_layers, positions
from .weights import ConversionError, pop, refuse, rename, require_equal, translation_model

RULES = (
    (r"\.(src_src_att|trg_trg_att)\.", ".self_attn."),
    (r"\.src_trg_att\.", ".cross_attn."),
    (r"\.([qkv])_layer\.", r".\1_proj."),
    (r"\.output_layer\.(weight|bias)$", r".o_proj.\1"),
    (r"\.feed_forward\.layer_norm\.", ".feed_forward_add_norm.norm."),
    (r"\.pwff_layer\.0\.", ".fc1."),
    (r"\.pwff_layer\.3\.", ".fc2."),
    (r"(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_add_norm.norm."),
    (r"\.x_layer_norm\.", ".self_attn_add_norm.norm."),
    (r"\.dec_layer_norm\.", ".cross_attn_add_norm.norm."),
    (r"^(encoder|decoder)\.layer_norm\.", r"\1.norm."),
    (r"^(encoder|decoder)\.", r"model.\1."),
)
STACKS = ("encoder", "decoder")
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu", "tanh": "tanh"}


def import_joeynmt(
    source: str | PathLike, source_subwords: Given = None, target_subwords: Given = None
) -> Parts:
    """A folder of JoeyNMT, or one of its `.ckpt` files.

    Args:
        source_subwords, target_subwords: SentencePiece models, or codes of subword-nmt, instead of those that
            config.yaml names. One alone serves both sides.
    """
    path = the_file(source, "best.ckpt", "latest.ckpt", "*.ckpt")
    folder = path.parent
    config = read_settings(folder, "config.yaml", path.name)
    stacks = [config["model"][stack] for stack in STACKS]
    for stack, settings in zip(STACKS, stacks):
        if settings.get("type", "transformer") != "transformer":
            raise ConversionError(f"{path} has a {stack} of the type {settings['type']!r}, not 'transformer'")
        refuse(path, alpha=settings.get("alpha", 1.0) != 1.0)
    weights = float_weights(load_checkpoint(path)["model_state"])
    has_norm = "encoder.layer_norm.weight" in weights
    defaults = {
        "layer_norm": ("pre", "pre" if has_norm else "post"),
        "activation": ("relu", "relu"),
        **{"hidden_size": (512, 512), "ff_size": (2048, 2048), "num_heads": (4, 8), "dropout": (0.1, 0.1)},
    }
    shared: dict[str, Any] = {}
    for name, default in defaults.items():
        pair = tuple(settings.get(name, value) for settings, value in zip(stacks, default))
        require_equal(path, **{name: (pair[0], pair[1])})
        shared[name] = pair[0]
    scales = [settings["embeddings"].get("scale", False) for settings in stacks]
    require_equal(path, scale=(scales[0], scales[1]))

    source_words, target_words = (pop(weights, f"{side}_embed.lut.weight", path) for side in ("src", "trg"))
    output = pop(weights, "decoder.output_layer.weight", path)
    tables = {f"{stack}.pe": pop(weights, f"{stack}.pe.pe", path) for stack in STACKS}
    layers = rename(weights, RULES)
    position_fields, half_split = positions(path, tables, layers, shared["hidden_size"])
    ids = special_ids(config)
    norm = shared["layer_norm"]
    fields = {
        "intermediate_size": shared["ff_size"],
        "num_attention_heads": shared["num_heads"],
        **{f"{stack}_layers": count_layers(layers, stack) for stack in STACKS},
        "dropout": shared["dropout"],
        "norm_position": norm,
        "final_norm": None if has_norm == (norm == "pre") else has_norm,
        "activation": ACTIVATIONS[shared["activation"]],
        "layer_norm_eps": 1e-6,
        **position_fields,
        **ids,
        "decoder_start_token_id": ids["bos_token_id"],
    }
    scale = shared["hidden_size"] ** 0.5 if scales[0] else 1.0
    model = translation_model(
        path, fields, layers, [source_words, target_words, output], None, scale, half_split
    )
    testing = config.get("testing") or {}
    settings = paper_generation_config(model.config)  # JoeyNMT has the same length penalty
    settings.update(
        num_beams=testing.get("beam_size", 1),
        length_penalty=max(0.0, float(testing.get("beam_alpha", testing.get("alpha", -1)))),
        max_extra_tokens=None,
        max_length=1 + (testing.get("max_output_length") or 100),
    )
    model.generation_config = settings
    sizes = len(source_words), len(target_words)
    tokenizer, notes = read_tokenizer(folder, config, sizes, (source_subwords, target_subwords))
    return Parts(model, tokenizer, notes=dropout_notes(shared, ["dropout"]) + notes)


def special_symbols(config: Mapping[str, Any]) -> Mapping[str, Any]:
    data = config.get("data") or {}
    return config.get("special_symbols") or data.get("special_symbols") or {}


def special_ids(config: Mapping[str, Any]) -> dict[str, int]:
    symbols = special_symbols(config)
    ids = {"pad": 1, "bos": 2, "eos": 3}
    return {f"{name}_token_id": int(symbols.get(f"{name}_id", id)) for name, id in ids.items()}


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], sizes: tuple[int, int], given: tuple[Given, Given]
) -> tuple[Any, list[str]]:
    """The tokenizer of these settings and files, and notes."""
    data = config.get("data") or {}
    settings = {side: data.get(side) or {} for side in ("src", "trg")}
    files = [find_file(folder, side.get("voc_file"), f"{name}_vocab.txt") for name, side in settings.items()]
    if None in files:
        missing = [f"{name}_vocab.txt" for name, file in zip(settings, files) if file is None]
        return None, [f"no tokenizer: {folder} has no {' and no '.join(missing)}"]
    words = [read_lines(str(file)) for file in files]
    for file, found, size in zip(files, words, sizes):
        if len(found) != size:
            raise ConversionError(f"{file} has {len(found)} words, but the model has {size}")
    sides = [side_of(folder, *pair) for pair in zip(words, settings.values())]
    with_given_subwords(sides, given)
    if any(side.settings["cut"] not in CUTS for side in sides):
        named = " and ".join(dict.fromkeys(repr(side.settings["cut"]) for side in sides))
        return None, [f"no tokenizer: texts are cut by {named}; known are {', '.join(CUTS)}"]
    notes = missing_subwords(sides)
    if notes:
        return None, notes
    if any(side.settings["cut"] == "words" and not side.settings["moses"] for side in sides):
        notes = [WORDS_NOTE]
    symbols = special_symbols(config)
    names = {"unk": "<unk>", "pad": "<pad>", "eos": "</s>"}
    special = {f"{name}_token": str(symbols.get(f"{name}_token", word)) for name, word in names.items()}
    return toolkit_tokenizer(sides, source_ends=True, special_tokens=special), notes


def side_of(folder: Path, words: list[str], settings: Mapping[str, Any]) -> Side:
    """How the settings of one language cut its texts."""
    options = settings.get("tokenizer_cfg") or {}
    level = settings.get("level", "word")
    kind = settings.get("tokenizer_type") or settings.get("bpe_type") or "sentencepiece"
    cut = {"word": "words", "char": "characters"}.get(level, kind)
    named = options.get("codes" if cut == "subword-nmt" else "model_file")
    moses = settings.get("lang") if options.get("pretokenizer", "none") == "moses" else None
    file = None
    if cut in ("sentencepiece", "subword-nmt"):
        file = find_file(folder, named, "*.model" if cut == "sentencepiece" else "*codes*")
        file = file or Path(named or f"a model of {cut}")
    return Side(
        words,
        {
            "cut": cut,
            "lowercase": bool(settings.get("lowercase")),
            "normalize": bool(settings.get("normalize")),
            "moses": moses,
            "known_pieces": True,  # JoeyNMT gives both programs the vocabulary
            "separator": options.get("separator", "@@"),
        },
        file,
    )


def find_file(folder: Path, named: str | None, pattern: str) -> Path | None:
    """The file that the configuration names, here or where it was, or the only one of this pattern."""
    candidates = [folder / Path(named).name, Path(named)] if named else []
    found = [path for path in [*candidates, *sorted(folder.glob(pattern))] if path.is_file()]
    return found[0] if found else None
