"""How every recipe starts and fails: settings, logging, the seed, and errors of one line."""

import logging
import sys
from collections.abc import Callable, Sequence

from transformers import set_seed

from .settings import parse

logger = logging.getLogger(__name__)

# Errors that the caller can mend; `InputError` is a ValueError. Anything else is a bug: it has a traceback.
EXPECTED = (FloatingPointError, ImportError, OSError, ValueError)


def run(main: Callable[..., None], settings: Sequence[type], **defaults: object) -> None:
    """Run a recipe: parse its settings, set up logging and the seed, and call `main` with the settings.

    An expected error ends the program with one line. `--log_level debug` adds the traceback.

    Args:
        main: takes the `model:` block as a dict, then one instance of each argument class. The last one is
            the `TrainingArguments`.
        settings: the model's config class, then the argument classes.
        defaults: values of the task in place of those of the argument classes.
    """
    try:
        model_settings, *arguments = parse(*settings, defaults=defaults)
        args = arguments[-1]
        logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
        set_seed(args.seed)
        main(model_settings, *arguments)
    except EXPECTED as error:
        logger.debug("the traceback:", exc_info=True)
        sys.exit(f"error: {error}")
