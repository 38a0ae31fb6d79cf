"""A shared byte-level BPE tokenizer: one vocabulary for source and target (section 5.1 of the paper).

    tokenizer = VanillaTransformerTokenizer.train([data["en"], data["es"]], vocab_size=8000)
    batch = tokenizer(["A dog."], text_target=["Un perro."])  # input_ids, attention_mask, labels

BPE (Sennrich et al. 2016) merges UTF-8 bytes, as in GPT-2. A rare word becomes smaller pieces, in the end
bytes, so there is no unknown token. The alternative is BPE of characters with 256 byte tokens as a fallback.
It needs a threshold for rare characters, and its usual form, which writes the space as a character, cannot
decode a text with that character.

The tokenizer first splits a text into words (with inner apostrophes), single digits, runs of punctuation and
runs of white space, so "dog." and "dog" share a piece. A word includes the space before it. Encoding adds a
space before the text, so its first word is the same piece as later ones, and decoding removes this space.

Decoding is exact: `decode(encode(text), skip_special_tokens=True) == text` for every text that UTF-8 can
encode, unless the tokenizer lower-cases. The name of a special token in a text is therefore text: `<pad>`
becomes "<", "pad", ">". To type `<2es>` as the tag, pass `split_special_tokens=False`.
"""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import BatchEncoding, TokenizersBackend

SPECIAL_TOKENS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}  # ids 0, 1, 2

WORD = r" ?[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*"
DIGIT = r" ?\p{N}"
PUNCTUATION = r" ?[^\s\p{L}\p{M}\p{N}]+"
WHITE_SPACE = r"\s+(?!\S)|\s+"  # the last space of a run belongs to the word after it

# A special token is never a piece of text: it mixes punctuation with letters, and no piece does.
LANGUAGE_TAG = re.compile(r"<2([A-Za-z][\w-]*)>")


class VanillaTransformerTokenizer(TokenizersBackend):
    """Byte-level BPE that ends every sequence with `</s>`, with language tags for multilingual models.

    `train` makes a tokenizer, `from_pretrained` loads one. Set the target language once
    (`tokenizer.target_language = "es"`) or per call (`tokenizer(texts, target_language="es")`): every source
    then begins with the tag `<2es>` (Johnson et al. 2017). Targets have no tag.
    """

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
        backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
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
        """The target languages that have a tag."""
        return [tag[1] for token in self.extra_special_tokens if (tag := LANGUAGE_TAG.fullmatch(token))]

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

    def update_post_processor(self) -> None:
        """Sets the tokens around a text: `[<2xx>] [<s>] text [</s>]`, with the tag for sources only."""
        self._add_bos_token &= self.bos_token is not None
        self._add_eos_token &= self.eos_token is not None
        tag = [] if self._target_mode else self._tag(self.target_language)
        before = tag + [self.bos_token] * self._add_bos_token
        after = [self.eos_token] * self._add_eos_token
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, "$B:1", *(f"{token}:1" for token in after)],
            special_tokens=[(token, self.convert_tokens_to_ids(token)) for token in before + after],
        )

    def _tag(self, language: str | None) -> list[str]:
        if language is None:
            return []
        if language not in self.languages:
            known = ", ".join(self.languages) or "none: train it with language_tags=[…]"
            raise ValueError(
                f"target_language={language!r} has no tag; this tokenizer's languages are {known}"
            )
        return [f"<2{language}>"]

    def _switch_to_target_mode(self) -> None:
        self._target_mode = True
        if self.target_language is not None:
            self.update_post_processor()

    def _switch_to_input_mode(self) -> None:
        self.__dict__.pop("_target_mode", None)  # back to the class's default, as in _encode_plus
        if self.target_language is not None:
            self.update_post_processor()

    def _encode_plus(
        self, text: Any, *args: Any, target_language: str | None = None, **kwargs: Any
    ) -> BatchEncoding:
        default = self.target_language
        try:
            if target_language is not None:
                self.target_language = target_language
            return super()._encode_plus(text, *args, **kwargs)
        finally:
            if target_language is not None:
                self.target_language = default
            # A call must not change what is saved, or what `datasets` hashes for its cache.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Returns the arguments of the constructor, with what tokenizer.json says about `<s>` and `</s>`.

        Without this, the base class adds neither token.
        """
        path = kwargs.get("tokenizer_file")
        kwargs = super().convert_to_native_format(trust_remote_code, **kwargs)
        if path is not None:
            with open(path, encoding="utf-8") as file:
                stored = (json.load(file)["post_processor"] or {}).get("special_tokens", {})
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
            yield text
    if empty:
        raise ValueError("the tokenizer needs text to train on: all columns are empty")
