"""`import_model`: find the format, convert, check against the original, and save."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import cached_file

from ..alignments import choose_attention
from ..configuration_vanilla_transformer import VanillaTransformerConfig
from .checks import (
    Report,
    check_image_model,
    check_translator,
    compare_images,
    compare_translations,
)
from .parts import Parts
from .reading import load_checkpoint, read_json
from .weights import ConversionError

FORMATS = {  # name -> module and function
    "marian": "marian.import_marian",
    "fsmt": "fairseq.import_fsmt",
    "fairseq": "fairseq.import_fairseq",
    "joeynmt": "joeynmt.import_joeynmt",
    "opennmt": "opennmt.import_opennmt",
    "eole": "opennmt.import_eole",
    "torch": "torch_nn.import_torch",
    "vit": "vit.import_vit",
    "timm": "vit.import_timm",
}
CHECKPOINTS = (".pt", ".ckpt", ".pth", ".safetensors")


@dataclass
class Imported:
    """An imported model.

    Args:
        processor: its tokenizer or image processor, or None if the source has none that can be used here.
        report: what the checks found; print it.
    """

    model: PreTrainedModel
    processor: Any
    report: Report


def import_model(
    source: str | PathLike,
    output_dir: str | PathLike | None = None,
    format: str = "auto",
    check: bool = True,
    pairs: Sequence[tuple[str, str]] = (),
    **settings: Any,
) -> Imported:
    """Converts a model of another project to one of this package.

    Args:
        source: a folder, a file of weights, or a name on the Hub (for "marian", "fsmt", "vit" and "timm").
        output_dir: where to save model and tokenizer; nothing is saved if None.
        format: one of `FORMATS`; "auto" reads the files to find out.
        check: compare with the original, where it can run here, and test the model alone.
        pairs: some hundred sources and targets, to choose the attention of word alignments with; see
            `choose_attention`. Without them, the default stays: the middle layer.
        settings: what the files do not say, such as `num_attention_heads=8` for a state dict of torch.

    Raises:
        ConversionError: the files cannot be read safely, or the results would not be those of the original.
        FileExistsError: `output_dir` is a file, or a folder that is not empty.

    Example:
        >>> imported = import_model("Helsinki-NLP/opus-mt-en-de", "opus-en-de")
        >>> print(imported.report)
        >>> pipeline("translation", model="opus-en-de")("A dog sleeps.")
    """
    if output_dir is not None:
        place = Path(output_dir)
        if place.is_file() or (place.is_dir() and any(place.iterdir())):
            raise FileExistsError(f"{output_dir} exists: name a new folder")
    if format == "auto":
        format = find_format(source)
    elif format not in FORMATS:
        raise ConversionError(f"format={format!r} is unknown: use 'auto' or one of {', '.join(FORMATS)}")
    module, function = FORMATS[format].split(".")
    convert = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    try:
        parts: Parts = convert(source, **settings)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        name = str(error).rpartition(" ")[2]
        raise ConversionError(f"the format {format} has no setting {name}") from error
    except KeyError as error:
        raise ConversionError(f"{source} lacks the entry {error}, which a model of {format} has") from error
    except SafetensorError as error:
        raise ConversionError(f"the weights of {source} cannot be read: {error}") from error
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise ConversionError(f"{source} makes no valid configuration: {reason}") from error
    report = Report(str(source), format, parts.notes)
    if check:
        run_checks(report, parts)
        if not report.passed:
            raise ConversionError(f"the import is not exact, and nothing was saved:\n{report}")
    if pairs:
        report.notes.append(choose_alignment(parts, pairs))
    if output_dir is not None:
        parts.model.save_pretrained(output_dir)
        if parts.processor is not None:
            parts.processor.save_pretrained(output_dir)
    return Imported(parts.model, parts.processor, report)


def run_checks(report: Report, parts: Parts) -> None:
    model = parts.model
    translates = isinstance(model.config, VanillaTransformerConfig)
    if translates:
        check_translator(report, model)
    else:
        check_image_model(report, model)
    if parts.original is not None:
        (compare_translations if translates else compare_images)(report, model, parts.original)


def choose_alignment(parts: Parts, pairs: Sequence[tuple[str, str]]) -> str:
    """Chooses the attention of word alignments, and returns a note about it."""
    model, tokenizer = parts.model, parts.processor
    if tokenizer is None or not isinstance(model.config, VanillaTransformerConfig):
        raise ConversionError("pairs are of use only for a translation model with a tokenizer")
    layer, is_input = choose_attention(model, tokenizer, *zip(*pairs))
    where = "the input" if is_input else "predicted"
    return f"word alignments use the attention of decoder layer {layer + 1}, where a word is {where}"


def find_format(source: str | PathLike) -> str:
    """The format of these files; ConversionError if they are of none that is known."""
    path = Path(source)
    if path.is_file():
        return format_of_checkpoint(path)
    if found := format_of_config(read_config(source), source):
        return found
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in CHECKPOINTS)
        if files:
            return format_of_checkpoint(files[0])
    if not path.exists():
        raise ConversionError(
            f"there is no folder or file {str(source)!r} here, and no such model came from the Hub: check "
            "the name and the connection"
        )
    raise ConversionError(f"{source} holds no model of a known format; give one: {', '.join(FORMATS)}")


def read_config(source: str | PathLike) -> Mapping[str, Any]:
    """The entries of a folder's or Hub model's config.json; none if it has no such file."""
    try:
        file = cached_file(source, "config.json", _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        raise ConversionError(f"there is no folder {source} here, and the Hub says: {error}") from error
    config = {} if file is None else read_json(file)
    if not isinstance(config, Mapping):
        raise ConversionError(f"{file} holds no settings, but {type(config).__name__}")
    return config


def format_of_config(config: Mapping[str, Any], source: str | PathLike) -> str | None:
    kind = config.get("model_type")
    if kind in ("marian", "fsmt", "vit"):
        return kind
    if "pretrained_cfg" in config and "architecture" in config:
        return "timm"
    if {"transforms", "model"} <= config.keys():
        return "eole"
    if str(kind).startswith("vanilla_transformer"):
        raise ConversionError(f"{source} is a model of vanilla-transformer already, and needs no import")
    if kind:
        raise ConversionError(f"{source} is a {kind!r} model of transformers, which is not known here")
    return None


def format_of_checkpoint(path: Path) -> str:
    held = load_checkpoint(path)
    keys = {name for name in held if isinstance(name, str)} if isinstance(held, Mapping) else set()
    if "model_state" in keys:
        return "joeynmt"
    if {"opt", "vocab"} <= keys:
        return "opennmt"
    if "model" in keys and keys & {"args", "cfg"}:
        return "fairseq"
    inner = held["state_dict"] if "state_dict" in keys else None
    names = {name for name in inner if isinstance(name, str)} if isinstance(inner, Mapping) else keys
    if any(name.endswith("decoder.layers.0.multihead_attn.in_proj_weight") for name in names):
        return "torch"
    if "blocks.0.attn.qkv.weight" in names:
        return "timm"
    hint = "; a model of eole or of transformers needs its config.json too" * (path.suffix == ".safetensors")
    shown = ", ".join(sorted(map(str, keys))[:8])
    raise ConversionError(f"{path} is of no known format{hint}; it holds {shown}")
