"""Reads the text files that people give; an error names the file."""

import json
from os import PathLike
from pathlib import Path
from typing import Any


def read_text(path: str | PathLike) -> str:
    """Return the text of a file in UTF-8, without a byte order mark; ValueError if it is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def read_lines(path: str | PathLike) -> list[str]:
    """Return the lines of a text. U+2028 and other line ends of Unicode are characters of a line."""
    lines = read_text(path).split("\n")
    return lines if lines[-1] else lines[:-1]


def read_json(path: str | PathLike) -> Any:
    """Return the content of a file of JSON; ValueError if it is none."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_entries(path: str | PathLike) -> dict[str, Any]:
    """Return the entries of a JSON object; ValueError if the file holds something else."""
    if isinstance(held := read_json(path), dict):
        return held
    raise ValueError(f"{path} holds no entries, but {type(held).__name__}")
