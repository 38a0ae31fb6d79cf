"""Terms that an output must contain, and words that it must not contain.

Forced terms use the dynamic beam allocation of Post and Vilar 2018 (arXiv 1804.06609): the hypotheses of a
sentence are split into banks by the number of term tokens that they have, and each bank gets its share of the
beam. A hypothesis ends when it has all terms.

    terms = find_terms(tokenizer, texts, {"bank": "Ufer"})
    model.generate(**tokenizer(texts, padding=True, return_tensors="pt"), terms=terms)
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from transformers import LogitsProcessor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .beam_search import IMPOSSIBLE, gather_rows

IMPROBABLE = -1e4  # at least the log-probability of a term's token where no other token is allowed

# A letter or digit of a script that writes spaces between words: not Thai, Lao, Burmese, Khmer, kana, Chinese
# characters or Hangul, whose words have particles.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
LETTER = f"[^\\W_{UNSPACED}]"
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
ESCAPED_BYTE = re.compile("<0x([0-9A-F]{2})>")  # SentencePiece's token for a byte
PUNCTUATION = b"!\"'(),-.:;?[]"


class UnmetTerms(ValueError):
    """No output can have the terms of a text."""


class Terms(NamedTuple):
    """What `generate(terms=...)` takes.

    Attributes:
        phrases: for each sentence, the ids of each term.
        continuations: which tokens continue the word before them, `(vocabulary,)`; they may not follow a term
            that is complete for the first time. None to allow "Ufern" for the term "Ufer".
    """

    phrases: list[list[list[int]]]
    continuations: torch.Tensor | None = None


def find_terms(
    tokenizer: Any, texts: Sequence[str], terms: Mapping[str, str] | Sequence[Mapping[str, str]]
) -> Terms:
    """The terms that these texts call for.

    Args:
        terms: words or phrases of the source language and how to translate them, `{"bank": "Ufer"}`; one dict
            for all texts, or one for each. A term applies if its source is in the text, as a whole word and
            in any case. The output will have the translation as it is given here.

    Raises:
        ValueError: the tokenizer cannot write a term, or the number of dicts is not that of the texts.

    Example:
        >>> terms = find_terms(tokenizer, english, {"dog": "Hund"})
        >>> output = model.generate(**source, terms=terms, num_beams=4)
    """
    of_texts = [terms] * len(texts) if isinstance(terms, Mapping) else list(terms)
    if len(of_texts) != len(texts):
        raise ValueError(f"terms has {len(of_texts)} dicts for {len(texts)} texts; pass one for each text")
    phrases = []
    for text, of_text in zip(texts, of_texts):
        found = [target for source, target in of_text.items() if is_in(source, text)]
        phrases.append([term_ids(tokenizer, target) for target in dict.fromkeys(found)])
    return Terms(phrases, continuations(tokenizer) if any(phrases) else None)


def is_in(term: str, text: str) -> bool:
    """Whether a text has this word or phrase, in any case."""
    before = f"(?<!{LETTER})" if re.match(LETTER, term) else ""
    after = f"(?!{LETTER})" if re.match(LETTER, term[::-1]) else ""
    return bool(term) and re.search(before + re.escape(term) + after, text, re.IGNORECASE) is not None


def term_ids(tokenizer: Any, term: str) -> list[int]:
    """The ids of a term within an output."""

    def encode(text: str) -> list[int]:
        return tokenizer(text_target=text, add_special_tokens=False, verbose=False)["input_ids"]

    ids, first = encode(term), encode(",")
    if not re.match(LETTER, term) and (later := encode("," + term))[: len(first)] == first:
        ids = later[len(first) :]  # without the space that begins a word
    written = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if not term.strip() or written.strip().casefold() != term.strip().casefold():
        raise ValueError(f"the tokenizer cannot write the term {term!r}, which becomes {written!r}")
    return list(ids)


# Of each tokenizer: what its tokens add to a text, and which of them continue a word.
KNOWN: WeakKeyDictionary[Any, tuple[list[bytes], torch.Tensor]] = WeakKeyDictionary()


def token_bytes(tokenizer: Any) -> list[bytes]:
    """What each token adds to a text, with the space before or behind a word; nothing for special tokens."""
    return known_tokens(tokenizer)[0]


def continuations(tokenizer: Any) -> torch.Tensor:
    """Which tokens continue the word before them, `(vocabulary,)`."""
    return known_tokens(tokenizer)[1]


def known_tokens(tokenizer: Any) -> tuple[list[bytes], torch.Tensor]:
    known, size = KNOWN.get(tokenizer), number_of_tokens(tokenizer)
    if known is None or len(known[0]) != size:
        names = [str(name) for name in tokenizer.convert_ids_to_tokens(range(size))]
        special = set(tokenizer.all_special_ids)
        usual = [name for index, name in enumerate(names) if index not in special]
        texts = pieces_as_bytes(names, usual)
        texts = [b"" if index in special else text for index, text in enumerate(texts)]
        # A part of a character counts as a letter.
        starts = (text.decode(errors="replace")[:1] for text in texts)
        continuing = torch.tensor([bool(re.match(f"{LETTER}|\ufffd", start)) for start in starts])
        known = KNOWN[tokenizer] = texts, continuing
    return known


def number_of_tokens(tokenizer: Any) -> int:
    """The tokens of an output. With two vocabularies, `len` counts those of the source."""
    words = getattr(tokenizer, "decoder", None)  # of Marian and FSMT: ids to words of the target
    if isinstance(words, dict) and len(words) != tokenizer.vocab_size:
        return max(words) + 1
    return len(tokenizer)


def pieces_as_bytes(names: list[str], usual: list[str]) -> list[bytes]:
    """The pieces of byte-level BPE, SentencePiece, BPE with marks, WordPiece, or whole words as bytes."""
    if any(name.startswith("Ġ") for name in usual):  # byte-level BPE
        return [bytes(BYTES[c] for c in name) if BYTES.keys() >= set(name) else b"" for name in names]
    if any("▁" in name for name in usual):  # SentencePiece
        return [
            bytes([int(byte[1], 16)])
            if (byte := ESCAPED_BYTE.fullmatch(name))
            else name.replace("▁", " ").encode()
            for name in names
        ]
    if any(name.endswith("</w>") for name in usual):
        return [name.replace("</w>", " ").encode() for name in names]
    if any(name.endswith("@@") for name in usual):
        return [(name[:-2] if name.endswith("@@") else name + " ").encode() for name in names]
    return [(name[2:] if name.startswith("##") else " " + name).encode() for name in names]


class ForcedTerms:
    """Follows how many terms each hypothesis of a `BeamSearch` has, and shares out the beam.

    Args:
        terms: of each sentence of the batch.
        prompts: `(sentences, width, length)`.
        limits: the largest number of tokens after the prompt, `(sentences,)`.
        end: ids of the end tokens.

    Raises:
        UnmetTerms: a sentence's terms need more tokens than its limit allows.
    """

    def __init__(self, terms: Terms, prompts: torch.Tensor, limits: torch.Tensor, end: torch.Tensor | None):
        phrases, device = terms.phrases, prompts.device
        if len(phrases) != len(prompts):
            raise ValueError(f"terms has {len(phrases)} lists of phrases for {len(prompts)} sentences")
        for index, (of_sentence, limit) in enumerate(zip(phrases, limits.tolist())):
            needed = sum(map(len, of_sentence)) + (end is not None)
            if needed > limit:
                whose = f"sentence {index}" if len(phrases) > 1 else "the text"
                raise UnmetTerms(
                    f"the terms of {whose} need {needed} tokens with the end token, but its output "
                    f"may have {limit}; raise max_new_tokens or max_extra_tokens"
                )
        most = max(map(len, phrases))
        self.longest = max(len(phrase) for of_sentence in phrases for phrase in of_sentence)
        self.phrases = prompts.new_full((len(phrases), most, self.longest), -1)  # -1: no token
        for index, of_sentence in enumerate(phrases):
            for place, phrase in enumerate(of_sentence):
                self.phrases[index, place, : len(phrase)] = torch.tensor(phrase, device=device)
        self.lengths = (self.phrases >= 0).sum(-1)  # (sentences, terms); 0 where a sentence has fewer terms
        self.end = prompts.new_empty(0) if end is None else end
        self.continuations = None if terms.continuations is None else terms.continuations.to(device)
        self.progress = self._progress(prompts)  # (sentences, width, terms)
        self.met = self.progress == self.lengths[:, None]  # the same shape
        self.new = torch.zeros(prompts.shape[:2], dtype=torch.bool, device=device)  # met with the last token

    def _progress(self, tokens: torch.Tensor) -> torch.Tensor:
        """How many first tokens of each term are the last of each hypothesis, `(sentences, any, terms)`."""
        progress = self.lengths.new_zeros(*tokens.shape[:2], self.lengths.shape[1])
        for count in range(1, min(self.longest, tokens.shape[-1]) + 1):
            last = tokens[..., None, -count:] == self.phrases[:, None, :, :count]
            progress = progress.masked_fill(last.all(-1), count)
        return progress

    def restrict(self, log_probs: torch.Tensor, tokens: torch.Tensor, room: torch.Tensor) -> None:
        """Forbids longer words than a term, in `log_probs` itself, and finds the next token of each term.

        Args:
            log_probs: `(sentences * width, vocabulary)`.
            tokens: the hypotheses, `(sentences, width, length)`.
            room: how many tokens they may still get, `(sentences,)`.
        """
        self.progress, unmet = self._progress(tokens), ~self.met
        following = self.phrases[:, None].expand(-1, tokens.shape[1], -1, -1)
        index = self.progress.clamp(max=self.longest - 1)[..., None]
        self.next = following.gather(-1, index)[..., 0].clamp(min=0)  # a token of each term
        self.room = room[:, None] - 1 - min(1, len(self.end))  # after the next token and the end token
        # Here a token of a term may be needed now, whatever processors did with it.
        self.hurried = (self.lengths[:, None] * unmet).sum(-1) > self.room  # (sentences, width)
        if self.continuations is not None and self.new.any():
            size = min(len(self.continuations), log_probs.shape[1])
            hidden = self.new.flatten()[:, None] & self.continuations[:size]
            log_probs[:, :size] = log_probs[:, :size].masked_fill(hidden, IMPOSSIBLE)

    def with_next(
        self, log_probs: torch.Tensor, gains: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the next token of every missing term to the best tokens of a hypothesis, `(rows, any)`."""
        ids, unmet = self.next.flatten(0, 1), ~self.met.flatten(0, 1)  # (rows, terms)
        known = ((ids[..., None] == tokens[:, None]) & (gains > IMPOSSIBLE)[:, None]).any(-1)
        same = (ids[..., None] == ids[:, None]) & unmet[:, None]
        known |= same.tril(-1).any(-1)
        values = log_probs.gather(1, ids)
        values = values.clamp(min=IMPROBABLE).where(self.hurried.flatten()[:, None], values)
        values = values.masked_fill(known | ~unmet, IMPOSSIBLE)
        return torch.cat([gains, values], dim=1), torch.cat([tokens, ids], dim=1)

    def judge(
        self, tokens: torch.Tensor, parents: torch.Tensor, next_tokens: torch.Tensor, most: int
    ) -> torch.Tensor:
        """Which candidates may finish: the `most` best that have all terms, `(sentences, candidates)`."""
        tail = gather_rows(tokens[..., max(0, tokens.shape[-1] - self.longest + 1) :], parents)
        progress = self._progress(torch.cat([tail, next_tokens[..., None]], dim=-1))
        before = gather_rows(self.met, parents)
        self.met = before | (progress == self.lengths[:, None])
        self.new = (self.met & ~before).any(-1)
        self.bank = (self.lengths[:, None] * self.met).sum(-1) + (progress * ~self.met).amax(-1)
        self.lost = self.lengths.sum(1, keepdim=True) - self.bank > self.room  # no room for all terms
        complete = self.met.all(-1)
        return complete & (complete.cumsum(1) <= most)

    def share_out(self, scores: torch.Tensor, beams: int) -> torch.Tensor:
        """Returns the scores `(sentences, candidates)`, best first, of those that get a place in the beam.

        A bank gets an equal share; what it cannot fill, and the remainder, go to the highest banks.
        """
        top = self.lengths.sum(1, keepdim=True)  # the bank with all terms
        banks = torch.arange(int(top.max()) + 1, device=scores.device)
        members = (self.bank[..., None] == banks) & ((scores > IMPOSSIBLE) & ~self.lost)[..., None]
        count = members.sum(1)  # (sentences, banks)
        places = (beams // (top + 1) * (banks <= top)).minimum(count)
        unfilled = count - places
        of_higher = unfilled.flip(1).cumsum(1).flip(1) - unfilled
        spare = beams - places.sum(1, keepdim=True)
        places = places + (spare - of_higher).clamp(min=0).minimum(unfilled)
        chosen = (members & (members.cumsum(1) <= places[:, None])).any(-1)
        return scores.masked_fill(~chosen, IMPOSSIBLE)

    def keep(self, kept: torch.Tensor) -> None:
        """Goes on with these candidates, `(sentences, width)`."""
        self.met, self.new = gather_rows(self.met, kept), self.new.gather(1, kept)

    def keep_sentences(self, active: torch.Tensor) -> None:
        self.phrases, self.lengths = self.phrases[active], self.lengths[active]
        self.met, self.new = self.met[active], self.new[active]


class ForbiddenTerms(LogitsProcessor):
    """Forbids words and phrases in an output, however the tokenizer may split them.

    It forbids the token that would complete one as a whole word. A longer word that begins with it is so
    forbidden too, if its pieces are split there. Letters have the case that is given.

    Example:
        >>> output = model.generate(**source, logits_processor=[ForbiddenTerms(tokenizer, ["bank"])])
    """

    def __init__(self, tokenizer: Any, terms: Iterable[str]):
        if isinstance(terms, str):
            raise ValueError(f"forbid={terms!r} must be a list: [{terms!r}]")
        self.texts = token_bytes(tokenizer)
        # What completes a term: the text before, a token, and whether the word begins within this token.
        self.last: list[tuple[bytes, int, bool]] = []
        self.window = 8  # tokens that can hold a term; some may be special
        for term in terms:
            if not term.strip():
                raise ValueError("forbid has an empty term")
            ids = tokenizer(text_target=term, add_special_tokens=False, verbose=False)["input_ids"]
            text = tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip().encode()
            self.window = max(self.window, len(text) + 8)
            for token, added in enumerate(self.texts):
                core = added.rstrip(PUNCTUATION + b" ") or added
                if core and (text.endswith(core) or core.endswith(text)):
                    begins = len(core) > len(text)
                    if not begins or is_boundary(core[: -len(text)]):
                        self.last.append((text[: max(0, len(text) - len(core))], token, begins))

    def of_rows(self, rows: torch.Tensor) -> "ForbiddenTerms":
        return self

    def check(self, tokenizer: Any, terms: Terms) -> None:
        """Raises UnmetTerms if a term is forbidden, or has a forbidden word."""
        for phrase in (phrase for of_sentence in terms.phrases for phrase in of_sentence):
            before = [b"".join(self.texts[id] for id in phrase[:place]) for place in range(len(phrase))]
            if any(token in self._completing(text) for text, token in zip(before, phrase)):
                term = tokenizer.decode(phrase, clean_up_tokenization_spaces=False).strip()
                raise UnmetTerms(f"the term {term!r} is forbidden too: remove it from terms or from forbid")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        blocked = [
            (row, token)
            for row, ids in enumerate(input_ids[:, -self.window :].tolist())
            for token in self._completing(b"".join(self.texts[id] for id in ids))
        ]
        if not blocked:
            return scores
        index = torch.tensor(blocked, device=scores.device).T
        return scores.index_put((index[0], index[1]), scores.new_tensor(IMPOSSIBLE))

    def _completing(self, text: bytes) -> Iterable[int]:
        for start, token, begins in self.last:
            if begins or (text.endswith(start) and is_boundary(text[: len(text) - len(start)])):
                yield token


def is_boundary(text: bytes) -> bool:
    """Whether a word can begin behind this text."""
    return not re.match(LETTER, text.decode(errors="replace")[-1:])


@contextmanager
def source_words(tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Within it, `decode` with the options that it yields gives the words of the source.

    Tokenizers with two vocabularies, as of Marian and FSMT, take all ids for those of the target.
    """
    words = getattr(tokenizer, "decoder", None)
    if not isinstance(words, dict):
        yield {}
        return
    tokenizer.decoder = {id: word for word, id in tokenizer.get_vocab().items()}
    try:
        yield {"use_source_tokenizer": True} if hasattr(tokenizer, "separate_vocabs") else {}
    finally:
        tokenizer.decoder = words


__all__ = ["ForbiddenTerms", "Terms", "UnmetTerms", "find_terms"]
