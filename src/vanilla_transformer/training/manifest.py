"""Which checkpoints are complete and undamaged: a manifest lists their files, with sizes and checksums."""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

logger = logging.get_logger(__name__)

MANIFEST = "manifest.json"
INTERRUPTED = "interrupted.txt"  # marks a checkpoint that no save_strategy asked for
WEIGHTS = ".safetensors"


def write_manifest(checkpoint: Path) -> None:
    """Write the size and the SHA-256 of each file in the checkpoint, and flush all of them to the disk."""
    files = {}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        files[path.relative_to(checkpoint).as_posix()] = {
            "size": path.stat().st_size,
            "sha256": _sha256(path),
        }
        flush(path)
    manifest = checkpoint / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "files": files}, indent=1) + "\n", encoding="utf-8")
    flush(manifest)
    flush(checkpoint)


def find_damage(checkpoint: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> str | None:
    """Return what is wrong with a checkpoint, such as "optimizer.pt is missing", or None.

    A checkpoint without a manifest was written by another program or an earlier version: then this reads the
    structure of each file.

    Args:
        wanted: returns False for the names of files that need no check.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / MANIFEST).is_file():
        return _find_broken(checkpoint, wanted)
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error!r})"
    for name, (size, checksum) in listed.items():
        path = checkpoint / name
        if not wanted(name):
            continue
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        try:
            found = _sha256(path)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found != checksum:
            return f"{name} has changed since it was saved (its checksum differs)"
    return None


def find_obstacle(checkpoint: str | Path) -> str | None:
    """Return why training cannot resume from a checkpoint, or None."""
    checkpoint = Path(checkpoint)
    if not (checkpoint / TRAINER_STATE_NAME).is_file():
        return f"{TRAINER_STATE_NAME} is missing, so the checkpoint is not complete"
    if damage := find_damage(checkpoint):
        return damage
    files = [*checkpoint.iterdir(), *checkpoint.glob("global_step*/*")]  # the latter are DeepSpeed's
    if not any("optim" in path.name for path in files):
        return "it holds no state of the optimizer (save_only_model was set, or the file was deleted)"
    return None


def complete_checkpoints(run_dir: str | Path) -> dict[int, Path]:
    """Return {step: folder} in order of steps. The Trainer's state, written last, marks them.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    return {
        step: folder for step, folder in _numbered(run_dir).items() if (folder / TRAINER_STATE_NAME).is_file()
    }


def last_checkpoints(run_dir: str | Path, n: int) -> list[Path]:
    """Return the last `n` complete checkpoints of a Trainer in `run_dir`, oldest first.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds fewer than `n`.
    """
    checkpoints = complete_checkpoints(run_dir)
    if not 1 <= n <= len(checkpoints):
        raise ValueError(
            f"cannot take {n} checkpoints: {run_dir} has complete checkpoints of steps {list(checkpoints)}"
        )
    return list(checkpoints.values())[-n:]


def newest_checkpoint(run_dir: str | Path) -> Path | None:
    """Return the newest checkpoint from which training can resume, and warn about newer ones."""
    for folder in reversed(_numbered(run_dir).values()):
        obstacle = find_obstacle(folder)
        if obstacle is None:
            return folder
        logger.warning(f"{folder} is passed over: {obstacle}")
    return None


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbered(run_dir: str | Path) -> dict[int, Path]:
    if not Path(run_dir).is_dir():
        raise FileNotFoundError(f"no folder {run_dir} to look for checkpoints in")
    found = {
        int(match[1]): folder
        for folder in Path(run_dir).iterdir()
        if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", folder.name)) and folder.is_dir()
    }
    return dict(sorted(found.items()))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_broken(checkpoint: Path, wanted: Callable[[str], bool]) -> str | None:
    for path in sorted(path for path in checkpoint.iterdir() if path.is_file() and wanted(path.name)):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == WEIGHTS:
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix in (".pt", ".pth") and (broken := zipfile.ZipFile(path).testzip()):
                return f"{path.name} is damaged in {broken}"
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
            return f"{path.name} cannot be read ({error})"
    return None
