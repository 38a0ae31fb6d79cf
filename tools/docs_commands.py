"""How `check_docs.py` runs the commands of the pages: where, and what a long one is shortened to."""

import os
import re
import sys
from pathlib import Path

from pages import ROOT

THIS = re.compile(r"check_docs\.py|make (docs-check|test)\b")


def make_sandbox(folder: Path) -> None:
    """Fill a folder with links to the repository's files, and set the environment of its commands."""
    for entry in ROOT.iterdir():
        if entry.name not in (".git", ".venv", "outputs", "site"):
            (folder / entry.name).symlink_to(entry)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for entry in [*Path(sys.prefix).iterdir(), *(Path(sys.prefix) / "bin").iterdir()]:
        if entry.name != "bin":
            (folder / ".venv" / entry.relative_to(sys.prefix)).symlink_to(entry)
    command = programs / "vanilla-transformer"
    command.unlink(missing_ok=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m vanilla_transformer_command "$@"\n')
    command.chmod(0o755)
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(ROOT / "src")


def shortened(command: str) -> tuple[str, str]:
    """Return what to run for a command, and a note; "" and the reason if it cannot run."""
    if THIS.search(command):
        return "", "runs this check"
    return command, ""
