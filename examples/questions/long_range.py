"""Question 1: how do attention and recurrence carry something over a long distance?

    python examples/questions/long_range.py

A Transformer decoder and an LSTM with as many parameters learn two tasks in the same number of updates:

copying     five letters, a gap, a question mark; then write the letters. The gap is the distance.
brackets    say of each closing bracket which of four kinds of bracket it closes. The distance is that to
            the opening bracket.
"""

import random
import time

import study
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForCausalLM

IGNORED = -100
LETTERS = 8  # ids 0 to 7
GAP, QUESTION = 8, 9
KINDS, CLOSE = 4, 4  # opening brackets have the ids 0 to 3
VOCABULARY = 10
GAPS = (10, 20, 40, 80, 160)
BRACKETS = 96  # in a sequence
RATES = {"Transformer": (1e-3, 3e-3), "LSTM": (3e-3, 1e-2)}


class LSTM(nn.Module):
    """An LSTM between embeddings and logits."""

    def __init__(self, width: int = 64, inner_width: int = 104):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.lstm = nn.LSTM(width, inner_width, batch_first=True)
        self.project = nn.Linear(inner_width, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.project(self.lstm(self.embed(ids))[0])


class Transformer(nn.Module):
    """The package's decoder, two layers."""

    def __init__(self) -> None:
        super().__init__()
        config = VanillaTransformerConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_attention_heads=4,
            encoder_layers=0,
            decoder_layers=2,
            dropout=0.0,
            norm_position="pre",
        )
        self.model = VanillaTransformerForCausalLM(config)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids, use_cache=False).logits


def copying(gap: int, count: int, generator: random.Random) -> tuple[torch.Tensor, torch.Tensor, None]:
    """Ids and labels `(count, 10 + gap)`: label i belongs to input i, and most are ignored."""
    letters = [generator.sample(range(LETTERS), 5) for _ in range(count)]
    ids = torch.tensor([[*word, *[GAP] * gap, QUESTION, *word[:4]] for word in letters])
    labels = torch.full_like(ids, IGNORED)
    labels[:, -5:] = torch.tensor(letters)
    return ids, labels, None


def brackets(count: int, generator: random.Random) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and distances to the opening bracket, each `(count, BRACKETS)`."""
    rows = []
    for _ in range(count):
        ids, labels, distances, stack = [], [], [], []
        for place in range(BRACKETS):
            left = BRACKETS - place
            opens = not stack or (len(stack) < left and generator.random() < 0.5)
            if opens:
                stack.append((place, generator.randrange(KINDS)))
                ids.append(stack[-1][1])
                labels.append(IGNORED)
                distances.append(0)
            else:
                start, kind = stack.pop()
                ids.append(CLOSE)
                labels.append(kind)
                distances.append(place - start)
        rows.append((ids, labels, distances))
    ids, labels, distances = (torch.tensor(column) for column in zip(*rows))
    return ids, labels, distances


def learn(kind: str, task: str, rate: float, updates: int, seed: int) -> tuple[nn.Module, float]:
    """A trained model, and its mean loss in the last tenth of the updates."""
    torch.manual_seed(seed)
    generator = random.Random(seed)
    model = Transformer() if kind == "Transformer" else LSTM()

    def loss_of(update: int) -> torch.Tensor:
        if task == "copying":
            ids, labels, _ = copying(generator.choice(GAPS), 32, generator)
        else:
            ids, labels, _ = brackets(32, generator)
        return cross_entropy(model(ids).flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    losses = study.train(model, loss_of, updates, rate)
    last = losses[-max(1, updates // 10) :]
    return model, sum(last) / len(last)


@torch.no_grad()
def accuracy(model: nn.Module, task: str, seed: int) -> dict[int, float]:
    """The share of right answers on new data, for each distance."""
    generator = random.Random(seed + 1)
    right: dict[int, list[bool]] = {}
    if task == "copying":
        for gap in GAPS:
            ids, labels, _ = copying(gap, 200, generator)
            asked = labels != IGNORED
            right[gap] = (model(ids).argmax(-1) == labels)[asked].tolist()
    else:
        ids, labels, distances = brackets(400, generator)
        asked = labels != IGNORED
        hits = (model(ids).argmax(-1) == labels)[asked].tolist()
        for distance, hit in zip(distances[asked].tolist(), hits):
            step = next(limit for limit in (1, 3, 7, 15, 31, BRACKETS) if distance <= limit)
            right.setdefault(step, []).append(hit)
    return {distance: sum(hits) / len(hits) for distance, hits in sorted(right.items())}


def main() -> None:
    options = study.arguments(__doc__, updates=500)
    started = time.monotonic()
    figure, axes = study.new_axes(2)
    tables = []
    for axis, task in zip(axes, ("copying", "brackets")):
        rows = []
        for index, kind in enumerate(RATES):
            trials = {rate: learn(kind, task, rate, options.updates, options.seed) for rate in RATES[kind]}
            best = min(trials, key=lambda rate: trials[rate][1])
            model = trials[best][0]
            scores = accuracy(model, task, options.seed)
            axis.plot(list(scores), list(scores.values()), label=kind, **study.style(index))
            cells = [f"{score:.2f}" for score in scores.values()]
            rows.append([kind, f"{study.parameters(model):,}", best, *cells])
        chance = 1 / LETTERS if task == "copying" else 1 / KINDS
        axis.axhline(chance, color="grey", linewidth=0.8)
        axis.annotate("guessing", (list(scores)[0], chance - 0.01), fontsize=8, va="top")
        axis.set(title=task, xlabel="distance in tokens", ylabel="right answers", ylim=(0, 1.05))
        axis.set_xscale("log")
        axis.set_xticks(list(scores), list(scores))
        axis.minorticks_off()
        axis.legend(loc="lower left", bbox_to_anchor=(0, 0.3), frameon=False)
        unit = "gap" if task == "copying" else "distance up to"
        header = [task, "parameters", "rate", *[f"{unit} {distance}" for distance in scores]]
        tables.append(study.table(header, rows))
    study.show("long_range", "\n\n".join(tables), figure, options, started)


if __name__ == "__main__":
    main()
