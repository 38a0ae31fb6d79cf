"""Word alignments of outputs by Shift-Att (Chen et al. 2020, arXiv 2004.14837).

They come from the cross-attention of one middle layer of the decoder, at the step where a target word is the
decoder's input, not where it is predicted: only then does the decoder know the word. Models differ in which
attention is best; `choose_attention` finds it.

    word_alignments(model, tokenizer, ["A dog runs."], ["Ein Hund rennt."])  # ["0-0 1-1 2-2 3-3"]
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .scores import force
from .terms import source_words

BATCH = 64  # pairs
MOST_PAIRS, LONGEST = 300, 128  # pairs and tokens that a choice needs; more change it rarely


def word_alignments(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    targets: Sequence[str],
    layer: int | None = None,
    shift: bool | None = None,
) -> list[str]:
    """Aligns the words of pairs of texts with an encoder-decoder model.

    Args:
        layer: of the decoder, from 0; by default what `choose_attention` chose, or the middle one.
        shift: take the attention where a word is the input; False takes it where the word is predicted. By
            default what `choose_attention` chose, or True.

    Returns:
        for each pair, its links in Pharaoh format: `2-3` links word 2 of the source and word 3 of the target,
        both from 0. The words are those of `split_words`.

    Raises:
        ValueError: the numbers of texts differ, or the decoder has no such layer.

    Example:
        >>> links = word_alignments(model, tokenizer, english, german)  # one list for each pair
    """
    chosen = alignment_attention(model)
    place = chosen[0] if layer is None else layer, chosen[1] if shift is None else shift
    return [pharaoh(links[place]) for links in links_of_pairs(model, tokenizer, sources, targets, [place])]


def choose_attention(
    model: Any, tokenizer: Any, sources: Sequence[str], targets: Sequence[str]
) -> tuple[int, bool]:
    """Chooses the layer whose attention aligns words best, and whether where a word is input or predicted.

    The middle layer at the input is best in the paper's base model, but not in every model. A wrong one links
    words that meet by chance; so the best is that with the largest share of links whose two words are linked
    elsewhere too. This needs no alignments made by hand, and a few hundred pairs. Targets should be those of
    people: a weak model repeats words, and so does its attention. At most 300 pairs of at most 128 tokens
    are used, evenly spaced. The choice is saved with the model, in its generation config.

    Returns:
        the layer from 0, and True for the input.

    Raises:
        ValueError: there are no pairs, or the numbers of texts differ.

    Example:
        >>> layer, at_input = choose_attention(model, tokenizer, english * 20, german * 20)
    """
    pairs = short_pairs(tokenizer, sources, targets)
    places = [(layer, shift) for layer in range(number_of_layers(model)) for shift in (True, False)]
    linked: dict[tuple[int, bool], Counter] = {place: Counter() for place in places}
    sources, targets = zip(*pairs)
    found = links_of_pairs(model, tokenizer, sources, targets, places)
    for (source, target), of_pair in zip(pairs, found):
        first, second = (split_words(text.casefold()) for text in (source, target))
        for place, links in of_pair.items():
            linked[place].update(
                (first[i], second[j]) for i, j in links if i < len(first) and j < len(second)
            )

    def share(place: tuple[int, bool]) -> float:
        counts = linked[place]
        return sum(count for count in counts.values() if count > 1) / max(1, counts.total())

    best = max(places, key=share)
    settings = model.generation_config
    settings.alignment_layer, settings.alignment_shift = best
    settings._from_model_config = False  # otherwise transformers loads only what it knows
    return best


def short_pairs(tokenizer: Any, sources: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str]]:
    """At most `MOST_PAIRS` pairs at even distances, without those of more than `LONGEST` tokens.

    Raises:
        ValueError: none is left, or the numbers of texts differ.
    """
    check_as_many(sources, targets)
    pairs = [*zip(sources, targets)][:: -(-len(sources) // MOST_PAIRS) or 1]
    short = [
        (source, target)
        for source, target in pairs
        if max(len(tokenizer(source)["input_ids"]), len(tokenizer(text_target=target)["input_ids"]))
        <= LONGEST
    ]
    if not short:
        raise ValueError(f"there are no pairs of at most {LONGEST} tokens to choose the attention with")
    return short


def check_as_many(sources: Sequence[str], targets: Sequence[str]) -> None:
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources and {len(targets)} targets; pass as many of each")


def links_of_pairs(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    targets: Sequence[str],
    places: Sequence[tuple[int, bool]],
) -> Iterator[dict[tuple[int, bool], list[tuple[int, int]]]]:
    """Yields the links of each pair, by layer and shift."""
    check_as_many(sources, targets)
    start = model.generation_config.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    layers = sorted({layer for layer, _ in places})
    count = number_of_layers(model)
    if missing := [layer for layer in layers if not 0 <= layer < count]:
        raise ValueError(f"layer={missing[0]} does not exist: use 0 to {count - 1}")
    for first in range(0, len(sources), BATCH):
        chosen = slice(first, first + BATCH)
        inputs = tokenizer(list(sources[chosen]), padding=True, return_tensors="pt").to(model.device)
        labels = tokenizer(text_target=list(targets[chosen]), padding=True, return_tensors="pt")["input_ids"]
        ids = torch.nn.functional.pad(labels.to(model.device), (1, 0), value=start)
        was_training = model.training
        model.eval()  # without dropout
        try:
            attention = force(model, inputs, ids, layers=layers).attention
        finally:
            model.train(was_training)
        with source_words(tokenizer) as options:
            of_sources = [words_of_pieces(tokenizer, source, **options) for source in inputs["input_ids"]]
        for row, (source, target) in enumerate(zip(of_sources, ids)):
            pieces = source, words_of_pieces(tokenizer, target)
            yield {
                (layer, shift): linked_words(*pieces, attention[layer][row], shift) for layer, shift in places
            }


def linked_words(
    source: list[list[int]], target: list[list[int]], attention: torch.Tensor, shift: bool
) -> list[tuple[int, int]]:
    """The links between the words of two texts.

    Each piece of the target is linked to the piece of the source that it attends to most, and with them their
    words. Special tokens have no word.

    Args:
        source, target: the words of each piece, from `words_of_pieces`.
        attention: `(target, source)`, where the target's tokens are the input.
    """
    is_word = torch.tensor([bool(words) for words in source], device=attention.device)
    if not is_word.any():
        return []
    best = attention.masked_fill(~is_word, -1.0).argmax(-1).tolist()
    before = 0 if shift else 1
    return sorted(
        {
            (from_word, to_word)
            for place, words in enumerate(target)
            for to_word in words
            for from_word in source[best[place - before]]
        }
    )


def words_of_pieces(tokenizer: Any, ids: torch.Tensor, **options: Any) -> list[list[int]]:
    """For each token, the words of the decoded text that it has a part of, most often one."""
    numbers = ids.tolist()
    options |= {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    texts = [tokenizer.decode(numbers[:count], **options) for count in range(len(numbers) + 1)]
    owner = {
        place: word for word, span in enumerate(word_spans(texts[-1])) for place in range(*span)
    }  # of each character
    ranges = [range(len(before), len(after)) for before, after in zip(texts, texts[1:])]
    return [sorted({owner[place] for place in places if place in owner}) for places in ranges]


def split_words(text: str) -> list[str]:
    """The words of a text: what is between spaces, with punctuation at its ends as words of its own.

    Example:
        >>> split_words("A dog, running.")
        ['A', 'dog', ',', 'running', '.']
    """
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


def number_of_layers(model: Any) -> int:
    config = model.config
    return getattr(config, "decoder_layers", None) or config.num_decoder_layers  # T5 has the latter


def alignment_attention(model: Any) -> tuple[int, bool]:
    """The layer of the decoder and the shift that align words: chosen, or the paper's."""
    settings = model.generation_config
    layer, shift = (getattr(settings, f"alignment_{name}", None) for name in ("layer", "shift"))
    middle = (number_of_layers(model) - 1) // 2
    return (middle if layer is None else layer), shift is not False


__all__ = ["choose_attention", "split_words", "word_alignments"]
