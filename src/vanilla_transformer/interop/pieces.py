"""A tokenizer for a vocabulary of SentencePiece pieces in any order, with an end token after each text."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import MarianTokenizer

from ..extras import extra


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
