"""The recipes' library: settings, data and results, and one module per recipe. Any release may change it."""

from .results import finish, predict
from .running import run, start
from .settings import InputError, parse, prepare_output_dir
from .text import StartArguments, get_model, get_tokenizer

__all__ = [
    "InputError",
    "StartArguments",
    "finish",
    "get_model",
    "get_tokenizer",
    "parse",
    "predict",
    "prepare_output_dir",
    "run",
    "start",
]
