"""What a run used: its data with checksums, seed, versions, commit and date."""

import glob
import hashlib
import importlib.metadata
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..corpora import SHIPPED, corpus_files
from .sources import SPLITS, SourceArguments

PACKAGES = ("vanilla-transformer", "torch", "transformers", "datasets", "tokenizers", "sacrebleu")


def data_record(data: SourceArguments) -> dict[str, dict[str, str]]:
    """Return the data of each split: the SHA-256 of each file by its name, or the name of the data set.

    Files of the same name have as many of their folders before it as make the names different.
    """
    record: dict[str, dict[str, str]] = {}
    shipped = corpus_files(data.dataset) if data.dataset in SHIPPED else {}
    for split in SPLITS:
        files = [shipped[split]] if split in shipped else _existing(getattr(data, f"{split}_file") or ())
        if files:
            record[split] = {name: _sha256(file) for name, file in zip(_short_names(files), files)}
        elif data.dataset and not shipped:
            chosen = {
                "dataset": data.dataset,
                "configuration": data.dataset_config,
                "revision": data.dataset_revision,
                "split": getattr(data, f"{split}_split") or split,
            }
            record[split] = {key: value for key, value in chosen.items() if value}
        if split in record and (limit := getattr(data, f"max_{split}_samples")):
            record[split]["first rows"] = str(limit)
    return record


def circumstances(args: TrainingArguments) -> dict[str, Any]:
    """Return the seed, the date, the versions of the packages and the commit of this program."""
    return {
        "seed": args.seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": _commit(),
    }


def _existing(patterns: Any) -> list[str]:
    return [
        path
        for pattern in patterns
        for path in ([pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern)))
    ]


def _short_names(files: list[str]) -> list[str]:
    parts = [Path(file).parts for file in dict.fromkeys(files)]
    deepest = max(map(len, parts))
    depth = next((n for n in range(1, deepest) if len({part[-n:] for part in parts}) == len(parts)), deepest)
    return ["/".join(Path(file).parts[-depth:]) for file in files]


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the clone that holds this file, with `+` if it has changes; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True)
        if tracked.returncode:
            return None
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + "+" * bool(changes.stdout.strip())
