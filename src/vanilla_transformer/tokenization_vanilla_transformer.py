"""A shared byte-level BPE tokenizer: one vocabulary for source and target (section 5.1 of the paper).

    tokenizer = VanillaTransformerTokenizer.train([data["en"], data["es"]], vocab_size=8000)
    batch = tokenizer(["A dog."], text_target=["Un perro."])  # input_ids, attention_mask, labels

Text is UTF-8 bytes, and BPE (Sennrich et al. 2016) merges them, as in GPT-2: whatever has no piece of its own
falls back to smaller pieces, in the end to bytes, so nothing is unknown. The other way there, pieces of
characters with 256 byte tokens in reserve, needs a cut-off for rare characters, hardly ever uses its reserve,
and in its usual form, where a character stands for the space, does not decode a text that has this character.

Before merging, text is cut into words (with inner apostrophes), single digits, runs of punctuation and runs
of white space, so that "dog." and "dog" share a piece. A word keeps the space before it, and the whole text
gets one space in front, which decoding takes away, so that a first word is the same piece as a later one.

Decoding is exact: `decode(encode(text), skip_special_tokens=True) == text` for every text that UTF-8 can hold
(lower-casing aside). For that, a special token's name in a text is text too: `<pad>` becomes "<", "pad", ">".
Whoever types `<2es>` and means the tag passes `split_special_tokens=False`.
"""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import TokenizersBackend

SPECIAL_TOKENS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}  # ids 0, 1, 2

WORD = r" ?[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*"
DIGIT = r" ?\p{N}"
PUNCTUATION = r" ?[^\s\p{L}\p{M}\p{N}]+"
WHITE_SPACE = r"\s+(?!\S)|\s+"  # the last space of a run goes with the word after it

# No special token can also be a piece of text: each mixes punctuation with letters, and no piece does.
LANGUAGE_TAG = re.compile(r"<2([A-Za-z][\w-]*)>")


class VanillaTransformerTokenizer(TokenizersBackend):
    """Byte-level BPE whose sequences end in `</s>`, with language tags for one model over several directions.

    `train` makes one, `from_pretrained` loads one. With a target language, chosen once
    (`tokenizer.target_language = "es"`) or per call (`tokenizer(texts, target_language="es")`), every source
    begins with its tag `<2es>` (Johnson et al. 2017); targets never do.
    """

    _target_mode = False

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
                It gets smaller, with a warning, where the text holds too few pairs to merge.
            language_tags: codes such as `"es"` or `"pt-BR"`; each becomes a token `<2es>`.
            lowercase: lower-case all text. Decoding then gives the lower-cased text.
            min_frequency: how often a pair must occur to be merged.
        """
        if isinstance(language_tags, str):
            raise ValueError(f"language_tags is a list of codes: [{language_tags!r}], not {language_tags!r}")
        tags = [f"<2{code}>" for code in dict.fromkeys(language_tags)]
        if wrong := [tag for tag in tags if not LANGUAGE_TAG.fullmatch(tag)]:
            raise ValueError(f"language_tags are codes such as 'es' or 'pt-BR'; not {wrong[0][2:-1]!r}")
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        fixed = len(SPECIAL_TOKENS) + len(tags) + len(alphabet)
        if vocab_size < fixed:
            raise ValueError(
                f"vocab_size={vocab_size} is too small: {len(SPECIAL_TOKENS)} special tokens, {len(tags)} "
                f"language tags and {len(alphabet)} bytes need {fixed}, and each merge one more"
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
                f"the text gave a vocabulary of {size}, not {vocab_size}: no other pair of pieces occurs "
                f"{min_frequency} times",
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
        """The language whose tag begins each source; saved with the tokenizer."""
        return self.init_kwargs.get("target_language")

    @target_language.setter
    def target_language(self, language: str | None):
        self._tag(language)  # refuses an unknown one before anything changes
        self.init_kwargs.pop("target_language", None)
        if language is not None:
            self.init_kwargs["target_language"] = language
        self.update_post_processor()

    def update_post_processor(self):
        """What stands around a text: `[<2xx>] [<s>] text [</s>]`, the tag in input mode only."""
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
            known = ", ".join(self.languages) or "none; train with language_tags=[…]"
            raise ValueError(f"target_language={language!r} has no tag in this tokenizer (it has: {known})")
        return [f"<2{language}>"]

    def _switch_to_target_mode(self):
        self._target_mode = True
        if self.target_language is not None:
            self.update_post_processor()

    def _switch_to_input_mode(self):
        self.__dict__.pop("_target_mode", None)  # the class has the default; see the end of _encode_plus
        if self.target_language is not None:
            self.update_post_processor()

    def _encode_plus(self, text, *args, target_language: str | None = None, **kwargs):
        default = self.target_language
        try:
            if target_language is not None:
                self.target_language = target_language
            return super()._encode_plus(text, *args, **kwargs)
        finally:
            if target_language is not None:
                self.target_language = default
            # A call leaves no trace: what is saved, and what `datasets` hashes for its cache, stays the same.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()

    @classmethod
    def convert_to_native_format(cls, **kwargs):
        """Tell the base class whether tokenizer.json adds `<s>` and `</s>`; it would assume neither."""
        kwargs = super().convert_to_native_format(**kwargs)
        if path := kwargs.get("tokenizer_file"):
            with open(path, encoding="utf-8") as file:
                stored = (json.load(file)["post_processor"] or {}).get("special_tokens", {})
            for name in ("bos", "eos"):
                kwargs.setdefault(f"add_{name}_token", str(kwargs.get(f"{name}_token")) in stored)
        return kwargs


def _texts(columns: Iterable[Iterable[str]]) -> Iterator[str]:
    """The columns' texts, one after the other; a value that is not text is an error that tells its place."""
    empty = True
    for number, column in enumerate(columns):
        if isinstance(column, str):
            raise TypeError(f"columns[{number}] is a single text, not a column of texts: {column[:40]!r}")
        for row, text in enumerate(column):
            if not isinstance(text, str):
                raise TypeError(f"column {number}, row {row} is not text: {text!r} ({type(text).__name__})")
            empty = empty and not text.strip()
            yield text
    if empty:
        raise ValueError("no text to train a tokenizer on: all columns are empty")
