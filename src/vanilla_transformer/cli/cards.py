"""`card`: a model card from the results that a run left in its folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..model_card import USE, write_model_card
from ..text_files import read_entries
from .verb import USAGE, Stop

SPLITS = ("test", "validation")


def write(
    folder: Path,
    task: str,
    data: str,
    languages: Iterable[str],
    license: str | None,
    model: str | None,
    settings: dict[str, Any],
) -> Path:
    if task not in USE:
        raise Stop(f"error: --task {task}: use one of {', '.join(USE)}", USAGE)
    file = folder / "results.json"
    found: dict[str, Any] = read_entries(file) if file.is_file() else {}
    results = {
        split: {
            name.removeprefix(f"{split}_"): value
            for name, value in found.items()
            if name.startswith(f"{split}_") and isinstance(value, int | float | str)
        }
        for split in SPLITS
    }
    return write_model_card(
        folder,
        task=task,
        data=data,
        results={split: scores for split, scores in results.items() if scores},
        settings={**(found.get("settings") or {}), **settings},
        languages=languages,
        license=license,
        model=model,
    )
