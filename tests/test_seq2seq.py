"""Pairs of texts: every format gives the same rows, limits hold, and errors name the file, line or key."""

import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, IterableDataset
from tiny_translators import FAMILIES

from vanilla_transformer.tasks.seq2seq import (
    DecodingArguments,
    Seq2SeqArguments,
    encode_splits,
    generation_config,
    load_splits,
)
from vanilla_transformer.tasks.settings import InputError
from vanilla_transformer.tasks.text import text_columns
from vanilla_transformer.tokenization_vanilla_transformer import VanillaTransformerTokenizer

PAIRS = [
    ("A dog.", "Ein Hund."),
    ('A "red" cat, asleep', "Eine Katze; schläft"),
    ("NA", "null"),
    ("x\u2028y", "\x0c z"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def rows(dataset):
    return [(row["source"], row["target"]) for row in dataset]


def text_files(folder, pairs, suffix=""):
    paths = [str(folder / f"train.{language}{suffix}") for language in ("en", "de")]
    for path, side in zip(paths, zip(*pairs)):
        with gzip.open(path, "wb") if suffix else open(path, "wb") as file:
            file.write("".join(f"{text}\n" for text in side).encode())
    return paths


def table_file(folder, kind, pairs):
    path = folder / f"train.{kind}"
    english, german = zip(*pairs)
    if kind == "parquet":
        pq.write_table(pa.table({"n": list(range(len(pairs))), "en": english, "de": german}), path)
    elif kind in ("csv", "tsv"):
        import csv

        with open(path, "w", newline="") as file:
            writer = csv.writer(file, delimiter="," if kind == "csv" else "\t")
            writer.writerows([("en", "de"), *pairs])
    else:
        nested = kind == "jsonl"
        lines = [{"en": one, "de": other} for one, other in pairs]
        lines = [{"id": "1", "translation": line} if nested else line for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(path)]


def given(files, **more):
    return Seq2SeqArguments(train_file=files, source_lang="en", target_lang="de", **more)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "json", "jsonl", "text", "text.gz"])
def test_every_format_gives_the_same_rows(tmp_path, kind, streaming):
    if kind.startswith("text"):
        files = text_files(tmp_path, PAIRS, ".gz" if kind.endswith("gz") else "")
    else:
        files = table_file(tmp_path, kind, PAIRS)
    train = load_splits(given(files, streaming=streaming))["train"]
    assert isinstance(train, IterableDataset if streaming else Dataset)
    assert rows(train) == PAIRS


def test_columns_are_chosen_by_key_and_rows_by_count(tmp_path):
    files = table_file(tmp_path, "jsonl", PAIRS)
    data = Seq2SeqArguments(
        train_file=files, source_column="translation.de", target_column="en", max_train_samples=2
    )
    assert rows(load_splits(data)["train"]) == [(german, english) for english, german in PAIRS[:2]]


def test_wildcards_read_all_shards(tmp_path):
    for shard in range(2):
        (tmp_path / str(shard)).mkdir()
        table_file(tmp_path / str(shard), "parquet", PAIRS[2 * shard : 2 * shard + 2])
    assert rows(load_splits(given([f"{tmp_path}/*/*.parquet"]))["train"]) == PAIRS


def test_a_folder_is_a_dataset(tmp_path):
    table_file(tmp_path, "parquet", PAIRS)
    data = Seq2SeqArguments(dataset=str(tmp_path), source_lang="en", target_lang="de")
    assert rows(load_splits(data)["train"]) == PAIRS


def test_changed_files_are_read_again(tmp_path):
    files = text_files(tmp_path, PAIRS)
    load_splits(given(files))
    text_files(tmp_path, PAIRS[:1])
    assert rows(load_splits(given(files))["train"]) == PAIRS[:1]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "text"])
def test_pairs_with_an_empty_side_are_skipped_and_logged(tmp_path, kind, streaming, caplog):
    pairs = [("", "leer"), ("A dog.", "Ein Hund."), ("blank", " \t"), ("A cat.", "Eine Katze.")]
    files = text_files(tmp_path, pairs) if kind == "text" else table_file(tmp_path, kind, pairs)
    with caplog.at_level(logging.WARNING):
        train = rows(load_splits(given(files, streaming=streaming))["train"])
    assert train == [pairs[1], pairs[3]]
    assert files[0] in caplog.text
    assert (
        "skipped 1 pairs" if streaming else "skipped 2 of 4 pairs with an empty side (rows 1, 3)"
    ) in caplog.text


def test_null_counts_as_empty(tmp_path, caplog):
    path = tmp_path / "train.jsonl"
    path.write_text('{"en": "A dog.", "de": null}\n{"en": "A cat.", "de": "Eine Katze."}\n')
    assert rows(load_splits(given([str(path)]))["train"]) == [("A cat.", "Eine Katze.")]
    assert "skipped 1 of 2" in caplog.text


def test_a_csv_whose_first_row_is_too_wide_keeps_its_columns(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("en,de\na,b,c\nx,y\n")
    assert rows(load_splits(given([str(path)]))["train"]) == [("a", "b"), ("x", "y")]


# Each case is a function that writes files and returns Seq2SeqArguments and the words of the message.


def unpaired(folder):
    files = text_files(folder, PAIRS)
    with open(files[1], "a") as file:
        file.write("one more\n")
    return given(files), [files[0], "4 lines", files[1], "5"]


def one_text_file(folder):
    return given(text_files(folder, PAIRS)[:1]), ["train.en", "two files"]


def missing_column(folder):
    files = table_file(folder, "parquet", PAIRS)
    data = Seq2SeqArguments(train_file=files, source_lang="en", target_column="dee")
    return data, ["target_column", files[0], "'dee'", "did you mean 'de'", "de, en, n"]


def numbers_for_text(folder):
    files = table_file(folder, "parquet", PAIRS)
    return Seq2SeqArguments(train_file=files, source_lang="en", target_column="n"), [
        files[0],
        "'n'",
        "int",
        "row 1",
    ]


def one_column_for_both(folder):
    files = table_file(folder, "csv", PAIRS)
    return Seq2SeqArguments(train_file=files, source_lang="en", target_lang="en"), [files[0], "same column"]


def mixed_types(folder):
    path = folder / "train.jsonl"
    path.write_text('{"en": "A dog.", "de": "Ein Hund."}\n{"en": "A cat.", "de": 7}\n')
    return given([str(path)]), [str(path), "row 2", "'de'", "int", "7"]


def broken_json(folder):
    path = folder / "train.jsonl"
    path.write_text('{"en": "A dog.", "de": "Ein Hund."}\n{"en": "A cat.", "de\n')
    return given([str(path)]), [str(path), "line 2", "not JSON"]


def ragged_csv(folder):
    path = folder / "train.csv"
    path.write_text("en,de\na,b\na,b,c\n")
    return given([str(path)]), [str(path), "line 3"]


def numbers_under_our_own_names(folder):
    path = folder / "train.jsonl"
    path.write_text('{"source": 1, "target": "x y"}\n')
    return given([str(path)]), [str(path), "row 1", "'source'", "int"]


def broken_parquet(folder):
    path = folder / "train.parquet"
    path.write_bytes(b"PAR1 but not really")
    return given([str(path)]), [str(path), "not a readable Parquet file"]


def not_utf8(folder):
    files = text_files(folder, PAIRS)
    (folder / "train.de").write_bytes(b"eins\nzw\xe9i\ndrei\nvier\n")
    return given(files), [files[1], "line 2", "UTF-8"]


def missing_file(folder):
    text_files(folder, PAIRS)
    return given([f"{folder}/train.en", f"{folder}/trian.de"]), [
        "train_file",
        "trian.de",
        "did you mean 'train.de'",
    ]


def missing_folder(folder):
    return given([f"{folder}/no/such/train.csv"]), ["no/such/train.csv", f"{folder} holds"]


def mixed_kinds(folder):
    files = table_file(folder, "csv", PAIRS) + table_file(folder, "parquet", PAIRS)
    return given(files), ["train.csv", "train.parquet", "different formats"]


def unknown_split(folder):
    data = Seq2SeqArguments(dataset="bible_en_es", source_lang="en", target_lang="es", test_split="tset")
    return data, ["test_split", "'tset'", "did you mean 'test'", "train, validation, test"]


def unknown_dataset(folder):
    data = Seq2SeqArguments(dataset=f"{folder}/nowhere", source_lang="en", target_lang="es")
    return data, ["nowhere", "cannot be loaded", "bible_en_es"]


def every_pair_empty(folder):
    files = text_files(folder, [("", "leer")])
    return given(files), [files[0], "every pair has an empty side"]


def empty_text_files(folder):
    files = text_files(folder, PAIRS)
    for path in files:
        open(path, "w").close()
    return given(files), [f"{files[0]} and {files[1]} are empty"]


@pytest.mark.parametrize(
    "case",
    [
        unpaired,
        one_text_file,
        missing_column,
        numbers_for_text,
        one_column_for_both,
        mixed_types,
        broken_json,
        ragged_csv,
        numbers_under_our_own_names,
        broken_parquet,
        not_utf8,
        missing_file,
        missing_folder,
        mixed_kinds,
        unknown_split,
        unknown_dataset,
        every_pair_empty,
        empty_text_files,
    ],
    ids=lambda case: case.__name__,
)
def test_errors_name_the_file_line_or_key(tmp_path, case, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    data, named = case(tmp_path)
    with pytest.raises(InputError) as error:
        load_splits(data)
    for words in named:
        assert words in str(error.value)


@pytest.mark.parametrize("case", [missing_column, mixed_types, not_utf8], ids=lambda case: case.__name__)
def test_errors_of_streams_name_it_too(tmp_path, case):
    data, named = case(tmp_path)
    data.streaming = True
    with pytest.raises(InputError) as error:
        list(load_splits(data)["train"])
    assert named[0] in str(error.value)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({}, "there are no data"),
        ({"dataset": "bible_en_es", "train_file": ["a.csv"]}, "exclude each other"),
        ({"dataset": "bible_en_es", "source_lang": "en"}, "the column of the target is unknown"),
        (
            {"train_file": ["a.csv"], "source_lang": "en", "target_lang": "de", "test_split": "test"},
            "test_split='test' does not apply to local files",
        ),
        (
            {"dataset": "bible_en_es", "source_lang": "en", "target_lang": "es", "dataset_config": "de-en"},
            "dataset_config='de-en' does not apply to dataset 'bible_en_es'",
        ),
        (
            {"dataset": "bible_en_es", "source_lang": "en", "target_lang": "es", "vocab_size": 0},
            "vocab_size=0",
        ),
        (
            {"dataset": "bible_en_es", "source_lang": "en", "target_lang": "es", "max_test_samples": 0},
            "max_test_samples=0 must be at least 1",
        ),
    ],
)
def test_contradicting_keys_raise(settings, named):
    with pytest.raises(InputError, match=named):
        Seq2SeqArguments(**settings)


# Encoding


@pytest.fixture(scope="module")
def tokenizer():
    return VanillaTransformerTokenizer.train([["a b c d e f g h"] * 4], vocab_size=267, show_progress=False)


def test_training_skips_long_pairs_and_evaluation_keeps_them(tokenizer, caplog):
    long = "a b c d e f g h " * 3
    pairs = {"source": ["a b", long, "a b c", "h"], "target": ["a", "b", long, "c"]}
    splits = {"train": Dataset.from_dict(pairs), "validation": Dataset.from_dict(pairs)}
    data = Seq2SeqArguments(
        dataset="bible_en_es", source_lang="en", target_lang="es", max_source_length=6, max_target_length=8
    )
    encoded = encode_splits(splits, tokenizer, data, longest=20)

    assert encoded["train"].column_names == ["input_ids", "labels"]
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded["train"]["input_ids"]] == [
        "a b",
        "h",
    ]
    assert "skipped 2 of 4 training pairs" in caplog.text

    held_out = encoded["validation"]
    assert sorted(held_out["row"]) == [0, 1, 2, 3]
    assert "validation: cut 1 of 4 sources to 20 tokens" in caplog.text
    for row in held_out:
        whole = tokenizer(row["source"])["input_ids"]
        assert row["source"] == pairs["source"][row["row"]]
        assert row["input_ids"] == (whole if len(whole) <= 20 else whole[:19] + [tokenizer.eos_token_id])
        assert tokenizer.decode(row["labels"], skip_special_tokens=True) == row["target"]
    lengths = [len(ids) for ids in held_out["input_ids"]]
    assert lengths == sorted(lengths, reverse=True)


def test_the_positions_of_the_model_limit_training(tokenizer, caplog):
    pairs = {"source": ["a b", "a b c d e f g h", "a"], "target": ["a", "b", "a b c d e f g h"]}
    splits = {"train": Dataset.from_dict(pairs)}
    data = Seq2SeqArguments(dataset="bible_en_es", source_lang="en", target_lang="es", max_target_length=6)
    encoded = encode_splits(splits, tokenizer, data, longest=7)["train"]
    assert max(map(len, encoded["input_ids"])) <= 7 and max(map(len, encoded["labels"])) <= 6
    assert len(encoded) == 1
    assert "max_source_length=256 becomes 7" in caplog.text and "max_target_length" not in caplog.messages[0]


def test_streams_are_encoded_like_whole_data(tokenizer):
    data = Seq2SeqArguments(dataset="bible_en_es", source_lang="en", target_lang="es", max_source_length=130)
    whole = load_splits(data)["train"].take(50)
    streamed = encode_splits({"train": whole.to_iterable_dataset()}, tokenizer, data, 1024)["train"]
    assert list(streamed) == list(encode_splits({"train": whole}, tokenizer, data, 1024)["train"])


def test_text_columns_give_both_sides():
    dataset = Dataset.from_dict({"source": ["a", "b", "c"], "target": ["x", "y", "z"]})
    both = ("source", "target")
    assert [list(texts) for texts in text_columns(dataset, both, limit=2)] == [["a", "b"], ["x", "y"]]
    streamed = text_columns(dataset.to_iterable_dataset(), both)
    assert [list(texts) for texts in streamed] == [list("abc"), list("xyz")]


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_settings_are_ones_that_the_model_has_and_can_save(family, beams, tmp_path):
    model, _ = FAMILIES[family]()
    data = Seq2SeqArguments(source_lang="en", target_lang="de", dataset="x", max_target_length=17)
    settings = generation_config(model, data, DecodingArguments(num_beams=beams, alpha=1.5))
    settings.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    own = {"length_penalty_type", "max_extra_tokens", "coverage_penalty"}
    assert (own & saved.keys() == set()) == (family != "vanilla")
    assert saved.get("num_beams", 1) == beams and saved.get("length_penalty", 1.0) == (
        1.5 if beams > 1 else 1.0
    )
    if family != "vanilla":
        assert saved["max_length"] == 18
        assert saved["decoder_start_token_id"] == model.config.decoder_start_token_id
    model.generation_config = settings
    model.generate(torch.tensor([[5, 6, 1]]), max_new_tokens=3)
