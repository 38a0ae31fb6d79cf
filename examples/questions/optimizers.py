"""Question 4: why Adam, and why warm-up?

    python examples/questions/optimizers.py

Deep, narrow encoder-decoders learn to translate numbers in words to digits in four ways, and with the norm
after each sublayer, as in the paper, or before it. Each way gets the best of its rates.
"""

import random
import time

import study
import torch
from numbers_in_words import PAD, batch, draw, translator
from torch import nn

# name: optimizer, warm-up as a share of the updates, rates
WAYS = {
    "SGD": ("sgd", 0.1, (0.03, 0.1, 0.3, 1.0)),
    "SGD with momentum": ("momentum", 0.1, (0.01, 0.03, 0.1)),
    "Adam without warm-up": ("adam", 0.0, (3e-4, 1e-3, 3e-3, 1e-2)),
    "Adam with warm-up": ("adam", 0.25, (3e-4, 1e-3, 3e-3, 1e-2)),
}


def learn(norm_position: str, way: str, rate: float, updates: int, seed: int) -> list[float]:
    """The training losses; the same weights and batches for every way."""
    optimizer, warmup, _ = WAYS[way]
    torch.manual_seed(seed)
    generator = random.Random(seed)
    model: nn.Module = translator(6, norm_position)

    def loss_of(update: int) -> torch.Tensor:
        sources, labels = batch(draw(32, generator))
        return model(sources, attention_mask=(sources != PAD).long(), labels=labels).loss

    return study.train(model, loss_of, updates, rate, optimizer, warmup=round(warmup * updates))


def final(losses: list[float]) -> float:
    """The mean loss of the last tenth; infinite if training diverged."""
    last = losses[-max(1, len(losses) // 10) :]
    mean = sum(last) / len(last)
    return mean if mean == mean else float("inf")


def main() -> None:
    options = study.arguments(__doc__, updates=200)
    started = time.monotonic()
    figure, axes = study.new_axes(2)
    rows = []
    for axis, norm_position in zip(axes, ("post", "pre")):
        for index, (way, (_, _, rates)) in enumerate(WAYS.items()):
            runs = {rate: learn(norm_position, way, rate, options.updates, options.seed) for rate in rates}
            best = min(runs, key=lambda rate: final(runs[rate]))
            smooth = torch.tensor(runs[best]).unfold(0, min(10, options.updates), 1).mean(-1).tolist()
            axis.plot(smooth, label=way, **study.style(index, with_markers=False))
            others = ", ".join(f"{rate:g}: {final(runs[rate]):.2f}" for rate in rates)
            rows.append([f"{norm_position}-norm", way, f"{best:g}", f"{final(runs[best]):.2f}", others])
        axis.set(title=f"{norm_position}-norm", xlabel="updates", ylabel="training loss", ylim=(0, 4))
    axes[0].legend(frameon=False)
    tables = study.table(["norm", "training", "best rate", "final loss", "all rates"], rows)
    study.show("optimizers", tables, figure, options, started)


if __name__ == "__main__":
    main()
