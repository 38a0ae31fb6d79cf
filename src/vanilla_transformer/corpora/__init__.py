"""Corpora that the package ships, by name: what a recipe's `dataset:` key may hold besides Hub names."""

from pathlib import Path

CORPORA = Path(__file__).parent
SHIPPED = ("bible_en_es",)


def corpus_files(name: str) -> dict[str, str]:
    """Split -> path of the Parquet file. Raises ValueError for an unknown name."""
    if name not in SHIPPED:
        raise ValueError(f"the package ships no corpus {name!r}; there are: {', '.join(SHIPPED)}")
    folder = CORPORA / name
    return {split: str(folder / f"{split}.parquet") for split in ("train", "validation", "test")}


def load_corpus(name: str):
    """The shipped corpus as a `datasets.DatasetDict`. Raises ValueError for an unknown name."""
    from datasets import load_dataset

    return load_dataset("parquet", data_files=corpus_files(name))
