"""The shipped corpora: three splits of clean text, with next to no overlap."""

import pytest

from vanilla_transformer.corpora import SHIPPED, corpus_files, load_corpus


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_corpora_are_clean_and_their_splits_differ(name):
    corpus = load_corpus(name)
    assert list(corpus) == list(corpus_files(name)) == ["train", "validation", "test"]
    source, target = name.split("_")[-2:]
    held_out = {row[source] for split in ("validation", "test") for row in corpus[split]}
    assert len(held_out & set(corpus["train"][source])) < 0.01 * len(held_out)
    for split in corpus.values():
        for text in (*split[source], *split[target]):
            assert text and text == text.strip() and "\n" not in text


def test_unknown_corpus_is_an_error():
    with pytest.raises(ValueError, match="bible_en_es"):
        load_corpus("bible_en_fr")
