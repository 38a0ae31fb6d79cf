"""The tokenizer of models that were trained with OpenNMT-py, eole or JoeyNMT.

These toolkits cut a text into pieces with SentencePiece or subword-nmt, or only at spaces. The checkpoint's
vocabulary gives a piece its id. This tokenizer calls the same libraries, which the extra [interop] installs.
"""

import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

from .extras import extra

CUTS = ("words", "characters", "sentencepiece", "subword-nmt")
SPACE_PIECE = "▁"  # the space in a vocabulary of characters
QUOTES = str.maketrans({"’": "'", "“": '"', "”": '"'})


class Cutter:
    """Cuts the texts of one language into pieces, and joins pieces.

    Args:
        cut: one of `CUTS`.
        subwords: the content of the SentencePiece model or of the codes of subword-nmt.
        words: the vocabulary.
        lowercase: lower-case texts.
        normalize: normalise texts as JoeyNMT does.
        moses: the language of sacremoses, which separates words and punctuation; none by default.
        known_pieces: subword-nmt undoes merges whose results are not in the vocabulary.
        separator: what subword-nmt writes at the end of a piece that does not end a word.
    """

    def __init__(
        self,
        subwords: bytes | None,
        words: Iterable[str],
        cut: str = "words",
        lowercase: bool = False,
        normalize: bool = False,
        moses: str | None = None,
        known_pieces: bool = False,
        separator: str = "@@",
    ):
        if cut not in CUTS:
            raise ValueError(f"cut={cut!r} is unknown: use one of {', '.join(CUTS)}")
        if (subwords is None) == (cut in CUTS[2:]):
            raise ValueError(
                f"cut={cut!r} {'needs' if subwords is None else 'has no use for'} a subword model"
            )
        self.subwords, self.words = subwords, list(words) if known_pieces else None
        self.how, self.lowercase, self.normalize, self.moses = cut, lowercase, normalize, moses
        self.separator = separator
        self.programs: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "programs": {}}  # a copy loads them again

    def __deepcopy__(self, memo: Any) -> "Cutter":
        return self  # it never changes

    def program(self, name: str) -> Any:
        if name not in self.programs:
            with extra("interop"):
                self.programs[name] = getattr(self, f"_{name}")()
        return self.programs[name]

    def _sentencepiece(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.subwords)

    def _subwords(self) -> Any:
        from subword_nmt.apply_bpe import BPE

        codes = io.StringIO((self.subwords or b"").decode("utf-8"))
        return BPE(codes, separator=self.separator, vocab=None if self.words is None else set(self.words))

    def _tokenizer(self) -> Any:
        from sacremoses import MosesTokenizer

        return MosesTokenizer(lang=self.moses)

    def _detokenizer(self) -> Any:
        from sacremoses import MosesDetokenizer

        return MosesDetokenizer(lang=self.moses)

    def _punctuation(self) -> Any:
        from sacremoses import MosesPunctNormalizer

        return MosesPunctNormalizer()

    def cut(self, text: str) -> list[str]:
        if self.normalize:
            text = without_extra_spaces(unicodedata.normalize("NFKC", text).translate(QUOTES))
        if self.moses and text:
            if self.normalize:
                text = self.program("punctuation").normalize(text)
            text = self.program("tokenizer").tokenize(text, return_str=True)
        text = text.lower() if self.lowercase else text
        text = text.rstrip() if self.how == "characters" else text.strip()
        if self.how == "sentencepiece":
            return self.program("sentencepiece").encode(text, out_type=str)
        if self.how == "subword-nmt":
            return self.program("subwords").segment_tokens(text.split(" "))
        if not text:
            return []
        return text.split(" ") if self.how == "words" else list(text.replace(" ", SPACE_PIECE))

    def join(self, pieces: Sequence[str]) -> str:
        if self.how == "sentencepiece":
            text = self.program("sentencepiece").decode_pieces(list(pieces))
        elif self.how == "characters":
            text = "".join(pieces).replace(SPACE_PIECE, " ")
        else:
            text = " ".join(pieces)
            if self.how == "subword-nmt":
                text = re.sub(f"{re.escape(self.separator)}( |$)", "", text)
        if self.moses:
            text = self.program("detokenizer").detokenize(text.split())
        return without_extra_spaces(text) if self.normalize else text


def without_extra_spaces(text: str) -> str:
    """Removes the spaces that JoeyNMT removes."""
    text = re.sub("[ \N{IDEOGRAPHIC SPACE}]+", " ", text.replace("\N{ZERO WIDTH SPACE}", ""))
    return re.sub(r" ([?!,.:])", r"\1", text).strip()


