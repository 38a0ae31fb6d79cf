"""Question 3: what is the difference between encoder and decoder layers?

    python examples/questions/encoder_decoder.py

The same model learns to translate numbers in words to digits, whole and with one part removed:

no causal mask        the decoder sees the digits that it shall predict
no cross-attention    the decoder does not see the source
causal encoder        a source word sees only the words before it
"""

import random
import time

import study
import torch
from numbers_in_words import END, PAD, START, WORDS, batch, draw, in_words, translator
from torch import nn

from vanilla_transformer import VanillaTransformerForConditionalGeneration

RATE = 2e-3
VARIANTS = ("whole", "no causal mask", "no cross-attention", "causal encoder")
EXAMPLE = 42_005


def build(variant: str) -> VanillaTransformerForConditionalGeneration:
    model = translator(layers=2, norm_position="pre")
    encoder, decoder = model.model.encoder, model.model.decoder
    if variant == "no causal mask":
        decoder.is_causal = False
        for layer in decoder.layers:
            layer.self_attn.is_causal = False
    if variant == "no cross-attention":
        for layer in decoder.layers:
            layer.has_cross_attention = False
    if variant == "causal encoder":
        for layer in encoder.layers:
            layer.self_attn.register_forward_pre_hook(see_the_past_only, with_kwargs=True)
    return model


def see_the_past_only(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Before a self-attention of the encoder: hide the later positions too."""
    length, mask = args[0].shape[1], kwargs["attention_mask"]
    past = torch.ones(length, length, dtype=torch.bool).tril()
    return args, {**kwargs, "attention_mask": past[None, None] if mask is None else mask & past}


@torch.no_grad()
def translate(model: VanillaTransformerForConditionalGeneration, numbers: list[int]) -> list[str]:
    """Greedy decoding in its plainest form: run the whole decoder over all that is written, at each step."""
    sources, _ = batch(numbers)
    written = torch.full((len(numbers), 1), START)
    for _ in range(8):
        logits = model(
            sources, attention_mask=(sources != PAD).long(), decoder_input_ids=written, use_cache=False
        ).logits
        written = torch.cat((written, logits[:, -1:].argmax(-1)), 1)
    texts = []
    for row in written[:, 1:].tolist():
        row = row[: row.index(END)] if END in row else row
        texts.append("".join(WORDS[token] for token in row))
    return texts


def main() -> None:
    options = study.arguments(__doc__, updates=1200)
    started = time.monotonic()
    figure, axes = study.new_axes()
    rows = []
    test = draw(300, random.Random(options.seed + 1), held_out=True)
    for index, variant in enumerate(VARIANTS):
        torch.manual_seed(options.seed)
        generator = random.Random(options.seed)
        model = build(variant)

        def loss_of(
            update: int,
            model: VanillaTransformerForConditionalGeneration = model,
            generator: random.Random = generator,
        ) -> torch.Tensor:
            sources, labels = batch(draw(64, generator))
            return model(sources, attention_mask=(sources != PAD).long(), labels=labels).loss

        losses = study.train(model, loss_of, options.updates, RATE)
        right = sum(text == str(number) for text, number in zip(translate(model, test), test)) / len(test)
        smooth = torch.tensor(losses).unfold(0, min(20, len(losses)), 1).mean(-1).tolist()
        axes.plot(
            smooth, label=f"{variant}: {100 * right:.0f}% right", **study.style(index, with_markers=False)
        )
        last = losses[-max(1, len(losses) // 10) :]
        rows.append(
            [variant, f"{sum(last) / len(last):.3f}", f"{100 * right:.0f}%", translate(model, [EXAMPLE])[0]]
        )
    axes.set(xlabel="updates", ylabel="training loss", ylim=(0, None))
    axes.legend(frameon=False)
    example = " ".join(in_words(EXAMPLE))
    tables = study.table(["model", "training loss", "right translations", f'of "{example}"'], rows)
    study.show("encoder_decoder", tables, figure, options, started)


if __name__ == "__main__":
    main()
