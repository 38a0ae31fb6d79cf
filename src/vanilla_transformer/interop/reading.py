"""Checkpoints of other projects, read without running code from them."""

import argparse
import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import cached_file

from .. import text_files
from .weights import ConversionError, Weights

METER_NAMES = ("Average", "Time", "Stopwatch")


class Inert:
    """Stands for an object of a training run, which an import does not need; it holds nothing."""

    def __setstate__(self, state: Any) -> None:
        pass


# What these projects store beside weights. A class that is not here is never imported.
METERS = [f"fairseq.{module}.{name}Meter" for module in ("meters", "logging.meters") for name in METER_NAMES]
ALLOWED: list[Any] = [argparse.Namespace, *((Inert, name) for name in METERS)]


def load_checkpoint(path: str | PathLike) -> Any:
    """The content of a file of PyTorch or safetensors, on the CPU.

    Raises:
        ConversionError: the file is no checkpoint, or it holds objects other than tensors and plain data.
            They are named, and none of them is built.
    """
    if Path(path).suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConversionError(f"{path} is no file of safetensors: {error}") from error
    try:
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = unsafe_names(path)
        named = f"objects of {', '.join(found)}" if found else "something else than weights"
        raise ConversionError(
            f"{path} holds {named}; loading them would run code of the file, so it is refused. Save the "
            "weights alone with the program that wrote it"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConversionError(f"{path} is no checkpoint of PyTorch ({reason})") from error


def read_lines(path: str | PathLike) -> list[str]:
    """The lines of a text file; ConversionError that names the file if it is none."""
    try:
        return text_files.read_lines(path)
    except ValueError as error:
        raise ConversionError(str(error)) from error


def read_json(path: str | PathLike) -> Any:
    """The content of a JSON file; ConversionError that names the file and the place if it is none."""
    try:
        return text_files.read_json(path)
    except ValueError as error:
        raise ConversionError(str(error)) from error


def read_settings(folder: Path, name: str, of: str) -> Mapping[str, Any]:
    """The entries of a JSON or YAML file in a folder.

    Args:
        of: what the file belongs to, for the error.

    Raises:
        ConversionError: there is no such file, it cannot be read, or it holds something else than entries.
    """
    file = folder / name
    if not file.is_file():
        raise ConversionError(f"{folder} has no {name}, which belongs to {of}: copy it there")
    if file.suffix == ".json":
        held = read_json(file)
    else:
        try:
            held = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            raise ConversionError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(held, Mapping):
        raise ConversionError(f"{file} holds no settings, but {type(held).__name__}")
    return held


def require_files(source: str | PathLike, *names: str) -> None:
    """Raises ConversionError that names the files which a folder or a model on the Hub lacks."""
    missing = [name for name in names if not has_file(source, name)]
    if missing and not Path(source).exists():
        raise ConversionError(
            f"there is no folder {source} here, and the Hub has no {' and no '.join(missing)} of it: "
            "check the name and the connection"
        )
    if missing:
        raise ConversionError(f"{source} has no {' and no '.join(missing)}: copy what is missing there")


def has_file(source: str | PathLike, name: str) -> bool:
    return cached_file(source, name, _raise_exceptions_for_missing_entries=False) is not None


def unsafe_names(path: str | PathLike) -> list[str]:
    """The names of the objects in a file that are not allowed, if the file's format can list them."""
    try:
        with torch.serialization.safe_globals(ALLOWED):
            return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, pickle.UnpicklingError):  # the format before PyTorch 1.6
        return []


def float_weights(held: Mapping[str, Any]) -> Weights:
    """The tensors of a state dict, in float32."""
    return {name: value.float() for name, value in held.items() if isinstance(value, torch.Tensor)}


def the_file(source: str | PathLike, *patterns: str) -> Path:
    """The source itself if it is a file, else the only match of the first pattern that matches in the folder.

    Raises:
        ConversionError: no file matches, or several do.
    """
    path = Path(source)
    if path.is_file():
        return path
    for pattern in patterns:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            shown = ", ".join(file.name for file in found)
            raise ConversionError(
                f"{source} has several files {pattern}: {shown}; give the path of one of them"
            )
        if found:
            return found[0]
    raise ConversionError(f"{source} has no file {' or '.join(patterns)}")
