"""Data that the package ships or makes. A recipe's `dataset:` key may name a shipped corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import extra

if TYPE_CHECKING:
    from datasets import DatasetDict

CORPORA = Path(__file__).parent
SHIPPED = ("bible_en_es",)


def corpus_files(name: str) -> dict[str, str]:
    """The Parquet file of each split. Raises ValueError for an unknown name."""
    if name not in SHIPPED:
        raise ValueError(f"the package ships no corpus {name!r}, only {', '.join(SHIPPED)}")
    folder = CORPORA / name
    return {split: str(folder / f"{split}.parquet") for split in ("train", "validation", "test")}


def load_corpus(name: str) -> DatasetDict:
    """Load a shipped corpus. Raises ValueError for an unknown name.

    Example:
        >>> corpus = load_corpus("bible_en_es")
        >>> corpus["train"].num_rows, corpus["train"].column_names
        (29539, ['verse', 'en', 'es', 'part'])
    """
    with extra("train"):
        from datasets import load_dataset

    return load_dataset("parquet", data_files=corpus_files(name))
