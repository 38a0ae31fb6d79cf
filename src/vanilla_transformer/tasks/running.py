"""Start a recipe: parse its settings, set up logging and the seed, and report errors in one line."""

import errno
import logging
import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from transformers import set_seed

from .output_dir import leave_output_dir
from .settings import parse
from .sources import SourceArguments
from .text import StartArguments

logger = logging.getLogger(__name__)

# Errors that the caller can fix, `InputError` among them. Other errors are bugs and show a traceback.
EXPECTED = (FloatingPointError, ImportError, OSError, ValueError)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HTTP_CLIENTS = ("httpx", "httpx2", "requests")  # of huggingface_hub, by version; their errors are no OSErrors


def run(
    main: Callable[..., None],
    settings: Sequence[type],
    defaults: Mapping[str, object] | None = None,
    unused: Sequence[str] = (),
) -> None:
    """Run a recipe as a program. An expected error ends it with one line; see `start` for the arguments.

    `--log_level debug` adds the traceback.
    """
    try:
        start(main, settings, defaults, unused=unused)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # otherwise its threads may abort at the end
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = explained(error)
        if message is None:
            raise
        logger.debug("Traceback of the error below:", exc_info=True)
        sys.exit(f"error: {message}")


def explained(error: Exception) -> str | None:
    """Return what went wrong and what to do, in one line, or None if the error is a bug."""
    text = " ".join(str(error).split())
    if "Original Traceback (most recent call last)" in text:  # a worker's error, which torch raises again
        text = str(error).strip().splitlines()[-1].strip()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return (
            f"out of memory ({text or type(error).__name__}): make batches smaller "
            "(per_device_train_batch_size, or max_target_tokens and max_source_tokens), or the model"
        )
    lost_worker = isinstance(error, ConnectionResetError | EOFError)  # of the pipe to a worker
    if lost_worker or (isinstance(error, RuntimeError) and "DataLoader worker" in text):
        return (
            f"a process that loads data was killed ({text}): often the memory is full. Set fewer "
            "dataloader_num_workers, and resume with --resume_from_checkpoint true"
        )
    if type(error).__module__.partition(".")[0] in HTTP_CLIENTS and not isinstance(error, OSError):
        return f"the Hugging Face Hub cannot be reached ({text or type(error).__name__}); check the network"
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return f"{error}: free some disk space"
    return text if isinstance(error, EXPECTED) else None


def start(
    main: Callable[..., None],
    settings: Sequence[type],
    defaults: Mapping[str, object] | None = None,
    argv: list[str] | None = None,
    unused: Sequence[str] = (),
) -> None:
    """Parse the settings, set up logging and the seed, and call `main` with the settings.

    Args:
        main: takes the `model:` block as a dict, then one instance of each argument class.
        settings: the model's config class, then the argument classes. The last is the `TrainingArguments`.
        defaults: key -> the recipe's default, instead of the argument class's own.
        argv: the words after the program's name; those of this process if None.
        unused: keys that do not apply to the recipe.
    """
    model_settings, *arguments = parse(*settings, argv=argv, defaults=defaults, unused=unused)
    args = arguments[-1]
    if not args.do_train:  # the model is the one in output_dir
        model_settings = {}
        for part in arguments:
            if isinstance(part, SourceArguments):
                part.training = False
            if isinstance(part, StartArguments):
                part.pretrained = str(args.output_dir)
    level = logging.DEBUG if args.log_level == "debug" else logging.INFO
    logging.basicConfig(level=level if args.should_log else logging.ERROR, format="%(message)s")
    for client in HTTP_CLIENTS:
        logging.getLogger(client).setLevel(logging.WARNING)  # otherwise a line for each request
    set_seed(args.seed)
    try:
        main(model_settings, *arguments)
    except BaseException:
        if args.should_save:
            leave_output_dir(str(args.output_dir))
        raise