class ToolkitTokenizer(PreTrainedTokenizer):
    """Pieces of a text by a toolkit's way to cut, their ids by a checkpoint's vocabulary.

    Source and target may have different vocabularies and be cut differently. Ids are decoded as the target's;
    `decode(ids, use_source_tokenizer=True)` decodes the source's.

    Args:
        vocab_file, target_vocab_file: JSON files, words to ids; the target's is the source's if None. Special
            tokens have the same ids in both.
        source_subwords, target_subwords: SentencePiece models, or codes of subword-nmt.
        source, target: settings of `Cutter`, such as `{"cut": "subword-nmt"}`.
        source_ends: sources end with `</s>`; targets always do.
    """

    vocab_files_names = {
        "vocab_file": "vocab.json",
        "target_vocab_file": "target_vocab.json",
        "source_subwords": "source.subwords",
        "target_subwords": "target.subwords",
    }
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str,
        target_vocab_file: str | None = None,
        source_subwords: str | None = None,
        target_subwords: str | None = None,
        source: dict[str, Any] | None = None,
        target: dict[str, Any] | None = None,
        source_ends: bool = True,
        unk_token: str = "<unk>",
        pad_token: str = "<pad>",
        eos_token: str = "</s>",
        **kwargs: Any,
    ):
        self.encoder: dict[str, int] = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        self.separate_vocabs = target_vocab_file is not None
        self.target_encoder: dict[str, int] = (
            json.loads(Path(target_vocab_file).read_text(encoding="utf-8"))
            if target_vocab_file
            else self.encoder
        )
        self.source_decoder = {id: word for word, id in self.encoder.items()}
        self.decoder = {id: word for word, id in self.target_encoder.items()}
        special = {unk_token, pad_token, eos_token}
        self.cutters = [
            Cutter(
                Path(file).read_bytes() if file else None,
                [word for word in words if word not in special],
                **settings or {},
            )
            for file, words, settings in (
                (source_subwords, self.encoder, source),
                (target_subwords, self.target_encoder, target),
            )
        ]
        self.source_ends, self.is_target, self.decodes_source = source_ends, False, False
        super().__init__(
            source=source,
            target=target,
            source_ends=source_ends,
            unk_token=unk_token,
            pad_token=pad_token,
            eos_token=eos_token,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        return len(self.encoder)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.encoder)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:  # type: ignore[override]  # as PythonBackend's
        """Returns the pieces of a text. The name of a special token in it is text."""
        pieces = self.cutters[self.is_target].cut(text)
        return pieces if pieces or self.source_ends else [self.unk_token]  # as OpenNMT reads an empty line

    def _convert_token_to_id(self, token: str) -> int:
        words = self.target_encoder if self.is_target else self.encoder
        return words.get(token, words[self.unk_token])

    def _convert_id_to_token(self, index: int) -> str:
        return (self.source_decoder if self.decodes_source else self.decoder).get(index, self.unk_token)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        special, cutter = set(self.all_special_tokens), self.cutters[not self.decodes_source]
        runs = groupby(tokens, key=special.__contains__)
        return " ".join(" ".join(run) if is_special else cutter.join([*run]) for is_special, run in runs)

    def _decode(self, token_ids: Any, *words: Any, use_source_tokenizer: bool = False, **kwargs: Any) -> str:
        self.decodes_source = use_source_tokenizer
        try:
            return super()._decode(token_ids, *words, **kwargs)
        finally:
            self.decodes_source = False

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        ends = self.is_target or self.source_ends
        return token_ids_0 + (token_ids_1 or []) + [self.eos_token_id] * ends

    def _switch_to_input_mode(self) -> None:
        self.is_target = False

    def _switch_to_target_mode(self) -> None:
        self.is_target = True

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        contents = {
            "vocab_file": as_json(self.encoder),
            "target_vocab_file": as_json(self.target_encoder) if self.separate_vocabs else None,
            "source_subwords": self.cutters[0].subwords,
            "target_subwords": self.cutters[1].subwords,
        }
        saved = []
        for name, content in contents.items():
            if content is not None:
                path = Path(save_directory, prefix + self.vocab_files_names[name])
                path.write_bytes(content)
                saved.append(str(path))
        return tuple(saved)


def as_json(words: dict[str, int]) -> bytes:
    return json.dumps(words, ensure_ascii=False, indent=1).encode("utf-8")


__all__ = ["ToolkitTokenizer"]
