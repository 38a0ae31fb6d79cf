"""A tiny translation task: numbers in words to digits, "forty two thousand and five" to 4 2 0 0 5."""

import random

import torch

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration

ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
WORDS = ["<pad>", "<s>", "</s>", *"0123456789", *ONES, *TENS, "hundred", "thousand", "and"]
IDS = {word: index for index, word in enumerate(WORDS)}
PAD, START, END = 0, 1, 2
IGNORED = -100


def in_words(number: int) -> list[str]:
    """The English words of a number below a million."""
    if number >= 1000:
        rest = number % 1000
        joint = ["and"] if 0 < rest < 100 else []
        return [*in_words(number // 1000), "thousand", *joint, *(in_words(rest) if rest else [])]
    if number >= 100:
        rest = number % 100
        return [ONES[number // 100], "hundred", *(["and", *in_words(rest)] if rest else [])]
    if number >= 20:
        return [TENS[number // 10 - 2], *([ONES[number % 10]] if number % 10 else [])]
    return [ONES[number]]


def is_held_out(number: int) -> bool:
    """Every eleventh number from 1,000 on is for the test, and training never shows it."""
    return number >= 1000 and number % 11 == 0


def draw(count: int, generator: random.Random, held_out: bool = False) -> list[int]:
    """Numbers of one to six digits, all lengths alike."""
    numbers: list[int] = []
    while len(numbers) < count:
        number = generator.randrange(10 ** generator.randint(1, 6))
        if is_held_out(number) == held_out:
            numbers.append(number)
    return numbers


def batch(numbers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Source ids with padding, and labels with -100 for it, each `(count, longest)`."""
    sources = [[*(IDS[word] for word in in_words(number)), END] for number in numbers]
    targets = [[*(IDS[digit] for digit in str(number)), END] for number in numbers]
    return padded(sources, PAD), padded(targets, IGNORED)


def padded(rows: list[list[int]], padding: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [padding] * (longest - len(row)) for row in rows])


def translator(layers: int, norm_position: str) -> VanillaTransformerForConditionalGeneration:
    """A new, narrow model with this number of layers in each stack."""
    config = VanillaTransformerConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        encoder_layers=layers,
        decoder_layers=layers,
        dropout=0.0,
        norm_position=norm_position,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
    )
    return VanillaTransformerForConditionalGeneration(config)
