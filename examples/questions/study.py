"""What the experiments share: a training loop, the style of a figure, and the page with the results."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "questions.md"
PICTURES = ROOT / "docs" / "questions"

# Okabe and Ito's colours, which the colour-blind can tell apart; in print, line styles and markers do.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#666666")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*")


def arguments(description: str | None, updates: int) -> argparse.Namespace:
    """The options of every experiment that trains; `updates` is the default of one model."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=updates, help="of each model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default: %(default)s)")
    add_output_options(parser)
    return parser.parse_args()


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/questions"), help="folder of the picture"
    )
    parser.add_argument("--write", action="store_true", help="also put table and picture into docs/")


def train(
    model: nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    updates: int,
    rate: float,
    optimizer: str = "adam",
    warmup: int = 100,
) -> list[float]:
    """Train with a rate that rises for `warmup` updates and then falls linearly to 0; returns the losses.

    Args:
        loss_of: the loss of the batch of this update, from 0.
        optimizer: "adam" (with the paper's betas), "sgd" or "momentum".
    """
    parameters = model.parameters()
    steps: torch.optim.Optimizer
    if optimizer == "adam":
        steps = torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.98), eps=1e-9)
    else:
        steps = torch.optim.SGD(parameters, lr=rate, momentum=0.9 if optimizer == "momentum" else 0.0)
    losses = []
    model.train()
    for update in range(updates):
        factor = min(1.0, (update + 1) / max(1, warmup)) * (1 - update / updates)
        steps.param_groups[0]["lr"] = rate * factor
        loss = loss_of(update)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    model.eval()
    return losses


def parameters(model: nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def new_axes(columns: int = 1, height: float = 3.4) -> tuple[Any, Any]:
    """A figure and its axes, `(columns,)`, or the only one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns + 0.8, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for axis in [axes] if columns == 1 else axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    return figure, axes


def style(index: int, with_markers: bool = True) -> dict[str, Any]:
    """Colour, line and marker of the line with this index."""
    marker = {"marker": MARKERS[index % len(MARKERS)], "markersize": 4} if with_markers else {}
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)], **marker}


def show(name: str, tables: str, figure: Any, options: argparse.Namespace, started: float) -> None:
    """Print the tables, save the figure, and, with --write, put both into docs/.

    `name` is that of the script, of the picture, and of the marked place in docs/questions.md.
    """
    from matplotlib import rc_context

    minutes = (time.monotonic() - started) / 60
    print(tables, f"\n{minutes:.1f} minutes")
    folders = [options.output, PICTURES] if options.write else [options.output]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(options.output / f"{name}.png", dpi=130)
    print(f"wrote {options.output / f'{name}.svg'}")
    if options.write:
        begin, end = f"<!-- results of {name} -->", f"<!-- end of {name} -->"
        page, places = re.subn(
            f"{begin}.*?{end}",
            lambda _: f"{begin}\n{tables}\n{end}",
            PAGE.read_text(),
            flags=re.S,
        )
        if places != 1:
            raise SystemExit(f"{PAGE} needs one place between {begin} and {end}, but has {places}")
        PAGE.write_text(page)
