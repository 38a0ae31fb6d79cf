"""A training run's curves, from the Trainer's `log_history`."""

from pathlib import Path

BLUE, ORANGE = "#1f4e79", "#d95f02"


def plot_training_curves(log_history: list[dict], path: str | Path):
    """Training and validation loss, in nats per token, and BLEU beside them where it was measured.

    The training loss is smoothed by labels (section 5.4), the validation loss is not: they do not compare.
    """
    bleu = _series(log_history, "eval_bleu")
    figure, axes = _figure(panels=2 if bleu[0] else 1)
    axes[0].plot(*_series(log_history, "loss"), color=BLUE, linewidth=1, label="training, smoothed labels")
    axes[0].plot(*_series(log_history, "eval_loss"), color=ORANGE, marker=".", label="validation")
    axes[0].set(xlabel="update", ylabel="loss (nats per token)", title="Loss")
    axes[0].legend()
    if bleu[0]:
        axes[1].plot(*bleu, color=ORANGE, marker=".")
        axes[1].set(xlabel="update", ylabel="BLEU", title="Validation BLEU")
    figure.savefig(path)


def plot_learning_rate(log_history: list[dict], path: str | Path):
    """The learning rate of each logged update."""
    figure, (axes,) = _figure(panels=1)
    axes.plot(*_series(log_history, "learning_rate"), color=BLUE)
    axes.set(xlabel="update", ylabel="learning rate", title="Learning rate", ylim=(0, None))
    figure.savefig(path)


def _series(log_history, name) -> tuple[list, list]:
    points = {entry["step"]: entry[name] for entry in log_history if name in entry}
    return list(points), list(points.values())


def _figure(panels):
    # Not pyplot: it would choose a display, and keep every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * panels, 4), dpi=120, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes
