"""What all verbs share: exit codes, and errors in one line."""

import importlib
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand

PACKAGE = "vanilla_transformer"
ERROR, USAGE, BAD_LINES = 1, 2, 3
INTERRUPTED, BROKEN_PIPE = 128 + signal.SIGINT, 128 + 13  # as a shell reports these signals; SIGPIPE is 13

# Errors that the caller can fix. Other errors are bugs and show a traceback.
EXPECTED = (ImportError, OSError, ValueError)


class Stop(Exception):
    """Ends a verb with a message and this exit code."""

    def __init__(self, message: str, code: int = ERROR):
        super().__init__(message)
        self.code = code


class LightVerb(TyperCommand):
    """A command whose expected errors are one line on the error stream."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return self.run(ctx)
        except BrokenPipeError:  # such as `| head`: the reader has enough
            discard_output()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            report("stopped")
            raise typer.Exit(INTERRUPTED) from None
        except SystemExit as stop:
            if not isinstance(stop.code, str):
                raise
            report(stop.code)
            raise typer.Exit(ERROR) from None
        except Stop as stop:
            report(str(stop))
            raise typer.Exit(stop.code) from None
        except EXPECTED as error:
            report(f"error: {' '.join(str(error).split()) or type(error).__name__}")
            raise typer.Exit(ERROR) from None

    def run(self, ctx: Any) -> Any:
        return super().invoke(ctx)


class Verb(LightVerb):
    """A verb that needs the whole package."""

    def run(self, ctx: Any) -> Any:
        load_package()
        return super().run(ctx)


def load_package() -> None:
    """Registers the models with transformers: looking up a name runs the `__init__`, if it has not run."""
    if not hasattr(importlib.import_module(PACKAGE), "PRESETS"):
        raise ImportError(f"{PACKAGE} is not complete: install it again")


def discard_output() -> None:
    """Sends the rest of standard output nowhere: Python flushes it once more at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a true file, as in tests
        return


def report(message: str) -> None:
    """Writes a line to the error stream, above a progress bar."""
    from tqdm import tqdm

    tqdm.write(message, file=sys.stderr)


def settings(pairs: Iterable[str]) -> dict[str, Any]:
    """The values of NAME=VALUE, read as YAML: `num_beams=4` is a number."""
    import yaml

    read = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise Stop(f"error: --set {pair}: write it as NAME=VALUE", USAGE)
        try:
            read[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise Stop(f"error: --set {pair}: {value!r} is no YAML: {error}", USAGE) from error
    return read
