"""The tokenizer: decoding is exact, nothing is unknown, a saved copy is the same, bad input is refused."""

import json
import pickle
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import AutoTokenizer

import vanilla_transformer
from vanilla_transformer.tokenization_vanilla_transformer import VanillaTransformerTokenizer

ROOT = Path(__file__).parents[1]
CORPUS = Path(vanilla_transformer.__file__).parent / "corpora" / "bible_en_es" / "train.parquet"
BOS, PAD, EOS = range(3)


def train(*columns, vocab_size=300, **options):
    return VanillaTransformerTokenizer.train(columns, vocab_size, show_progress=False, **options)


@pytest.fixture(scope="module")
def corpus():
    return {
        name: parquet.read_table(CORPUS, columns=[name])[name].to_pylist()[:4000] for name in ("en", "es")
    }


@pytest.fixture(scope="module")
def shared(corpus):
    return train(*corpus.values(), vocab_size=3000, language_tags=["es", "de"])


@pytest.fixture
def tokenizer(shared):
    """A fresh copy: some tests change settings."""
    return pickle.loads(pickle.dumps(shared))


def decoded(tokenizer, text, **options):
    return tokenizer.decode(tokenizer(text, **options).input_ids, skip_special_tokens=True)


# Decoding is exact


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "   ",
        "\n",
        "\t\n \r\n",
        " leading",
        "  two leading",
        "trailing ",
        "trailing  ",
        "double  spaces   inside",
        "one\nline\n\nand another\tone",
        "no-break\u00a0space, \u3000wide\u3000 and \u2028 separator",
        "A dog, a \"dog\" (dog) dog's 'dog' don’t l’homme.",
        "¿Qué? ¡Sí! «Año» 1.234,5 € 50% 2nd ½ ²",
        "e\u0301 and é are not the same; n\u0303o\u0308",
        "नमस्ते ปีด Việt Nam العربية עִבְרִית 한국어 日本語テキスト 生活的真谛是",
        "😊 👩\u200d👩\u200d👧 🇪🇸 ❤\ufe0f",
        "▁metaspace▁ ▁ Ġ Ċ âĢĻ",
        "<s> <pad> </s> <unk> <2es> <2fr> hi<s>there</s>",
        "<0x0A> \\u00e9 &amp; @-@ @@ ##piece",
        "nul \x00 bell \x07 escape \x1b[0m delete \x7f next\x85line",
        "\ufeffbyte order mark, \ufffd, \uffff, \U0010ffff",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ],
)
def test_decoding_returns_the_text(shared, text):
    for options in ({}, {"target_language": "es"}, {"add_special_tokens": False}):
        assert decoded(shared, text, **options) == text
    assert shared.decode(shared(text_target=text).input_ids, skip_special_tokens=True) == text


def random_texts(count, seed=0):
    """Strings of up to 30 draws from a random mix of alphabets."""
    draw = random.Random(seed)
    special = ["<pad>", "</s>", "<s>", "<2es>", "<", ">", "light", "Lord", "’s", "'"]
    alphabets = [
        lambda: chr(draw.randrange(0x20, 0x7F)),
        lambda: chr(draw.randrange(0x20)),
        lambda: draw.choice(" \t\n\r\v\f\u0085\u00a0\u2009\u2028\u3000\u200b\ufeff▁Ġ"),
        lambda: draw.choice(special),
        lambda: chr(draw.randrange(0x300, 0x370)),  # combining marks
        lambda: chr(draw.randrange(0x4E00, 0xA000)),
        lambda: chr(draw.randrange(0x1F300, 0x1FB00)),
        lambda: chr(draw.choice([draw.randrange(0xA0, 0xD800), draw.randrange(0xE000, 0x110000)])),
    ]
    for _ in range(count):
        mix = draw.sample(alphabets, draw.randint(1, len(alphabets)))
        yield "".join(draw.choice(mix)() for _ in range(draw.randrange(31)))


def test_decoding_returns_random_texts(shared):
    for text in random_texts(4000):
        ids = shared(text).input_ids
        assert shared.decode(ids, skip_special_tokens=True) == text
        assert ids[-1] == EOS and not set(ids[:-1]) & set(shared.all_special_ids), repr(text)


def test_every_character_is_known(shared):
    characters = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) != "Cs"]
    texts = ["".join(characters[i : i + 500]) for i in range(0, len(characters), 500)]
    ids = shared(texts, add_special_tokens=False).input_ids
    assert shared.decode(ids) == texts
    assert None not in {token for row in ids for token in row}


def test_retrained_on_other_text_stays_exact(tokenizer):
    other = tokenizer.train_new_from_iterator([["Bonjour le monde", "le monde"] * 3], 290)
    assert len(other) < len(tokenizer) and other.languages == tokenizer.languages
    for text in random_texts(300, seed=1):
        assert decoded(other, text) == text


# The vocabulary


def test_source_and_target_share_one_vocabulary_of_both_languages(shared, corpus):
    for text in (corpus["en"][0], corpus["es"][0]):
        assert shared(text_target=text).input_ids == shared(text).input_ids
    for language in ("en", "es"):  # byte pairs of both: the one of the other language alone needs more pieces
        texts, other = (
            corpus[language][:50],
            train(corpus["es" if language == "en" else "en"], vocab_size=3000),
        )
        assert sum(map(len, shared(texts).input_ids)) < sum(map(len, other(texts).input_ids))


def test_ids_are_in_order(shared):
    tokens = shared.convert_ids_to_tokens(range(len(shared)))
    assert tokens[:5] == ["<s>", "<pad>", "</s>", "<2es>", "<2de>"]
    assert len(set(tokens[5 : 5 + 256])) == 256 and all(len(token) == 1 for token in tokens[5 : 5 + 256])
    assert all(len(token) > 1 for token in tokens[5 + 256 :])
    assert len(shared) == shared.vocab_size == 3000
    assert (shared.bos_token_id, shared.pad_token_id, shared.eos_token_id) == (BOS, PAD, EOS)
    assert sorted(shared.all_special_ids) == list(range(5))


def test_a_word_is_the_same_piece_at_any_position(shared):
    def ids(text):
        return shared(text, add_special_tokens=False).input_ids

    (light,) = ids("light")
    for text in ("light.", "light,", "light!", "light;”", "light\n", "light 7"):
        assert ids(text)[0] == light
    for text in ("the light", "was light. And", "7 light", "(! light"):
        assert light in ids(text)


def test_numbers_are_spelled_digit_by_digit(shared):
    digits = shared.convert_tokens_to_ids(list("0123456789"))
    assert shared("a1990", add_special_tokens=False).input_ids[-4:] == [digits[i] for i in (1, 9, 9, 0)]


def test_pieces_stay_within_words_digits_punctuation_or_white_space(corpus):
    texts = [
        text.replace(" ", " 1990 ").replace(".", ".</s>") for column in corpus.values() for text in column
    ]
    tokenizer = train(texts[:2000], vocab_size=1500)
    for token in tokenizer.convert_ids_to_tokens(range(3 + 256, 1500)):
        text = tokenizer.backend_tokenizer.decoder.decode(["!", token])[1:].removeprefix(" ")
        kinds = {"L": "word", "M": "word", "N": "digit", "Z": "space", "C": "space"}
        found = {kinds.get(unicodedata.category(c)[0], "mark") for c in text if c not in "\ufffd’'"}
        assert len(found) <= 1 and (found != {"digit"} or len(text) == 1), repr(text)


def test_lists_columns_and_generators_give_the_same_vocabulary(corpus, shared):
    columns = Dataset.from_dict(corpus)
    options = {"vocab_size": 3000, "language_tags": ["es", "de"]}
    expected = shared.backend_tokenizer.to_str()
    for pair in ((columns["en"], columns["es"]), ((text for text in corpus[name]) for name in corpus)):
        assert train(*pair, **options).backend_tokenizer.to_str() == expected


