"""Question 2: what does positional encoding do?

    python examples/questions/positions.py

Three encoder-decoders learn to write a word backwards: without positions, with learned positions, and with
the paper's sinusoids. Training shows words of 1 to 16 letters, the test also longer ones.
"""

import random
import time

import study
import torch
from torch import nn

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration

LETTERS = 26
PAD, START, END = 26, 27, 28
LONGEST_TRAINED, LENGTHS = 16, (2, 4, 8, 12, 16, 17, 18, 20, 24)
RATE = 2e-3


class NoPositions(nn.Module):
    """Stands where the model adds its positions, and adds none."""

    def forward(self, states: torch.Tensor, positions: torch.Tensor, end: int = 0) -> torch.Tensor:
        return states


def build(kind: str) -> VanillaTransformerForConditionalGeneration:
    config = VanillaTransformerConfig(
        vocab_size=29,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        encoder_layers=2,
        decoder_layers=2,
        dropout=0.0,
        norm_position="pre",
        position_embedding_type="learned" if kind == "learned" else "sinusoidal",
        max_position_embeddings=max(LENGTHS) + 2,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
    )
    model = VanillaTransformerForConditionalGeneration(config)
    if kind == "none":
        model.model.encoder.embed_positions = NoPositions()
        model.model.decoder.embed_positions = NoPositions()
    return model


def batch(length: int, count: int, generator: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Words and the same words backwards, each `(count, length + 1)` with the end token."""
    words = torch.tensor([[generator.randrange(LETTERS) for _ in range(length)] for _ in range(count)])
    ends = torch.full((count, 1), END)
    return torch.cat((words, ends), 1), torch.cat((words.flip(1), ends), 1)


@torch.no_grad()
def accuracy(model: VanillaTransformerForConditionalGeneration, length: int, seed: int) -> float:
    """The share of letters that are right when the model sees the right letters before."""
    words, labels = batch(length, 200, random.Random(seed + 1))
    return (model(words, labels=labels).logits.argmax(-1) == labels)[:, :-1].float().mean().item()


def main() -> None:
    options = study.arguments(__doc__, updates=1800)
    started = time.monotonic()
    figure, axes = study.new_axes()
    rows = []
    for index, kind in enumerate(("none", "learned", "sinusoidal")):
        torch.manual_seed(options.seed)
        generator = random.Random(options.seed)
        model = build(kind)

        def loss_of(
            update: int, model: nn.Module = model, generator: random.Random = generator
        ) -> torch.Tensor:
            words, labels = batch(generator.randint(1, LONGEST_TRAINED), 64, generator)
            return model(words, labels=labels).loss

        study.train(model, loss_of, options.updates, RATE)
        scores = [accuracy(model, length, options.seed) for length in LENGTHS]
        axes.plot(LENGTHS, scores, label=kind, **study.style(index))
        rows.append([kind, *[f"{score:.2f}" for score in scores]])
    axes.axvline(LONGEST_TRAINED, color="grey", linewidth=0.8)
    axes.annotate("longest word in training ", (LONGEST_TRAINED, 1.0), fontsize=8, ha="right", va="bottom")
    axes.set(xlabel="letters of the word", ylabel="right letters", ylim=(0, 1.08))
    axes.legend(title="positions", frameon=False, loc="lower left")
    tables = study.table(["positions", *[f"{length} letters" for length in LENGTHS]], rows)
    study.show("positions", tables, figure, options, started)


if __name__ == "__main__":
    main()
