"""`detect` and `plot`: pictures with boxes, curves and attention."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from PIL import Image, ImageOps, UnidentifiedImageError

from ..text_files import read_entries
from .generating import load_pipeline
from .information import without_weights
from .loading import loading
from .verb import BAD_LINES, USAGE, Stop, report

TEXTS = ("attention", "alignment", "page")  # what needs a text
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def detect(
    model: str, paths: list[Path], folder: Path | None, threshold: float, device: str | None
) -> Iterator[bytes]:
    """Yields a JSON line for each picture, and saves each with its boxes in `folder`."""
    pictures = list(files(paths))
    targets: dict[Path, Path] = {}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in pictures:
            target = folder / f"{path.stem}.png"
            if target in targets.values():
                raise Stop(f"error: two pictures are named {path.stem}: detect them into different folders")
            if any(target.exists() and target.samefile(picture) for picture in pictures if picture.exists()):
                raise Stop(f"error: {target} is one of the pictures: name another folder", USAGE)
            targets[path] = target
    pipe = load_pipeline("object-detection", model, device)
    bad = 0
    for path in pictures:
        record: dict[str, Any] = {"image": str(path)}
        try:
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file).convert("RGB")
            record["objects"] = pipe(picture, threshold=threshold)
            if path in targets:
                draw(picture, record["objects"], targets[path])
                record["drawn"] = str(targets[path])
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            bad += 1
            record["error"] = str(error)
            report(f"{path}: {error}")
        yield (json.dumps(record, ensure_ascii=False) + "\n").encode(errors="replace")
    if bad:
        raise Stop(f"{bad} of {len(pictures)} pictures were bad: see above", BAD_LINES)


def draw(picture: Image.Image, objects: list[dict[str, Any]], path: Path) -> None:
    """Saves the picture with its boxes, at least as large as it is."""
    from ..visualization import plot_detections

    figure = plot_detections(picture, objects)
    figure.savefig(path, dpi=max(figure.dpi, max(picture.size) / max(figure.get_size_inches())))


def files(paths: list[Path]) -> Iterator[Path]:
    """The files, and the pictures in the folders."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        else:
            yield path


def plot(
    what: str,
    model: str,
    output: Path,
    source: str | None,
    target: str | None,
    attention: Any,
    layer: int,
    head: Any,
) -> None:
    """Draws one picture of a model or of its run; see `model_verbs.plot`."""
    from .. import visualization as pictures

    if what in TEXTS and source is None:
        raise Stop(f"error: --what {what} needs a text: give --source", USAGE)
    if what == "curves":
        figure = pictures.plot_training_curves(log_history(Path(model)))
    elif what == "architecture":
        figure = pictures.plot_architecture(without_weights(model, "text"))
    elif what == "positions":
        figure = pictures.plot_positional_encoding(load(model))
    elif what == "similarity":
        figure = pictures.plot_position_similarity(load(model))
    elif what == "embeddings":
        figure = pictures.plot_embeddings(load(model), load_tokenizer(model))
    else:
        assert source is not None
        loaded, tokenizer = load(model), load_tokenizer(model)
        if what == "page":
            output.write_text(pictures.attention_page(loaded, tokenizer, source, target), encoding="utf-8")
            return
        if what == "alignment":
            figure = pictures.plot_alignment(loaded, tokenizer, source, target)
        else:
            figure = pictures.plot_attention(loaded, tokenizer, source, target, layer, head, attention)
    figure.savefig(output)


def log_history(folder: Path) -> list[dict]:
    """What a run logged, from its own trainer_state.json or that of its newest checkpoint."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; to draw a preset, give --what architecture")
    states = [*folder.glob("checkpoint-*/trainer_state.json")]
    states = [path for path in states if path.parent.name.removeprefix("checkpoint-").isdecimal()]
    states.sort(key=lambda path: int(path.parent.name.removeprefix("checkpoint-")))
    states += [folder / "trainer_state.json"] * (folder / "trainer_state.json").is_file()
    if not states:
        raise FileNotFoundError(f"{folder} has no trainer_state.json, in which a run keeps its losses")
    history = read_entries(states[-1]).get("log_history")
    if history is None:
        raise ValueError(f"{states[-1]} has no log_history, in which a run keeps its losses")
    return history


def load(model: str) -> Any:
    """The model of a folder or a Hub name, of the class that was saved."""
    transformers.utils.logging.disable_progress_bar()
    model_class = type(without_weights(model, "text"))
    with loading(model):
        return model_class.from_pretrained(model).eval()


def load_tokenizer(model: str) -> Any:
    with loading(model):
        return transformers.AutoTokenizer.from_pretrained(model)