def test_training_is_deterministic_across_processes(corpus, tmp_path):
    (tmp_path / "text.json").write_text(json.dumps(corpus["en"]))
    code = (
        "import hashlib, json\n"
        "from vanilla_transformer.tokenization_vanilla_transformer import VanillaTransformerTokenizer as T\n"
        "t = T.train([json.load(open('text.json'))], 1500, show_progress=False)\n"
        "print(hashlib.sha256(t.backend_tokenizer.to_str().encode()).hexdigest())"
    )
    hashes = set()
    for seed, threads in (("1", "1"), ("2", "4")):
        env = {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        hashes.add(run.stdout.strip())
    assert len(hashes) == 1


def test_too_few_pairs_give_a_smaller_vocabulary_and_a_warning():
    with pytest.warns(UserWarning, match=r"vocabulary has 26\d tokens instead of 400"):
        tokenizer = train(["abc abc abc"], vocab_size=400)
    assert len(tokenizer) < 270
    assert decoded(tokenizer, "abc xyz ñ") == "abc xyz ñ"


def test_min_frequency_keeps_rare_pairs_apart():
    with pytest.warns(UserWarning, match="4 times"):
        tokenizer = train(["common"] * 4 + ["rare"] * 3, min_frequency=4)
    assert len(tokenizer.tokenize("common")) == 1
    assert len(tokenizer.tokenize("rare")) > 1


def test_lowercase_is_one_choice_for_training_and_encoding(corpus, tmp_path):
    tokenizer = train(corpus["en"], vocab_size=1000, lowercase=True)
    tokenizer.save_pretrained(tmp_path)
    tokenizer = VanillaTransformerTokenizer.from_pretrained(tmp_path)
    assert decoded(tokenizer, "  In The BEGINNING, Ñ ") == "  in the beginning, ñ "
    assert tokenizer("THE Lord").input_ids == tokenizer("the lord").input_ids


@pytest.mark.parametrize(
    "columns, options, error, words",
    [
        ([["a"]], {"vocab_size": 200}, ValueError, ["200", "259", "256 bytes"]),
        (
            [["a"]],
            {"vocab_size": 260, "language_tags": ["es", "de"]},
            ValueError,
            ["260", "261", "2 language"],
        ),
        ([["a"]], {"language_tags": ["<2es>"]}, ValueError, ["language_tags", "'<2es>'"]),
        ([["a"]], {"language_tags": "es"}, ValueError, ["language_tags", "['es']"]),
        ([["a"]], {"language_tags": ["2 es"]}, ValueError, ["language_tags", "'2 es'"]),
        ([], {}, ValueError, ["text to train on"]),
        ([[], []], {}, ValueError, ["text to train on"]),
        ([["", " \n"]], {}, ValueError, ["text to train on"]),
        ([["a"], ["b", None]], {}, TypeError, ["columns[1], row 1", "None"]),
        ([["a", 7]], {}, TypeError, ["columns[0], row 1", "int", "7"]),
        (["one text"], {}, TypeError, ["columns[0]", "'one text'"]),
    ],
)
def test_bad_training_data_raises(columns, options, error, words):
    with pytest.raises(error) as raised:
        train(*columns, **options)
    assert all(word in str(raised.value) for word in words), raised.value


# Sequences


def test_sequences_end_with_eos_in_source_and_target(shared):
    batch = shared(["The light.", "Light"], text_target=["La luz.", "Luz"])
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    for row in batch["input_ids"] + batch["labels"]:
        assert row[-1] == EOS and not set(row[:-1]) & set(shared.all_special_ids)
    pair = shared("The light.", "Light").input_ids
    assert pair == shared("The light.").input_ids + shared("Light").input_ids


def test_special_tokens_in_a_text_are_text_unless_asked_for(shared):
    assert EOS not in shared("a </s> b").input_ids[:-1]
    assert shared("<2es> a", split_special_tokens=False).input_ids[0] == shared.convert_tokens_to_ids("<2es>")
    assert shared("<2es> a").input_ids[0] != shared.convert_tokens_to_ids("<2es>")


def test_truncation_keeps_the_tag_and_eos(shared, corpus):
    tag = shared.convert_tokens_to_ids("<2es>")
    whole = shared(corpus["en"][0], target_language="es").input_ids
    assert whole[0] == tag and whole[-1] == EOS and len(whole) > 20
    for length in (2, 3, 10, len(whole) - 1, len(whole), 500):
        cut = shared(corpus["en"][0], target_language="es", truncation=True, max_length=length).input_ids
        assert cut == (whole if length >= len(whole) else whole[: length - 1] + [EOS])
    labels = shared(text_target=corpus["es"][0], truncation=True, max_length=10).input_ids
    assert labels == shared(text_target=corpus["es"][0]).input_ids[:9] + [EOS]


def test_padding_is_on_the_right_and_masked(shared):
    texts = ["The light.", "In the beginning God created", ""]
    batch = shared(texts, padding=True, return_tensors="pt")
    for row, mask, text in zip(batch["input_ids"], batch["attention_mask"], texts):
        alone = shared(text).input_ids
        assert row.tolist() == alone + [PAD] * (len(row) - len(alone))
        assert mask.tolist() == [1] * len(alone) + [0] * (len(row) - len(alone))


def test_a_batch_equals_its_texts_alone(shared, corpus):
    texts = corpus["en"][:200]
    assert shared(texts).input_ids == [shared(text).input_ids for text in texts]


# Language tags


def test_a_tag_begins_the_source_and_never_the_target(tokenizer):
    plain = tokenizer("The light.", text_target="La luz.")
    es, de = tokenizer.convert_tokens_to_ids(["<2es>", "<2de>"])
    once = tokenizer("The light.", text_target="La luz.", target_language="es")
    assert once["input_ids"] == [es] + plain["input_ids"] and once["labels"] == plain["labels"]
    assert tokenizer("The light.").input_ids == plain["input_ids"], "a tag of one call must not stay"

    tokenizer.target_language = "de"
    assert tokenizer(["The light."]).input_ids == [[de] + plain["input_ids"]]
    assert tokenizer.encode("The light.") == [de] + plain["input_ids"]
    assert tokenizer("The light.", target_language="es").input_ids == once["input_ids"]
    assert tokenizer(text_target="La luz.").input_ids == plain["labels"]
    tokenizer._switch_to_target_mode()
    assert tokenizer.encode("La luz.") == plain["labels"]
    tokenizer._switch_to_input_mode()
    assert tokenizer.encode("The light.")[0] == de
    assert tokenizer.num_special_tokens_to_add() == 2
    tokenizer.target_language = None
    assert tokenizer("The light.").input_ids == plain["input_ids"]


def test_an_unknown_language_raises_and_names_the_known_ones(tokenizer):
    assert tokenizer.languages == ["es", "de"]
    for choose in (
        lambda: tokenizer("The light.", target_language="fr"),
        lambda: setattr(tokenizer, "target_language", "fr"),
    ):
        with pytest.raises(ValueError, match="'fr'.*es, de"):
            choose()
        assert tokenizer.target_language is None
        assert tokenizer("The light.").input_ids[0] not in tokenizer.all_special_ids
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="language_tags"):
        train(["a b"]).target_language = "es"


