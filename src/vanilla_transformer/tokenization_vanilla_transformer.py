"""A shared byte-level BPE tokenizer: one vocabulary for source and target (section 5.1 of the paper).

BPE (Sennrich et al. 2016) merges UTF-8 bytes, as in GPT-2. A rare word becomes smaller pieces, in the end
bytes, so there is no unknown token. The alternative is BPE of characters with 256 byte tokens as a fallback.
It needs a threshold for rare characters, and its usual form, which writes the space as a character, cannot
decode a text with that character.

The tokenizer first splits a text into words (with inner apostrophes), single digits, runs of punctuation and
runs of white space, so "dog." and "dog" share a piece. A word includes the space before it. Encoding adds a
space before the text, so its first word is the same piece as later ones, and decoding removes this space.

Decoding is exact: `decode(encode(text), skip_special_tokens=True) == text` for every text that UTF-8 can
encode, unless the tokenizer lower-cases. The name of a special token in a text is therefore text: `<pad>`
becomes "<", "pad", ">". To type `<2es>` as the tag, pass `split_special_tokens=False`. The mask token is the
exception: a masked model needs it in a text. `split_special_tokens=True` makes it text too.

Half of a surrogate pair, which no UTF-8 text has, becomes U+FFFD.
"""

import functools
import itertools
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from tokenizers import (
    AddedToken,
    Encoding,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import BatchEncoding, PreTrainedTokenizerBase, TextStreamer, TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy
from transformers.utils import logging

logger = logging.get_logger(__name__)

SPECIAL_TOKENS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}  # ids 0, 1, 2

WORD = r" ?[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*"
DIGIT = r" ?\p{N}"
PUNCTUATION = r" ?[^\s\p{L}\p{M}\p{N}]+"
WHITE_SPACE = r"\s+(?!\S)|\s+"  # the last space of a run belongs to the word after it

# A special token is never a piece of text: it mixes punctuation with letters, and no piece does.
LANGUAGE_TAG = re.compile(r"<2([A-Za-z][\w-]*)>")
UNCUT, UNPADDED = TruncationStrategy.DO_NOT_TRUNCATE, PaddingStrategy.DO_NOT_PAD
SURROGATE = re.compile("[\ud800-\udfff]")
SPACE = "Ġ"  # the space in the pieces of byte-level BPE
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
PRIVATE = 0xF0000  # the first of 131,000 characters without a meaning


