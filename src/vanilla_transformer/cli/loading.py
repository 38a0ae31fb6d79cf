"""What is wrong with a model that cannot be loaded: one line that names the folder or the file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError, safe_open

WEIGHTS = (".safetensors", ".bin", ".index.json")  # ends of the names of files
AGAIN = "copy the folder again"


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Raises ValueError for what is wrong with the files of a folder, OSError if there is no such model."""
    try:
        yield
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = " ".join(lines)
        if "Traceback" in text:  # transformers tried one class or more, and returns their tracebacks
            text = lines[-1]
        path = Path(model)
        if not path.exists() and isinstance(error, OSError | HFValidationError):
            raise OSError(
                f"there is no folder {model} here, and no such model came from the Hub: check the name, or "
                f"name a folder that a recipe or `vanilla-transformer import` wrote ({text})"
            ) from error
        found = fault(path, text) if path.exists() else None
        raise ValueError(found or (text if model in text else f"{model}: {text}")) from error


def fault(folder: Path, text: str) -> str | None:
    """What is wrong with the files of a model; `text` is the error of transformers."""
    if folder.is_file():
        return (
            f"{folder} is a file: name the folder of a model. `vanilla-transformer import` converts files of "
            "other projects"
        )
    if not (folder / "config.json").is_file():
        inner = sorted(file.parent.name for file in folder.glob("*/config.json"))
        hint = f"name one of its folders: {', '.join(inner[:5])}" if inner else "name a folder that has one"
        return f"{folder} has no config.json, so it is no saved model: {hint}"
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            return f"{file} is not valid JSON ({error}): {AGAIN}"
    if not any(file.name.endswith(WEIGHTS) for file in folder.iterdir()):
        return f"{folder} has no weights, such as model.safetensors: {AGAIN}, with all its files"
    for file in sorted(folder.glob("*.safetensors")):
        try:
            safe_open(file, "pt")
        except (OSError, SafetensorError) as error:
            return f"{file} is no file of safetensors ({error}): {AGAIN}"
    if "backend tokenizer" in text:
        return f"{folder} has no tokenizer, such as tokenizer.json: {AGAIN}, with all its files"
    return None