def test_the_target_language_is_saved(tokenizer, tmp_path):
    tokenizer.target_language = "de"
    tokenizer.save_pretrained(tmp_path)
    loaded = VanillaTransformerTokenizer.from_pretrained(tmp_path)
    assert loaded.target_language == "de" and loaded.languages == ["es", "de"]
    assert loaded("The light.", text_target="La luz.") == tokenizer("The light.", text_target="La luz.")
    other = VanillaTransformerTokenizer.from_pretrained(tmp_path, target_language="es")
    assert other("The light.").input_ids == tokenizer("The light.", target_language="es").input_ids
    with pytest.raises(ValueError, match="'fr'.*es, de"):
        VanillaTransformerTokenizer.from_pretrained(tmp_path, target_language="fr")


# Saved and sent copies


@pytest.mark.parametrize("load", [VanillaTransformerTokenizer.from_pretrained, AutoTokenizer.from_pretrained])
def test_a_saved_tokenizer_is_the_same_to_the_byte(tokenizer, corpus, tmp_path, load):
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(tmp_path / "first")
    loaded = load(tmp_path / "first")
    loaded(corpus["en"][:3], padding=True, truncation=True, max_length=9, target_language="es")
    loaded(text_target=corpus["es"][:3])
    loaded.save_pretrained(tmp_path / "second")
    load(tmp_path / "second").save_pretrained(tmp_path / "third")
    saved = [(tmp_path / folder / "tokenizer.json").read_bytes() for folder in ("first", "second", "third")]
    assert saved[0] == saved[1] == saved[2]
    assert saved[0].decode() == tokenizer.backend_tokenizer.to_str(pretty=True)

    assert type(loaded) is VanillaTransformerTokenizer
    assert (loaded.model_max_length, loaded.padding_side, len(loaded)) == (77, "right", len(tokenizer))
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    texts = [*corpus["en"][:100], *random_texts(100, seed=2)]
    assert loaded(texts).input_ids == tokenizer(texts).input_ids
    assert decoded(loaded, "<pad> ▁ ") == "<pad> ▁ "