class VanillaTransformerTokenizer(TokenizersBackend):
    """Byte-level BPE that ends every sequence with `</s>`, with language tags for multilingual models.

    `train` makes a tokenizer, `from_pretrained` loads one. Set the target language once
    (`tokenizer.target_language = "es"`) or per call (`tokenizer(texts, target_language="es")`): every source
    then begins with the tag `<2es>` (Johnson et al. 2017). Targets have no tag.

    >>> tokenizer = VanillaTransformerTokenizer.train([english, german], vocab_size=300, show_progress=False)
    >>> batch = tokenizer(english, text_target=german)  # input_ids, attention_mask, labels
    """

    removes_first_space = True  # decoding removes the space that encoding adds
    _target_mode = False
    _tokenizer: Tokenizer

    @classmethod
    def train(
        cls,
        columns: Iterable[Iterable[str]],
        vocab_size: int = 37000,
        language_tags: Sequence[str] = (),
        lowercase: bool = False,
        min_frequency: int = 2,
        show_progress: bool = True,
    ) -> "VanillaTransformerTokenizer":
        """Learn a joint vocabulary from any number of text columns: lists, `datasets` columns, generators.

        Args:
            vocab_size: 3 special tokens, the language tags, 256 bytes and the merges, in this order of ids.
                If the text has too few pairs to merge, the vocabulary is smaller, with a warning.
            language_tags: codes such as `"es"` or `"pt-BR"`; each becomes a token such as `<2es>`.
            lowercase: lower-case all text. Decoding then returns lower-cased text.
            min_frequency: merge only pairs that occur at least this often.

        Raises:
            ValueError: `vocab_size` is too small, a language tag is not a code, or all columns are empty.
            TypeError: a column holds something that is not text.
        """
        if isinstance(language_tags, str):
            raise ValueError(f"language_tags={language_tags!r} must be a list of codes: [{language_tags!r}]")
        tags = [f"<2{code}>" for code in dict.fromkeys(language_tags)]
        if wrong := [tag for tag in tags if not LANGUAGE_TAG.fullmatch(tag)]:
            raise ValueError(f"language_tags has {wrong[0][2:-1]!r}; use codes such as 'es' or 'pt-BR'")
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        fixed = len(SPECIAL_TOKENS) + len(tags) + len(alphabet)
        if vocab_size < fixed:
            raise ValueError(
                f"vocab_size={vocab_size} must be at least {fixed}: {len(SPECIAL_TOKENS)} special tokens, "
                f"{len(tags)} language tags and {len(alphabet)} bytes, and one more for each merge"
            )

        backend = Tokenizer(BPE())
        prefix = normalizers.Prepend(" ")
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), prefix]) if lowercase else prefix
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex("|".join([WORD, DIGIT, PUNCTUATION, WHITE_SPACE])), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = _decoder()
        special_tokens = [*SPECIAL_TOKENS.values(), *tags]
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[AddedToken(token, normalized=False, special=True) for token in special_tokens],
            initial_alphabet=sorted(alphabet),
            show_progress=show_progress,
        )
        backend.train_from_iterator(_texts(columns), trainer)
        if (size := backend.get_vocab_size()) < vocab_size:
            warnings.warn(
                f"the vocabulary has {size} tokens instead of {vocab_size}: no other pair of pieces occurs "
                f"{min_frequency} times in the text",
                stacklevel=2,
            )
        return cls(
            tokenizer_object=backend,
            **SPECIAL_TOKENS,
            extra_special_tokens=tags,
            add_bos_token=False,
            add_eos_token=True,
            split_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )

    @property
    def languages(self) -> list[str]:
        """The target languages that have a tag in the vocabulary."""
        tokens = map(str, self.added_tokens_decoder.values())
        return [tag[1] for token in tokens if (tag := LANGUAGE_TAG.fullmatch(token))]

    @property
    def target_language(self) -> str | None:
        """The language of the tag before each source, or None. It is saved with the tokenizer."""
        return self.init_kwargs.get("target_language")

    @target_language.setter
    def target_language(self, language: str | None) -> None:
        self._tag(language)  # raises for an unknown language before anything changes
        self.init_kwargs.pop("target_language", None)
        if language is not None:
            self.init_kwargs["target_language"] = language
        self.update_post_processor()

    def extend(
        self, columns: Iterable[Iterable[str]], new_tokens: int = 1000, min_frequency: int = 2
    ) -> dict[int, list[int]]:
        """Learns more merges, and returns the ids of the old pieces of each new token.

        A text without new tokens is encoded as before. `vanilla_transformer.interop.extend_vocabulary` also
        grows the model.
        """
        vocab, merges = map(json.loads(self._tokenizer.to_str())["model"].get, ("vocab", "merges"))
        pieces = sorted(vocab, key=vocab.get)
        characters = {vocab[piece]: chr(PRIVATE + index) for index, piece in enumerate(pieces)}

        def texts() -> Iterator[str]:  # one character for each piece, and spaces between words
            for text in _texts(columns):
                encoding: Any = self(text, add_special_tokens=False, verbose=False)[0]
                for _, word in itertools.groupby(zip(encoding.word_ids, encoding.ids), lambda pair: pair[0]):
                    yield "".join(characters.get(id, " ") for _, id in word)

        trained, size, initial = Tokenizer(BPE()), len(pieces) + new_tokens, list(characters.values())
        trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = BpeTrainer(
            vocab_size=size, min_frequency=min_frequency, initial_alphabet=initial, show_progress=False
        )
        trained.train_from_iterator(texts(), trainer)
        added: dict[int, list[int]] = {}
        for pair in json.loads(trained.to_str())["model"]["merges"]:
            old = [[pieces[ord(character) - PRIVATE] for character in side] for side in pair]
            merges.append(["".join(side) for side in old])
            if (token := "".join(merges[-1])) not in vocab:
                vocab[token] = len(self) + len(added)
                added[vocab[token]] = [vocab[piece] for side in old for piece in side]
        self._tokenizer.model = BPE(vocab, list(map(tuple, merges)))
        return added

    def readable_tokens(self, ids: Iterable[int]) -> list[str]:
        """Returns each token as text, with the space before a word; a part of a character as `\\xc3`.

        `convert_ids_to_tokens` returns the names in the vocabulary, such as `ĠdiÃ³` for " dió".
        """
        return readable_tokens(self, ids)

    def add_special_tokens(self, special_tokens_dict: Any, replace_extra_special_tokens: bool = True) -> int:
        """Adds special tokens, and keeps the language tags special where others replace the list."""
        added = super().add_special_tokens(special_tokens_dict, replace_extra_special_tokens)
        known = self.extra_special_tokens
        lost = [f"<2{code}>" for code in self.languages if f"<2{code}>" not in known]
        self._extra_special_tokens = [*lost, *self._extra_special_tokens]
        return added

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Adds tokens; to the backend, the mask is a usual one, which it finds and decodes in any text."""
        mask = str(self._special_tokens_map.get("mask_token"))
        added = 0
        for token in new_tokens:
            if str(token) != mask:
                added += super()._add_tokens([token], special_tokens)
                continue
            # normalized=True finds it with the space before it, which belongs to the masked word.
            added += super()._add_tokens([AddedToken(mask, normalized=True, special=False)])
            self._tokenizer.decoder = _decoder(mask)
        return added

    def update_post_processor(self) -> None:
        """Sets the tokens around a text: `[<2xx>] [<s>] text [</s>]`, with the tag for sources only."""
        self._add_bos_token &= self.bos_token is not None
        self._add_eos_token &= self.eos_token is not None
        self._tokenizer.post_processor = self._post_processor(self._tag(self.target_language))

    def _post_processor(self, tag: list[str]) -> processors.PostProcessor:
        before = tag + [self.bos_token] * self._add_bos_token
        after = [self.eos_token] * self._add_eos_token
        template = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, "$B:1", *(f"{token}:1" for token in after)],
            special_tokens=[(token, self.convert_tokens_to_ids(token)) for token in before + after],
        )
        # The offsets of a word do not include the space before it.
        return processors.Sequence([processors.ByteLevel(add_prefix_space=True, use_regex=False), template])

    def _tag(self, language: str | None) -> list[str]:
        if language is None:
            return []
        tag = f"<2{language}>"
        if not LANGUAGE_TAG.fullmatch(tag) or self._tokenizer.token_to_id(tag) is None:
            known = ", ".join(self.languages) or "none: train it with language_tags=[…]"
            raise ValueError(
                f"target_language={language!r} has no tag; this tokenizer's languages are {known}"
            )
        return [tag]

    def _switch_to_target_mode(self) -> None:
        self._target_mode = True

    def _switch_to_input_mode(self) -> None:
        self.__dict__.pop("_target_mode", None)  # back to the class's default

    def _copy(self, **changed: Any) -> Self:
        """Returns a copy for one call, with the same backend. It takes less than a microsecond."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **changed)
        return copy

    def __call__(self, *args: Any, split_special_tokens: bool | None = None, **kwargs: Any) -> BatchEncoding:
        # The base class changes the tokenizer for the time of a call: here a copy, because of other threads.
        call = super(VanillaTransformerTokenizer, self._copy()).__call__
        return call(*args, split_special_tokens=split_special_tokens, **kwargs)

    def _encode_plus(
        self,
        text: Any,
        text_pair: Any = None,
        *args: Any,
        target_language: str | None = None,
        split_special_tokens: bool | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        call, split = (
            self,
            self.split_special_tokens if split_special_tokens is None else split_special_tokens,
        )
        tag = [] if self._target_mode else self._tag(target_language or self.target_language)
        has_tag = tag == self._tag(self.target_language)
        mask_is_text = bool(split_special_tokens) and self._special_tokens_map.get("mask_token") is not None
        if (
            kwargs.get("truncation_strategy", UNCUT) != UNCUT
            or kwargs.get("padding_strategy", UNPADDED) != UNPADDED
            or self._tokenizer.encode_special_tokens != split
            or mask_is_text
            or not has_tag
        ):
            post_processor = self._tokenizer.post_processor if has_tag else self._post_processor(tag)
            call = self._copy(_tokenizer=self._backend_for_a_call(post_processor, split, mask_is_text))
        encode = super(VanillaTransformerTokenizer, call)._encode_plus
        kwargs["split_special_tokens"] = split
        if isinstance(text, list | tuple) and not text and not kwargs.get("is_split_into_words"):
            return _empty_batch(
                encode([""], **kwargs | {"return_tensors": None}), kwargs.get("return_tensors")
            )
        try:
            return encode(text, text_pair, *args, **kwargs)
        except TypeError:  # not a text; or a text with half of a surrogate pair
            cleaned = _without_surrogates((text, text_pair))
            if cleaned == (text, text_pair):
                raise
            logger.warning_once(r"Half of a surrogate pair, such as '\ud800', is no text: it becomes U+FFFD.")
            return encode(*cleaned, *args, **kwargs)

    def _backend_for_a_call(
        self, post_processor: processors.PostProcessor, split: bool, mask_is_text: bool
    ) -> Tokenizer:
        """Returns a backend with the same vocabulary and settings of its own: threads share the other."""
        backend = Tokenizer(self._tokenizer.model)
        backend.normalizer = self._tokenizer.normalizer
        backend.pre_tokenizer = self._tokenizer.pre_tokenizer
        backend.post_processor = post_processor
        backend.encode_special_tokens = split
        added = self._tokenizer.get_added_tokens_decoder()
        if not split or not all(token.special for token in added.values()):
            mask = str(self._special_tokens_map.get("mask_token")) if mask_is_text else None
            for token in (added[id] for id in sorted(added)):  # in this order they get the same ids
                add = (
                    backend.add_special_tokens if token.special or str(token) == mask else backend.add_tokens
                )
                add([token])
        return backend

    def _convert_encoding(
        self, encoding: Encoding, *args: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], list[Encoding]]:
        """Corrects two offsets: the backend keeps the space before a mask, and before a text's first word."""
        columns, encodings = super()._convert_encoding(encoding, *args, **kwargs)
        if "offset_mapping" in columns:
            mask = str(self._special_tokens_map.get("mask_token"))
            for one, offsets in zip(encodings, columns["offset_mapping"]):
                tokens = one.tokens
                for index, (token, (start, end)) in enumerate(zip(tokens, offsets)):
                    if token.lstrip(" ") == mask:
                        offsets[index] = (max(start, end - len(mask)), end)
                    elif start == 0 and token[:1] == SPACE and index and tokens[index - 1] == SPACE:
                        offsets[index] = (min(1, end), end)
        return columns, encodings

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Returns the arguments of the constructor, with what tokenizer.json says about `<s>` and `</s>`.

        Without this, the base class adds neither token.
        """
        path = kwargs.get("tokenizer_file")
        kwargs = super().convert_to_native_format(trust_remote_code, **kwargs)
        if path is not None:
            with open(path, encoding="utf-8") as file:
                post_processor = json.load(file)["post_processor"] or {}
            parts = post_processor.get("processors", [post_processor])
            stored = {token for part in parts for token in part.get("special_tokens", {})}
            for name in ("bos", "eos"):
                kwargs.setdefault(f"add_{name}_token", str(kwargs.get(f"{name}_token")) in stored)
        return kwargs


def _texts(columns: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the texts of all columns.

    Raises:
        TypeError: a value is not text.
        ValueError: there is no text.
    """
    empty = True
    for number, column in enumerate(columns):
        if isinstance(column, str):
            raise TypeError(f"columns[{number}] is one text, {column[:40]!r}, but must be a list of texts")
        for row, text in enumerate(column):
            if not isinstance(text, str):
                raise TypeError(f"columns[{number}], row {row} is {type(text).__name__}, not text: {text!r}")
            empty = empty and not text.strip()
            yield _without_surrogates(text) if SURROGATE.search(text) else text
    if empty:
        raise ValueError("the tokenizer needs text to train on: all columns are empty")


