"""`detect` and `plot`: pictures with boxes, curves and attention."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from .generating import load_pipeline
from .verb import BAD_LINES, Stop, report

COLORS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#17becf")
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
                draw(picture, record["objects"]).save(targets[path])
                record["drawn"] = str(targets[path])
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            bad += 1
            record["error"] = str(error)
            report(f"{path}: {error}")
        yield (json.dumps(record, ensure_ascii=False) + "\n").encode(errors="replace")
    if bad:
        raise Stop(f"{bad} of {len(pictures)} pictures were bad: see above", BAD_LINES)


def files(paths: list[Path]) -> Iterator[Path]:
    """The files, and the pictures in the folders."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        else:
            yield path


def draw(picture: Image.Image, objects: list[dict[str, Any]]) -> Image.Image:
    """A copy with a box, its label and its score for each object; labels have colours of their own."""
    picture = picture.copy()
    canvas = ImageDraw.Draw(picture)
    labels = sorted({found["label"] for found in objects})
    width = max(1, round(max(picture.size) / 300))
    for found in objects:
        color = COLORS[labels.index(found["label"]) % len(COLORS)]
        box = [found["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]
        canvas.rectangle(box, outline=color, width=width)
        text, place = f"{found['label']} {found['score']:.2f}", (box[0] + width, box[1] + width)
        canvas.rectangle(canvas.textbbox(place, text), fill=color)
        canvas.text(place, text, fill="white")
    return picture


def plot_run(folder: Path, output: Path) -> None:
    """Draws the loss curves of a run, from its own trainer_state.json or that of its newest checkpoint."""
    from ..visualization.curves import plot_training_curves

    states = sorted(
        folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[-1])
    )
    states += [folder / "trainer_state.json"] * (folder / "trainer_state.json").is_file()
    if not states:
        raise FileNotFoundError(f"{folder} has no trainer_state.json, in which a run keeps its losses")
    history = json.loads(states[-1].read_text(encoding="utf-8"))["log_history"]
    plot_training_curves(history, output)


def plot_attention_of(
    model: str, source: str, target: str | None, output: Path, layer: int, head: int | None
) -> None:
    from ..visualization.attention import plot_attention

    pipe = load_pipeline("text2text-generation", model, "cpu")
    plot_attention(pipe.model, pipe.tokenizer, source, target, layer, head).savefig(output)