def test_a_loaded_tokenizer_adds_the_same_special_tokens(tokenizer, tmp_path):
    text = tokenizer("The light.").input_ids[:-1]
    tokenizer.save_pretrained(tmp_path / "plain")
    loaded = VanillaTransformerTokenizer.from_pretrained(tmp_path / "plain")
    assert loaded.add_eos_token and not loaded.add_bos_token
    loaded.add_bos_token = True
    assert loaded("The light.").input_ids == [BOS, *text, EOS]
    loaded.add_eos_token = False
    loaded.save_pretrained(tmp_path / "bos")
    for again in (loaded, VanillaTransformerTokenizer.from_pretrained(tmp_path / "bos")):
        assert again("The light.").input_ids == [BOS, *text]
    asked = VanillaTransformerTokenizer.from_pretrained(tmp_path / "plain", add_bos_token=True)
    assert asked("The light.").input_ids == [BOS, *text, EOS]


def test_a_folder_loads_with_trusted_code_and_without_the_package(tokenizer, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(VanillaTransformerTokenizer, "_auto_class", None)
    VanillaTransformerTokenizer.register_for_auto_class()
    tokenizer.target_language = "es"
    tokenizer.save_pretrained(tmp_path / "folder")
    code = (
        "import json, sys\n"
        "from transformers import AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained('folder', trust_remote_code=True)\n"
        "assert 'vanilla_transformer' not in sys.modules\n"
        "batch = tokenizer(json.load(open('text.json')), text_target='La luz.')\n"
        "tokenizer.save_pretrained('copy')\n"
        "print(json.dumps([type(tokenizer).__name__, dict(batch)]))"
    )
    (tmp_path / "text.json").write_text(json.dumps(corpus["en"][:5]))
    env = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    name, batch = json.loads(run.stdout.splitlines()[-1])
    assert name == "VanillaTransformerTokenizer"
    assert batch == dict(tokenizer(corpus["en"][:5], text_target="La luz."))
    saved = [(tmp_path / folder / "tokenizer.json").read_bytes() for folder in ("folder", "copy")]
    assert saved[0] == saved[1]


def test_datasets_map_it_in_several_processes(tokenizer, corpus):
    def encode(batch):
        return tokenizer(batch["en"], text_target=batch["es"], truncation=True, max_length=20)

    rows = Dataset.from_dict({name: column[:60] for name, column in corpus.items()})
    mapped = rows.map(encode, batched=True, batch_size=16, num_proc=2, remove_columns=rows.column_names)
    assert mapped[:] == dict(encode(rows[:]))


def test_a_call_changes_nothing_that_is_saved(corpus, tmp_path):
    """Else `datasets` would not find in its cache what the same tokenizer has encoded."""
    tokenizer = train(corpus["en"][:500], vocab_size=400, language_tags=["es"])
    state, file = Hasher.hash(tokenizer), tokenizer.backend_tokenizer.to_str()
    for options in ({"target_language": "es"}, {"truncation": True, "max_length": 5}, {"padding": True}):
        tokenizer(["The light", "Light"], text_target=["La luz", "Luz"], **options)
        assert Hasher.hash(tokenizer) == state, options
        assert tokenizer.backend_tokenizer.to_str() == file, options
