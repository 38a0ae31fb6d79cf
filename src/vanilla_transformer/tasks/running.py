"""Start a recipe: parse its settings, set up logging and the seed, and report errors in one line."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence

from transformers import set_seed

from .settings import parse

logger = logging.getLogger(__name__)

# Errors that the caller can fix, `InputError` among them. Other errors are bugs and show a traceback.
EXPECTED = (FloatingPointError, ImportError, OSError, ValueError)


def run(
    main: Callable[..., None], settings: Sequence[type], defaults: Mapping[str, object] | None = None
) -> None:
    """Run a recipe as a program. An expected error ends it with one line; see `start` for the arguments.

    `--log_level debug` adds the traceback.
    """
    try:
        start(main, settings, defaults)
    except EXPECTED as error:
        logger.debug("Traceback of the error below:", exc_info=True)
        sys.exit(f"error: {error}")


def start(
    main: Callable[..., None],
    settings: Sequence[type],
    defaults: Mapping[str, object] | None = None,
    argv: list[str] | None = None,
) -> None:
    """Parse the settings, set up logging and the seed, and call `main` with the settings.

    Args:
        main: takes the `model:` block as a dict, then one instance of each argument class.
        settings: the model's config class, then the argument classes. The last is the `TrainingArguments`.
        defaults: key -> the recipe's default, instead of the argument class's own.
        argv: the words after the program's name; those of this process if None.
    """
    model_settings, *arguments = parse(*settings, argv=argv, defaults=defaults)
    args = arguments[-1]
    level = logging.DEBUG if args.log_level == "debug" else logging.INFO
    logging.basicConfig(level=level if args.should_log else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    main(model_settings, *arguments)
