"""How every recipe starts and fails: settings, logging, the seed, and errors of one line."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence

from transformers import set_seed

from .settings import parse

logger = logging.getLogger(__name__)

# Errors that the caller can mend; `InputError` is a ValueError. Anything else is a bug: it has a traceback.
EXPECTED = (FloatingPointError, ImportError, OSError, ValueError)


def run(
    main: Callable[..., None], settings: Sequence[type], defaults: Mapping[str, object] | None = None
) -> None:
    """Run a recipe as a program: an expected error ends it with one line.

    `--log_level debug` adds the traceback. The arguments are those of `start`.
    """
    try:
        start(main, settings, defaults)
    except EXPECTED as error:
        logger.debug("the traceback:", exc_info=True)
        sys.exit(f"error: {error}")


def start(
    main: Callable[..., None],
    settings: Sequence[type],
    defaults: Mapping[str, object] | None = None,
    argv: list[str] | None = None,
) -> None:
    """Parse the settings, set up logging and the seed, and call `main` with the settings.

    Args:
        main: takes the `model:` block as a dict, then one instance of each argument class. The last one is
            the `TrainingArguments`.
        settings: the model's config class, then the argument classes.
        defaults: key -> the recipe's default, in place of the argument class's own.
        argv: the command line after the program's name; that of this process if None.
    """
    model_settings, *arguments = parse(*settings, argv=argv, defaults=defaults)
    args = arguments[-1]
    level = logging.DEBUG if args.log_level == "debug" else logging.INFO
    logging.basicConfig(level=level if args.should_log else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    main(model_settings, *arguments)