def _decoder(mask: str | None = None) -> decoders.Decoder:
    """Pieces to text, without the space that encoding adds; the mask includes the space before it."""
    parts = [decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)]
    if mask is not None:  # the piece has the space since tokenizers 0.23
        parts.insert(0, decoders.Replace(Regex(f"^ ?{re.escape(mask)}$"), f" {mask}"))
    return decoders.Sequence(parts)


def _empty_batch(batch: BatchEncoding, return_tensors: Any) -> BatchEncoding:
    """A batch of no texts, with the columns of this batch."""
    nothing: Any = [] if return_tensors is None else np.zeros((0, 0), dtype=np.int64)
    return BatchEncoding(dict.fromkeys(batch, nothing), encoding=[], tensor_type=return_tensors)


def _without_surrogates(texts: Any) -> Any:
    """The text, or the texts of nested lists, with U+FFFD for each half of a surrogate pair."""
    if isinstance(texts, str):
        return texts.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(texts, list | tuple):
        return type(texts)(map(_without_surrogates, texts))
    return texts


def readable_tokens(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], **options: Any) -> list[str]:
    """Returns each token as text, by `decode` with these options; a part of a character as `\\xc3`."""
    texts = []
    for id in map(int, ids):
        piece = str(tokenizer.convert_ids_to_tokens(id))
        text = str(tokenizer.decode([id], **options))
        if (
            piece
            and all(character in BYTES for character in piece)
            and (INCOMPLETE in text or piece[0] == SPACE)
        ):
            text = bytes(BYTES[character] for character in piece).decode(errors="backslashreplace")
        texts.append(text)
    return texts


def _stream_line_ends() -> None:
    """Make `TextStreamer` decode a line with the line end before it, for tokenizers of this package.

    It decodes each line alone, as if it began a text, whose first space decoding removes.
    """
    stock: Any = TextStreamer.put
    if hasattr(stock, "keeps_line_ends"):  # a copy of this file, beside weights, did it
        return

    @functools.wraps(stock)
    def put(self: Any, value: torch.Tensor) -> None:
        stock(self, value)
        if not self.token_cache and getattr(self.tokenizer, "removes_first_space", False):
            self.token_cache = value.flatten()[-1:].tolist()
            self.print_len = len(self.tokenizer.decode(self.token_cache, **self.decode_kwargs))

    put.keeps_line_ends = True  # type: ignore[attr-defined]
    TextStreamer.put = put  # type: ignore[method-assign]


_stream_line_ends()
