"""Word alignments of outputs by Shift-Att (Chen et al. 2020, arXiv 2004.14837).

They come from the cross-attention of one middle layer of the decoder, at the step where a target word is the
decoder's input, not where it is predicted: only then does the decoder know the word.

    word_alignments(model, tokenizer, ["A dog runs."], ["Ein Hund rennt."])  # ["0-0 1-1 2-2 3-3"]
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch

from .scores import force

BATCH = 64  # pairs


def word_alignments(
    model: Any, tokenizer: Any, sources: Sequence[str], targets: Sequence[str], layer: int | None = None
) -> list[str]:
    """Aligns the words of pairs of texts with an encoder-decoder model.

    Args:
        layer: of the decoder, from 0; by default the middle one.

    Returns:
        for each pair, its links in Pharaoh format: `2-3` links word 2 of the source and word 3 of the target,
        both from 0. The words are those of `split_words`.

    Raises:
        ValueError: the numbers of texts differ.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources and {len(targets)} targets; pass as many of each")
    layer = middle_layer(model) if layer is None else layer
    start = model.generation_config.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    alignments = []
    for first in range(0, len(sources), BATCH):
        chosen = slice(first, first + BATCH)
        inputs = tokenizer(list(sources[chosen]), padding=True, return_tensors="pt").to(model.device)
        labels = tokenizer(text_target=list(targets[chosen]), padding=True, return_tensors="pt")["input_ids"]
        ids = torch.nn.functional.pad(labels.to(model.device), (1, 0), value=start)
        attention = force(model, inputs, ids, layers=[layer]).attention[layer]
        for row in range(len(ids)):
            links = linked_words(tokenizer, inputs["input_ids"][row], ids[row], attention[row])
            alignments.append(pharaoh(links))
    return alignments


def linked_words(
    tokenizer: Any, source: torch.Tensor, target: torch.Tensor, attention: torch.Tensor
) -> list[tuple[int, int]]:
    """The links between the words of two sequences of ids.

    Each piece of the target is linked to the piece of the source that it attends to most, and with them their
    words. Special tokens have no word.

    Args:
        attention: `(target, source)`, where the target's tokens are the input.
    """
    of_source, of_target = words_of_pieces(tokenizer, source), words_of_pieces(tokenizer, target)
    is_word = torch.tensor([bool(words) for words in of_source], device=attention.device)
    if not is_word.any():
        return []
    best = attention.masked_fill(~is_word, -1.0).argmax(-1).tolist()
    return sorted(
        {
            (from_word, to_word)
            for index, words in zip(best, of_target)
            for to_word in words
            for from_word in of_source[index]
        }
    )


def words_of_pieces(tokenizer: Any, ids: torch.Tensor) -> list[list[int]]:
    """For each token, the words of the decoded text that it has a part of, most often one."""
    numbers = ids.tolist()
    texts = [
        tokenizer.decode(numbers[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for count in range(len(numbers) + 1)
    ]
    owner = {
        place: word for word, span in enumerate(word_spans(texts[-1])) for place in range(*span)
    }  # of each character
    ranges = [range(len(before), len(after)) for before, after in zip(texts, texts[1:])]
    return [sorted({owner[place] for place in places if place in owner}) for places in ranges]


def split_words(text: str) -> list[str]:
    """The words of a text: what is between spaces, with punctuation at its ends as words of its own."""
    return [text[start:end] for start, end in word_spans(text)]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of `split_words` begin and end."""
    spans = []
    for found in re.finditer(r"\S+", text):
        start, end = first, last = found.span()
        while first < end and is_punctuation(text[first]):
            first += 1
        while last > first and is_punctuation(text[last - 1]):
            last -= 1
        spans += [(a, b) for a, b in ((start, first), (first, last), (last, end)) if a < b]
    return spans


def is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def pharaoh(links: list[tuple[int, int]]) -> str:
    return " ".join(f"{source}-{target}" for source, target in links)


def middle_layer(model: Any) -> int:
    """The layer of the decoder whose attention aligns words, from 0."""
    config = model.config
    layers = getattr(config, "decoder_layers", None) or config.num_decoder_layers  # T5 has the latter
    return (layers - 1) // 2


__all__ = ["split_words", "word_alignments"]
