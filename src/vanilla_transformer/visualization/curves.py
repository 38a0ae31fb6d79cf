"""The curves of a training run, from the Trainer's `log_history`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE = "#1f4e79", "#d95f02"

QUALITY = {
    "eval_bleu": "BLEU",
    "eval_rougeL": "ROUGE-L",
    "eval_map": "mAP",
    "eval_accuracy": "accuracy",
}


def plot_training_curves(log_history: list[dict], path: str | Path) -> None:
    """Draw training and validation loss, and the first metric of `QUALITY` that was logged.

    Label smoothing (section 5.4) raises the training loss only, so the two losses do not compare.
    """
    measured = [key for key in QUALITY if any(key in entry for entry in log_history)][:1]
    figure, axes = _figure(panels=1 + len(measured))
    axes[0].plot(*_series(log_history, "loss"), color=BLUE, linewidth=1, label="training, smoothed labels")
    validation = _series(log_history, "eval_loss")
    if len(validation[0]):
        axes[0].plot(*validation, color=ORANGE, marker=".", label="validation")
    axes[0].set(xlabel="update", ylabel="loss (nats)", title="Loss")
    axes[0].legend()
    for panel, key in zip(axes[1:], measured):
        panel.plot(*_series(log_history, key), color=ORANGE, marker=".")
        panel.set(xlabel="update", ylabel=QUALITY[key], title=f"Validation {QUALITY[key]}")
    figure.savefig(path)


def plot_learning_rate(log_history: list[dict], path: str | Path) -> None:
    """Draw the learning rate of each logged update."""
    figure, (axes,) = _figure(panels=1)
    axes.plot(*_series(log_history, "learning_rate"), color=BLUE)
    axes.set(xlabel="update", ylabel="learning rate", title="Learning rate", ylim=(0, None))
    figure.savefig(path)


def _series(log_history: list[dict], name: str) -> tuple[list, list]:
    points = {entry["step"]: entry[name] for entry in log_history if name in entry}
    return list(points), list(points.values())


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    # not pyplot, which chooses a display and keeps every figure
    with extra("plot"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * panels, 4), dpi=120, layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes
