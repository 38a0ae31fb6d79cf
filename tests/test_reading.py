"""Reading lines and tables: line ends, quotation marks, cells that look like numbers, damaged files, JSON."""

import csv
import gzip
import json
import logging

import pytest

from vanilla_transformer.tasks import lines as lines_module
from vanilla_transformer.tasks.language_modeling import LanguageModelingArguments
from vanilla_transformer.tasks.language_modeling import load_texts as load_documents
from vanilla_transformer.tasks.lines import decoded, text_lines
from vanilla_transformer.tasks.seq2seq import Seq2SeqArguments
from vanilla_transformer.tasks.seq2seq import load_splits as load_pairs
from vanilla_transformer.tasks.settings import InputError
from vanilla_transformer.tasks.sources import SourceArguments, load_rows
from vanilla_transformer.tasks.text_classification import TextClassificationArguments
from vanilla_transformer.tasks.text_classification import load_splits as load_texts


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    caplog.set_level(logging.INFO, "vanilla_transformer")


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(path, streaming=False):
    rows = load_rows(SourceArguments(train_file=[str(path)], streaming=streaming))["train"][0]
    return [dict(row) for row in rows]


def texts(path):
    return [decoded(line, path, number) for number, line in enumerate(text_lines(path), start=1)]


# Lines


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "not ended"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_lines_end_in_three_ways(tmp_path, end, last, suffix):
    sentences = ["\ufeffone", "", "two\u2028still\x85two", "nul\0 \x0b\x0c", "five"]
    content = (end.join(sentences) + end * last).encode()
    path = write(tmp_path / f"a.en{suffix}", gzip.compress(content) if suffix else content)
    assert texts(path) == ["one", *sentences[1:]]


def test_a_carriage_return_within_a_line_ends_no_line(tmp_path):
    assert texts(write(tmp_path / "a.en", "10%\r20%\rdone\nnext\n")) == ["10%\r20%\rdone", "next"]


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_parallel_files_with_other_line_ends_stay_aligned(tmp_path, end):
    files = [write(tmp_path / "a.en", "a\nb\nc\n"), write(tmp_path / "a.de", end.join("xyz"))]
    rows = load_pairs(Seq2SeqArguments(train_file=files))["train"]
    assert [(row["source"], row["target"]) for row in rows] == [("a", "x"), ("b", "y"), ("c", "z")]


def test_too_long_lines_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "LONGEST_LINE", 1000)
    monkeypatch.setattr(lines_module, "CHUNK", 64)
    for content in ("short\n" + "x" * 1001 + "\n", "short\r" + "x" * 1001, "short\n" + "x" * 5000):
        path = write(tmp_path / "long.en.gz", gzip.compress(content.encode()))
        with pytest.raises(InputError, match="long.en.gz, line 2: more than 1,000 bytes"):
            texts(path)
    assert texts(write(tmp_path / "short.en", "x" * 999 + "\r" + "y" * 999)) == ["x" * 999, "y" * 999]
    with pytest.raises(InputError, match="mixed.en"):
        texts(write(tmp_path / "mixed.en", "x\r" * 600 + "y\n"))


def damaged(kind):
    whole = gzip.compress(b'{"en": "a", "de": "b"}\n' * 3000, compresslevel=1)
    if kind == "cut":
        return whole[: len(whole) // 2]
    if kind == "checksum":
        return whole[:-8] + b"\0\0\0\0" + whole[-4:]
    if kind == "bits":
        return whole[:30] + bytes(255 - byte for byte in whole[30:60]) + whole[60:]
    return {"not compressed": b'{"en": "a", "de": "b"}\n', "no header": whole[:5]}[kind]


@pytest.mark.parametrize("kind", ["cut", "checksum", "bits", "not compressed", "no header"])
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.tsv.gz", "a.en.gz"])
def test_damaged_gzip_names_the_file(tmp_path, kind, name):
    path = write(tmp_path / name, damaged(kind))
    files = [path, path] if name == "a.en.gz" else [path]
    with pytest.raises(InputError, match=f"{name}: damaged or not gzipped"):
        load_pairs(Seq2SeqArguments(train_file=files, source_lang="en", target_lang="de"))


def test_a_stream_of_pairs_whose_file_became_shorter_raises(tmp_path):
    files = [write(tmp_path / "a.en", "a\nb\nc\n"), write(tmp_path / "a.de", "x\ny\nz\n")]
    rows = load_pairs(Seq2SeqArguments(train_file=files, streaming=True))["train"]
    assert len(list(rows)) == 3
    write(tmp_path / "a.de", "x\ny\n")
    with pytest.raises(InputError, match="a.de ends before line 3"):
        list(rows)


@pytest.mark.parametrize("name", ["data[1].tsv", "data[1].jsonl", "data[1].parquet", "what?*.csv"])
def test_an_existing_file_wins_over_wildcards(tmp_path, name):
    rows = [{"en": "a", "de": "b"}]
    other = "en\tde\n" if name.endswith("tsv") else "en,de\n"
    if name.endswith("parquet"):
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(tmp_path / name)
    else:
        content = json.dumps(rows[0]) if name.endswith("jsonl") else other + other.replace("en", "a")
        write(tmp_path / name, content.replace("de\n", "b\n") if "jsonl" not in name else content)
    assert len(read(tmp_path / name)) == 1


# CSV and TSV

PLAIN = [
    ("a", "b"),
    ('"Stop!', "„Halt!"),
    ('6" nails', "Nägel"),
    ('He said "no"', 'Er sagte "nein"'),
    ("c", ""),
]
QUOTED = [("a, b", "c\td"), ('say "no"', "two\nlines\n\nmore"), ("", "x"), ('"all"', "y"), ("7", "z\rz")]


def delimited(path, pairs, quoting, separator):
    with open(path, "w", newline="", encoding="utf-8") as file:
        if quoting is None:
            file.writelines(f"{one}{separator}{other}\n" for one, other in [("en", "de"), *pairs])
        else:
            csv.writer(file, delimiter=separator, quoting=quoting, lineterminator="\n").writerows(
                [("en", "de"), *pairs]
            )
    return str(path)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind, separator", [("tsv", "\t"), ("csv", ",")])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL], ids=["minimal", "all"])
def test_csvs_quotation_marks_are_removed(tmp_path, kind, separator, quoting, streaming, caplog):
    rows = read(delimited(tmp_path / f"a.{kind}", QUOTED, quoting, separator), streaming)
    assert [(row["en"], row["de"]) for row in rows] == QUOTED
    assert (
        "quotation marks enclose cells; read 5 rows, 1 over several lines (the first from line 3"
        in caplog.text
    )


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind, separator", [("tsv", "\t"), ("csv", ",")])
def test_quotation_marks_of_the_text_stay_and_swallow_no_line(tmp_path, kind, separator, streaming, caplog):
    rows = read(delimited(tmp_path / f"a.{kind}", PLAIN, None, separator), streaming)
    assert [(row["en"], row["de"]) for row in rows] == PLAIN
    assert "quotation marks are part of the text (1 cells begin with one); read 5 rows" in caplog.text


def test_stray_marks_that_close_each_other_swallow_no_line(tmp_path):
    pairs = [('"A b', "c"), ("d", "e"), ('f"', "g"), ("h", '"i"')]
    rows = read(delimited(tmp_path / "a.tsv", pairs, None, "\t"))
    assert [(row["en"], row["de"]) for row in rows] == pairs


def test_quoted_sentences_of_a_tsv_keep_their_marks(tmp_path):
    pairs = [('"Yes."', '"Ja."'), ("no", "nein")]
    rows = read(delimited(tmp_path / "a.tsv", pairs, None, "\t"))
    assert [(row["en"], row["de"]) for row in rows] == pairs


def test_cells_are_text(tmp_path):
    cells = ["07", "1.10", "NA", "null", "true", "1e5", "2020-05-03", " x ", "0x10", "None", "-0", ""]
    path = write(tmp_path / "a.csv", "en,de\r\n" + "".join(f"{cell},{cell}\r\n" for cell in cells))
    assert read(path) == [{"en": cell, "de": cell} for cell in cells]
    assert [row["de"] for row in read(path, streaming=True)] == cells


def test_suffixes_in_capitals_and_several_suffixes(tmp_path):
    for name, content in (("A.TSV", "en\tde\na, b\tc\n"), ("a.tsv.csv", 'en,de\n"a, b",c\n')):
        assert read(write(tmp_path / name, content)) == [{"en": "a, b", "de": "c"}]
    path = write(tmp_path / "A.Tsv.gz", gzip.compress(b"en\tde\na, b\tc\n"))
    assert read(path) == [{"en": "a, b", "de": "c"}]


def test_numeric_labels_of_a_csv_are_classes_in_their_order(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(f"t {n},{n % 12}\n" for n in range(24)))
    splits = load_texts(TextClassificationArguments(train_file=[path]))
    assert splits["train"].features["label"].names == [str(number) for number in range(12)]


def test_rows_of_too_few_cells_are_counted_and_of_too_many_raise(tmp_path, caplog):
    path = write(tmp_path / "a.tsv", "en\tde\nx\ty\nz\n\n")
    assert read(path) == [{"en": "x", "de": "y"}, {"en": "z", "de": None}]
    assert "1 of 2 rows" in caplog.text and "the first is line 3" in caplog.text
    with pytest.raises(InputError, match="b.csv, line 4: 3 cells, but the header has 2"):
        read(write(tmp_path / "b.csv", "en,de\nx,y\n\na,b,c\n"))
    with pytest.raises(InputError, match="c.csv: there are no rows"):
        read(write(tmp_path / "c.csv", "en,de\n"))
    with pytest.raises(InputError, match="d.csv, line 2: not UTF-8"):
        read(write(tmp_path / "d.csv", b"en,de\n\xe9,b\n"))


# JSON


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_rows_of_null_are_skipped_and_counted(tmp_path, streaming, caplog):
    path = write(tmp_path / "a.jsonl", 'null\n{"en": "a", "de": "b"}\n\nnull\n{"en": "c", "de": "d"}\n')
    assert read(path, streaming) == [{"en": "a", "de": "b"}, {"en": "c", "de": "d"}]
    assert "skipped 2 rows of null (the first is row 1)" in caplog.text


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "content, named",
    [
        ('{"en": "a"}\n[1, 2]\n', "row 2"),
        ("7\n", "row 1"),
        ('{"en": "a"}\n{"en": \n', "line 2: not JSON"),
        ('[{"en": "a"}, 3]', "row 2"),
        ('[\n {"en": "a"},\n {"en" "b"}\n]', "line 3: not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"en": "a"}\n' + "[" * 100_000, "line 2: not JSON"),
        ("", "no rows"),
        ("null\n", "no rows"),
        (b'{"en": "\xff"}', "line 1: not UTF-8"),
    ],
)
def test_json_of_the_wrong_shape_names_file_and_row(tmp_path, content, named, streaming):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(InputError, match="a.json.*" + named):
        read(path, streaming)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_values_are_read_as_they_stand(tmp_path, streaming):
    rows = [
        {
            "date": "2020-05-03",
            "time": "2020-05-03T10:00:00Z",
            "number": 1,
            "some": None,
            "nested": {"a": "1"},
        },
        {"date": "1999-04-01", "time": "x", "number": 2.5, "some": "x", "nested": {"a": "2", "b": [1]}},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for seen, row in zip(read(path, streaming), rows, strict=True):
        assert seen["nested"].pop("b", None) == row["nested"].pop("b", None)
        assert seen == row
    assert read(write(tmp_path / "b.json", json.dumps(rows, indent=2)), streaming)[1]["date"] == "1999-04-01"


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_column_of_several_types_is_read_and_named(tmp_path, streaming):
    rows = [{"en": "a", "de": "b", "id": number} for number in range(1500)] + [
        {"en": "c", "de": 7, "id": "x"}
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read(path, streaming) == rows
    data = Seq2SeqArguments(train_file=[path], source_lang="en", target_lang="de", streaming=streaming)
    with pytest.raises(InputError, match="a.jsonl.*'de' holds int, not text: 7"):
        list(load_pairs(data)["train"])


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_lone_surrogates_are_replaced_and_counted(tmp_path, streaming, caplog):
    path = write(
        tmp_path / "a.jsonl", '{"en": "a\\ud800b", "de": "\\ud83d\\ude00"}\n{"en": "c", "de": "\\uDFFF"}\n'
    )
    assert read(path, streaming) == [{"en": "a\ufffdb", "de": "😀"}, {"en": "c", "de": "\ufffd"}]
    assert "replaced lone surrogates by U+FFFD in 2 rows" in caplog.text


def test_columns_that_only_some_rows_have(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"en": "a", "de": "b"}\n{"de": "d", "id": 7}\n')
    for streaming in (False, True):
        expected = [{"en": "a", "de": "b", "id": None}, {"en": None, "de": "d", "id": 7}]
        assert read(path, streaming) == expected
        data = Seq2SeqArguments(train_file=[path], source_lang="en", target_lang="de", streaming=streaming)
        assert list(load_pairs(data)["train"]) == [{"source": "a", "target": "b"}]


def test_a_column_with_nul_in_its_name_is_named(tmp_path):
    with pytest.raises(InputError, match="a.csv: the name of the column .* holds a NUL"):
        read(write(tmp_path / "a.csv", "e\0n,de\nx,y\n"))


def test_texts_beside_values_of_other_types_are_checked(tmp_path):
    for value, named in ((7, "int"), ([], "list"), ({"a": 1}, "dict"), (True, "bool")):
        path = write(tmp_path / "a.jsonl", '{"text": "a"}\n' + json.dumps({"text": value}) + "\n")
        with pytest.raises(InputError, match=f"a.jsonl: text_column 'text' holds {named}"):
            load_documents(LanguageModelingArguments(train_file=[path]))
    write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": Infinity}\n{"text": null}\n')
    assert load_documents(LanguageModelingArguments(train_file=[path]))["train"]["text"][:] == ["a"]


@pytest.mark.parametrize("cell", ['"text number {}, is good"', '"text number {} is good"'])
def test_one_bad_quotation_mark_in_a_quoted_csv_is_an_error(tmp_path, cell):
    rows = [f'{cell.format(number)},"pos"' for number in range(30)] + ['"he said "hi" there","pos"']
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    with pytest.raises(InputError, match=r"labels.csv: line 32: .*Most cells are quoted"):
        load_rows(SourceArguments(train_file=[str(path)]))


@pytest.mark.parametrize("header", ['"text","label"', "text,label"])
def test_quoted_cells_may_hold_lines(tmp_path, header):
    path = tmp_path / "letters.csv"
    path.write_text(f'{header}\n"Dear Sir,\nthank you","good"\n"Hello","bad"\n')
    rows, _ = load_rows(SourceArguments(train_file=[str(path)]))["train"]
    assert list(rows) == [
        {"text": "Dear Sir,\nthank you", "label": "good"},
        {"text": "Hello", "label": "bad"},
    ]


def test_a_key_that_holds_nul_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b", "more": {"x\\u0000y": 1}}\n')
    with pytest.raises(InputError, match=r"rows.jsonl, row 2: .* holds NUL"):
        load_rows(SourceArguments(train_file=[str(path)]))
