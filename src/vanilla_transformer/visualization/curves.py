"""Curves: of a run, from the Trainer's `log_history`, and of the learning rate of section 5.3."""

from __future__ import annotations

from collections.abc import Sequence

from ..noam import noam_rate
from .figures import COLORS, Picture, line_style, panels, styled

QUALITY = {  # the first that a run logged is drawn
    "eval_bleu": "BLEU",
    "eval_rougeL": "ROUGE-L",
    "eval_map": "mAP",
    "eval_f1": "F1",
    "eval_accuracy": "accuracy",
    "eval_token_accuracy": "accuracy of tokens",
}
SIZES = ((512, 4000), (512, 8000), (256, 4000), (1024, 4000))


@styled
def plot_training_curves(log_history: list[dict]) -> Picture:
    """Draw training and validation loss, and the first metric of `QUALITY` that was logged.

        plot_training_curves(trainer.state.log_history).savefig("curves.png")

    Label smoothing (section 5.4) and dropout raise the training loss only, so the two losses do not compare.
    """
    measured = [key for key in QUALITY if any(key in entry for entry in log_history)][:1]
    figure, axes = panels(1, 1 + len(measured))
    training, validation = _series(log_history, "loss"), _series(log_history, "eval_loss")
    if training[0]:
        axes[0].plot(*training, color=COLORS[0], linewidth=1.2, label="training")
    if validation[0]:
        axes[0].plot(
            *validation, color=COLORS[1], linestyle="--", marker="o", markersize=4, label="validation"
        )
    axes[0].set(xlabel="update", ylabel="loss (nats)", title="Loss")
    if axes[0].lines:
        axes[0].legend()
    for panel, key in zip(axes[1:], measured):
        panel.plot(*_series(log_history, key), color=COLORS[1], linestyle="--", marker="o", markersize=4)
        panel.set(xlabel="update", ylabel=QUALITY[key], title=f"Validation {QUALITY[key]}")
    _separate_ticks(figure)
    return figure


@styled
def plot_learning_rate(log_history: list[dict]) -> Picture:
    """Draw the learning rate of each logged update."""
    figure, (axes,) = panels(1, 1)
    axes.plot(*_series(log_history, "learning_rate"), color=COLORS[0])
    axes.set(xlabel="update", ylabel="learning rate", title="Learning rate", ylim=(0, None))
    _separate_ticks(figure)
    return figure


@styled
def plot_learning_rates(sizes: Sequence[tuple[int, int]] = SIZES, updates: int = 20_000) -> Picture:
    """Draw the Noam schedule (section 5.3) of several models.

    Args:
        sizes: d_model and warm-up updates of each.
    """
    if not sizes:
        raise ValueError("sizes is empty: give pairs of d_model and warm-up updates, such as (512, 4000)")
    figure, (axes,) = panels(1, 1, width=6.5)
    shown = range(1, updates + 1, max(1, updates // 1000))
    for number, (d_model, warmup) in enumerate(sizes):
        rates = [1000 * noam_rate(update, d_model, warmup) for update in shown]
        label = f"d_model {d_model}, warm-up {warmup:,}"
        axes.plot(shown, rates, label=label, linewidth=1.8, **line_style(number))
    axes.set(xlabel="update", ylabel="learning rate / 0.001", title="Noam schedule", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend()
    return figure


def _separate_ticks(figure: Picture) -> None:
    """At most 7 updates on an axis: numbers of 7 digits need room."""
    for axes in figure.axes:
        axes.locator_params(axis="x", nbins=6)


def _series(log_history: list[dict], name: str) -> tuple[list, list]:
    points = {entry["step"]: entry[name] for entry in log_history if name in entry}
    return list(points), list(points.values())
