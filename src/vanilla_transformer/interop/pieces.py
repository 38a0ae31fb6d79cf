"""Tokenizers for the vocabulary of a checkpoint and the subword model that was used beside it."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import MarianTokenizer

from ..extras import extra
from ..tokenization_toolkit import ToolkitTokenizer
from .weights import ConversionError

WORDS_NOTE = "texts are cut at spaces only: give them tokenised as the training texts were"
Given = str | PathLike | None  # a file of the user


def marian_tokenizer(
    models: Sequence[Path],
    words: Sequence[Sequence[str]],
    languages: Sequence[str],
    **special_tokens: str,
) -> MarianTokenizer:
    """`MarianTokenizer`: SentencePiece cuts the text, a vocabulary gives the ids, and `</s>` ends it.

    Args:
        models: the SentencePiece models of source and target.
        words: the two vocabularies, in the order of their ids; equal for a joint one.
        languages: the codes of source and target.
    """
    with tempfile.TemporaryDirectory() as folder, extra("interop"):
        import sentencepiece  # noqa: F401  # MarianTokenizer needs it

        files = [Path(folder, name) for name in ("source.spm", "target.spm")]
        vocabularies = [Path(folder, name) for name in ("vocab.json", "target_vocab.json")]
        for file, model in zip(files, models):
            shutil.copyfile(model, file)
        for file, side in zip(vocabularies, words):
            entries = {word: index for index, word in enumerate(side)}
            file.write_text(json.dumps(entries), encoding="utf-8")
        separate = list(words[0]) != list(words[1])
        build: Any = MarianTokenizer
        return build(
            *map(str, files),
            str(vocabularies[0]),
            str(vocabularies[1]) if separate else None,
            source_lang=languages[0] or None,
            target_lang=languages[1] or None,
            separate_vocabs=separate,
            **special_tokens,
        )


@dataclass
class Side:
    """How a checkpoint cuts the texts of one side.

    Args:
        words: the vocabulary, in the order of its ids.
        settings: of `Cutter`.
        file: the subword model that the checkpoint names, or that the user gave.
    """

    words: list[str]
    settings: dict[str, Any]
    file: Path | None = None


def beside(folder: Path, named: str) -> Path:
    """A file that a checkpoint names, in its folder now or where it was."""
    return here if (here := folder / Path(named).name).is_file() else Path(named)


def with_given_subwords(sides: Sequence[Side], files: Sequence[Given]) -> None:
    """Replaces subword models by those of the user; one for the source alone serves both sides."""
    given = [files[0], files[1] or files[0]]
    for side, file in zip(sides, given):
        if file is not None:
            if not Path(file).is_file():
                raise ConversionError(f"there is no subword model {file}")
            is_binary = b"\0" in Path(file).read_bytes()[:4096]  # codes of subword-nmt are text
            side.settings["cut"] = "sentencepiece" if is_binary else "subword-nmt"
            side.file = Path(file)


def missing_subwords(sides: Sequence[Side]) -> list[str]:
    """A note if a subword model is not where the checkpoint has it."""
    names = {str(side.file): None for side in sides if side.file is not None and not side.file.is_file()}
    if not names:
        return []
    return [
        f"no tokenizer: texts are cut with {' and '.join(names)}, which is not here. Put it beside the "
        "checkpoint, or give source_subwords and target_subwords"
    ]


def toolkit_tokenizer(
    sides: Sequence[Side], source_ends: bool, special_tokens: Mapping[str, str]
) -> ToolkitTokenizer:
    """The tokenizer of two sides.

    Raises:
        ConversionError: a subword model cannot be read, or a special token has two ids or none.
    """
    vocabularies = [{word: index for index, word in reversed([*enumerate(side.words)])} for side in sides]
    ids = [[vocabulary.get(word) for word in special_tokens.values()] for vocabulary in vocabularies]
    if ids[0] != ids[1] or None in ids[0]:
        shown = ", ".join(special_tokens.values())
        raise ConversionError(f"{shown} have the ids {ids[0]} in the source, but {ids[1]} in the target")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("vocab.json", "target_vocab.json")]
        for file, vocabulary in zip(files, vocabularies):
            file.write_text(json.dumps(vocabulary), encoding="utf-8")
        models = [Path(folder, name) for name in ("source", "target")]
        for side, model in zip(sides, models):
            if side.file is not None:
                model.write_bytes(side.file.read_bytes())
                if side.settings["cut"] == "sentencepiece" and side.settings.get("known_pieces"):
                    model.write_bytes(only_known_pieces(side))
        subwords = [str(model) if model.exists() else None for model in models]
        names: dict[str, Any] = {**special_tokens}
        tokenizer = ToolkitTokenizer(
            vocab_file=str(files[0]),
            target_vocab_file=str(files[1]) if vocabularies[0] != vocabularies[1] else None,
            source_subwords=subwords[0],
            target_subwords=subwords[1],
            source=sides[0].settings,
            target=sides[1].settings,
            source_ends=source_ends,
            **names,
        )
    for side, cutter in zip(sides, tokenizer.cutters):
        try:
            cutter.cut("a")
        except (RuntimeError, ValueError, SystemExit) as error:  # subword-nmt exits
            raise ConversionError(f"{side.file} is no model of {cutter.how}: {error}") from error
    return tokenizer


def only_known_pieces(side: Side) -> bytes:
    """A SentencePiece model that cuts into pieces of the vocabulary and characters.

    It is what `SetVocabulary` of SentencePiece makes of the model; Python has this call up to version 0.2.0.
    """
    content = Path(str(side.file)).read_bytes()
    with extra("interop"):
        from sentencepiece import sentencepiece_model_pb2

    formats: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model, known = formats.ModelProto.FromString(content), {*side.words}
    kind = formats.ModelProto.SentencePiece
    for piece in model.pieces:
        if piece.type in (kind.NORMAL, kind.UNUSED):
            is_known = piece.piece in known or len(piece.piece) == 1
            piece.type = kind.NORMAL if is_known else kind.UNUSED
    return model.SerializeToString()
