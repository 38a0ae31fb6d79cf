"""The folder of a run: reserved for one run at a time, resumed, or left as it was if the run fails."""

import logging
from pathlib import Path

from transformers import AutoConfig, TrainingArguments

from ..training.checkpoints import check_writable
from ..training.manifest import complete_checkpoints, find_obstacle, newest_checkpoint
from ..training.run_lock import lock_run, unlock_run
from .settings import InputError
from .text import loading

logger = logging.getLogger(__name__)


def prepare_output_dir(args: TrainingArguments, *heads: str) -> str | None:
    """Create and reserve `output_dir`, and return the folder of the checkpoint to resume from, or None.

    `resume_from_checkpoint` is that folder; `true` for the newest undamaged checkpoint in `output_dir`; or
    `auto`, which does the same and starts a new run if `output_dir` has no checkpoint. With
    `do_train=false` there is nothing to resume.

    Args:
        heads: ends of the names of the model classes that the recipe scores, such as "ForMaskedLM".

    Raises:
        InputError: `output_dir` holds another model than the one to score, is not writable, is in use or
            holds an earlier run, or the checkpoint is damaged or does not exist.
    """
    folder, wanted = str(args.output_dir), str(args.resume_from_checkpoint)
    if not args.do_train and wanted.lower() not in ("none", "false"):
        raise InputError("do_train=false has nothing to resume: remove resume_from_checkpoint")
    if not args.do_train and not Path(folder, "config.json").is_file():
        raise InputError(
            f"do_train=false scores the model in output_dir, but {folder} holds no model (no config.json)"
        )
    if not args.do_train and heads:
        _check_head(folder, heads)
    try:
        check_writable(folder)
        if args.should_save:
            lock_run(folder)
    except OSError as error:
        raise InputError(str(error)) from error
    if not args.do_train:
        return None
    earlier = list(complete_checkpoints(folder).values())
    if wanted.lower() in ("none", "false"):
        if earlier:
            raise InputError(
                f"output_dir: {folder} holds an earlier run. Resume it with --resume_from_checkpoint true, "
                "or give another --output_dir"
            )
        return None
    if wanted.lower() in ("true", "auto"):
        newest = newest_checkpoint(folder)
        if newest is None and earlier:
            raise InputError(
                f"resume_from_checkpoint: no checkpoint in {folder} is undamaged: "
                f"{earlier[-1].name}: {find_obstacle(earlier[-1])}"
            )
        if newest is None and wanted.lower() == "true":
            raise InputError(
                f"resume_from_checkpoint: there is no checkpoint in {folder}; `auto` starts a new run then"
            )
        return str(newest) if newest else None
    if not Path(wanted).is_dir():
        raise InputError(f"resume_from_checkpoint: there is no folder {wanted}")
    if obstacle := find_obstacle(wanted):
        raise InputError(f"resume_from_checkpoint: {wanted}: {obstacle}")
    return wanted


def _check_head(folder: str, heads: tuple[str, ...]) -> None:
    with loading("output_dir", folder):
        classes = AutoConfig.from_pretrained(folder).architectures or []
    if classes and not classes[0].endswith(heads):
        raise InputError(
            f"output_dir: {folder} holds a {classes[0]}, but this scores only models whose class ends with "
            f"{' or '.join(heads)}: use the recipe (and the objective) that trained it"
        )


def leave_output_dir(folder: str) -> None:
    """Give the folder of a failed run back, and remove it if it is empty."""
    unlock_run(folder)
    path = Path(folder)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
