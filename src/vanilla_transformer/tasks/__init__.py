"""The recipes' library: settings, data and results, and one module per recipe. Any release may change it."""

from ..extras import extra

with extra("train,metrics"):
    import evaluate  # noqa: F401  before training, which needs it only at its end

    from .output_dir import prepare_output_dir
    from .results import described, finish, place_results, predict, train, trained_labels
    from .running import run, start
    from .settings import InputError, parse
    from .sources import shuffle_files
    from .text import StartArguments, extend_vocabulary, get_model, get_tokenizer

__all__ = [
    "InputError",
    "StartArguments",
    "described",
    "extend_vocabulary",
    "finish",
    "get_model",
    "get_tokenizer",
    "parse",
    "place_results",
    "predict",
    "prepare_output_dir",
    "run",
    "shuffle_files",
    "start",
    "train",
    "trained_labels",
]
