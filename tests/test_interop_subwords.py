"""Models of OpenNMT-py, eole and JoeyNMT get a tokenizer that gives the ids of these toolkits."""

import io
import json
import pickle

import pytest
import torch
import yaml
from foreign_checkpoints import write_eole, write_joeynmt, write_opennmt
from test_interop_tokenizers import apply_codes, learn_codes
from tiny_marian import texts, train_sentencepiece
from transformers import AutoTokenizer, pipeline

from vanilla_transformer import ForbiddenTerms, ToolkitTokenizer, find_terms, word_alignments
from vanilla_transformer.interop import ConversionError, import_model
from vanilla_transformer.interop.pieces import Side, only_known_pieces, toolkit_tokenizer

OPENNMT, JOEYNMT = ["<unk>", "<blank>", "<s>", "</s>"], ["<unk>", "<pad>", "<s>", "</s>"]
SENTENCES = [*(text.lower() for text in texts("en")[:40]), "☃ 漢字", "two  spaces", " a b ", "</s> <unk> x"]
KINDS = {"bpe": "subword-nmt", "sentencepiece": "sentencepiece", None: "words"}


@pytest.fixture(scope="module")
def subwords(tmp_path_factory):
    """A model of SentencePiece and codes of subword-nmt, and the pieces that they produce."""
    pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("subwords")
    pieces = train_sentencepiece(folder, "english", "en", 200)
    words: dict[str, int] = {}
    for word in " ".join(SENTENCES[:40]).split():
        words[word] = words.get(word, 0) + 1
    codes = learn_codes(words, 60)
    (folder / "codes").write_text("\n".join(["#version: 0.2", *map(" ".join, codes)]) + "\n")
    return {
        "folder": folder,
        "codes": codes,
        "sentencepiece": (folder / "english.spm", pieces[3:]),
        "subword-nmt": (folder / "codes", sorted({x for word in words for x in apply_codes(word, codes)})),
        "words": (None, sorted(words)),
    }


def as_opennmt(subwords, kind: str, text: str) -> list[str]:
    if kind == "sentencepiece":
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(str(subwords["sentencepiece"][0]))
        return model.encode(text.strip(), out_type=str) or [""]
    words = text.strip().split(" ")
    return words if kind == "words" else [x for w in words if w for x in apply_codes(w, subwords["codes"])]


def vocabularies(pieces: list[str], separate: bool) -> dict[str, list[str]]:
    """Some pieces are unknown."""
    return {
        "src": [*OPENNMT, *pieces[:-3]],
        "tgt": [*OPENNMT, *(reversed(pieces[:-7]) if separate else pieces[:-3])],
    }


@pytest.mark.parametrize("separate", [False, True], ids=["joint", "separate"])
@pytest.mark.parametrize("transform", KINDS, ids=str)
@pytest.mark.parametrize("project", ["opennmt", "eole"])
def test_ids_of_opennmt(subwords, tmp_path, project, transform, separate):
    kind = KINDS[transform]
    file, pieces = subwords[kind]
    vocabulary, tied = vocabularies(pieces, separate), "output" if separate else "all"
    folder = tmp_path / "foreign"
    if project == "opennmt":
        options = {
            "transforms": [*filter(None, [transform]), "filtertoolong"],
            "src_subword_model": str(file),
        }
        write_opennmt(folder, vocabulary=vocabulary, tied=tied, **options)
    else:
        settings = {transform: {"src_subword_model": "${MODEL_PATH}/english", "tgt_subword_model": None}}
        transforms = {**(settings if transform else {}), "filtertoolong": {}}
        write_eole(folder, vocabulary=vocabulary, tied=tied, transforms=transforms)
        if file:
            (folder / "english").write_bytes(file.read_bytes())
    report = import_model(folder, tmp_path / "ours").report
    assert any("at spaces only" in note for note in report.notes) == (kind == "words")
    assert not any("filtertoolong" in note or "no tokenizer" in note for note in report.notes)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert isinstance(tokenizer, ToolkitTokenizer) and tokenizer.separate_vocabs == separate
    unknown = 0
    for words, key, end in ((vocabulary["src"], "text", []), (vocabulary["tgt"], "text_target", [3])):
        for text in SENTENCES:
            cut = as_opennmt(subwords, kind, text)
            expected = [words.index(piece) if piece in words else 0 for piece in cut]
            assert tokenizer(**{key: text})["input_ids"] == expected + end, text
            unknown += expected.count(0)
            if 0 not in expected and key == "text_target":
                ids = expected + end
                assert tokenizer.decode(ids, skip_special_tokens=True).split() == text.split()
    assert unknown and tokenizer("")["input_ids"] == [0] and tokenizer.pad_token_id == 1
    known = next(text for text in SENTENCES if 0 not in tokenizer(text)["input_ids"])
    assert tokenizer.decode(tokenizer(known)["input_ids"], use_source_tokenizer=True) == known
    translate = pipeline("translation", model=str(tmp_path / "ours"), device="cpu", max_length=8)
    assert len(translate(SENTENCES[:3])) == 3
    (line,) = word_alignments(translate.model, tokenizer, [known], [known])
    assert {int(link.split("-")[0]) for link in line.split()} <= set(range(len(known.split()) * 2))


def test_terms_are_words_of_a_target_with_more_words(tmp_path):
    vocabulary = {"src": [*OPENNMT, "dog"], "tgt": [*OPENNMT, "a", "big", "hund", "katze"]}
    write_opennmt(tmp_path / "opennmt", vocabulary=vocabulary, tied="output")
    imported = import_model(tmp_path / "opennmt", check=False)
    forbidden = ForbiddenTerms(imported.processor, ["katze", "big hund"])
    scores = forbidden(torch.tensor([[2, 7], [2, 5]]), torch.zeros(2, 8))
    assert (scores < 0).nonzero().tolist() == [[0, 7], [1, 6], [1, 7]]
    output = imported.model.generate(
        torch.tensor([[4]]), terms=find_terms(imported.processor, ["dog"], {"dog": "hund"}), num_beams=2
    )
    assert 6 in output[0]


def test_given_subwords_serve_both_sides(subwords, tmp_path):
    file, pieces = subwords["subword-nmt"]
    vocabulary = vocabularies(pieces, separate=True)
    write_eole(tmp_path / "eole", vocabulary=vocabulary, tied="output", transforms={"onmt_tokenize": {}})
    note = import_model(tmp_path / "eole").report.notes[-1]
    assert "cut by onmt_tokenize" in note and "Sources have no </s>" in note
    tokenizer = import_model(tmp_path / "eole", source_subwords=file).processor
    for key, words in (("text", vocabulary["src"]), ("text_target", vocabulary["tgt"])):
        cut = apply_codes("beginning", subwords["codes"])
        ids = [words.index(piece) if piece in words else 0 for piece in cut]
        assert tokenizer(**{key: "beginning"})["input_ids"][: len(ids)] == ids
    with pytest.raises(ConversionError, match="there is no subword model nowhere"):
        import_model(tmp_path / "eole", source_subwords="nowhere")
    (tmp_path / "text").write_text("three words here\n")
    with pytest.raises(ConversionError, match="text is no model of subword-nmt"):
        import_model(tmp_path / "eole", source_subwords=tmp_path / "text")


@pytest.mark.parametrize(
    "options, named",
    [
        (
            {"transforms": ["bpe"], "src_subword_model": "/elsewhere/codes"},
            "/elsewhere/codes, which is not here",
        ),
        ({"transforms": ["bpe"]}, "names no model of bpe"),
        ({"transforms": ["onmt_tokenize", "bpe"]}, "onmt_tokenize and bpe"),
        ({"src_subword_vocab": "words", "src_vocab_threshold": 50}, "src_vocab_threshold"),
        ({"transforms": ["prefix"]}, "'prefix' of the checkpoint can change texts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_notes_say_why_there_is_no_tokenizer(tmp_path, options, named):
    write_opennmt(tmp_path / "opennmt", **options)
    imported = import_model(tmp_path / "opennmt", check=False)
    assert (imported.processor is None) == ("prefix" not in named)
    assert any(named in note for note in imported.report.notes)


def write_joeynmt_with(folder, words, settings) -> None:
    write_joeynmt(folder, words=len(words))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for side in ("src", "trg"):
        config["data"][side] |= settings
        (folder / f"{side}_vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_subword_nmt_of_joeynmt_cuts_into_known_pieces(subwords, tmp_path):
    apply_bpe = pytest.importorskip("subword_nmt.apply_bpe")
    file, pieces = subwords["subword-nmt"]
    words = [*JOEYNMT, *(piece for piece in pieces if len(piece) != 5)]  # merges with unknown results
    settings = {"level": "bpe", "tokenizer_type": "subword-nmt", "tokenizer_cfg": {"codes": "bpe.codes"}}
    write_joeynmt_with(tmp_path / "joey", words, settings)
    assert "no tokenizer" in import_model(tmp_path / "joey").report.notes[-1]
    (tmp_path / "joey" / "bpe.codes").write_bytes(file.read_bytes())
    import_model(tmp_path / "joey", tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    restricted = apply_bpe.BPE(io.StringIO(file.read_text()), vocab=set(words[4:]))
    differ = 0
    for text in SENTENCES:
        cut = restricted.process_line(text).strip().split()
        differ += cut != as_opennmt(subwords, "subword-nmt", text)
        expected = [words.index(piece) if piece in words else 0 for piece in cut]
        for copy in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
            assert copy(text)["input_ids"] == [*expected, 3]
    assert differ > 5


def test_a_restricted_sentencepiece_cuts_into_known_pieces_and_characters(subwords):
    import sentencepiece

    file, pieces = subwords["sentencepiece"]
    known = pieces[::2]
    model = sentencepiece.SentencePieceProcessor(model_proto=only_known_pieces(Side(known, {}, file)))
    cuts = [model.encode(text, out_type=str) for text in SENTENCES[:40]]
    assert all(piece in known or len(piece) == 1 for cut in cuts for piece in cut)
    assert any(len(piece) > 2 for cut in cuts for piece in cut)


def test_a_word_that_a_vocabulary_has_twice_has_its_first_id():
    side = Side([*OPENNMT, "a", "b", "a", "</s>"], {"cut": "words"})
    special = {"unk_token": "<unk>", "pad_token": "<blank>", "eos_token": "</s>"}
    assert toolkit_tokenizer([side, side], True, special)("a b")["input_ids"] == [4, 5, 3]


@pytest.mark.parametrize("level", ["word", "char"])
def test_plain_texts_of_joeynmt(tmp_path, level):
    settings = {"level": level, "lowercase": True, "normalize": True}
    sentence, normal = "“Ａ　Word”  , and more !", '"a word", and more!'
    words = [*JOEYNMT, *(normal.split() if level == "word" else sorted({*normal.replace(" ", "▁")}))]
    write_joeynmt_with(tmp_path / "joey", words, settings)
    import_model(tmp_path / "joey", tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    cut = normal.split() if level == "word" else list(normal.replace(" ", "▁"))
    ids = tokenizer(sentence)["input_ids"]
    assert ids == [*map(words.index, cut), 3]
    assert tokenizer.decode(ids, skip_special_tokens=True) == normal
    assert tokenizer.decode(ids).endswith("</s>")


def test_source_and_target_may_be_cut_in_two_ways(tmp_path):
    files = [tmp_path / "source.json", tmp_path / "target.json"]
    for file, words in zip(files, (["two", "dogs"], "▁dehinuwz")):
        file.write_text(json.dumps({word: index for index, word in enumerate([*JOEYNMT, *words])}))
    ToolkitTokenizer(*map(str, files), target={"cut": "characters"}).save_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    source, target = tokenizer("two dogs")["input_ids"], tokenizer(text_target="zwei hunde")["input_ids"]
    assert tokenizer(text_target=" zwei ")["input_ids"] == [4, *target[:4], 3]  # as JoeyNMT reads a line
    for _ in range(2):
        found = tokenizer.decode(source, use_source_tokenizer=True, skip_special_tokens=True)
        assert found == "two dogs"
        assert tokenizer.decode(target, skip_special_tokens=True) == "zwei hunde"


def test_moses_of_joeynmt(tmp_path):
    pytest.importorskip("sacremoses")
    words = [*JOEYNMT, "he", "say", ",", "&quot;", "stop", "."]
    write_joeynmt_with(
        tmp_path / "joey", words, {"level": "word", "tokenizer_cfg": {"pretokenizer": "moses"}}
    )
    imported = import_model(tmp_path / "joey", tmp_path / "ours")
    assert not any("spaces only" in note for note in imported.report.notes)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    ids = tokenizer('he say, "stop.')["input_ids"]
    assert ids == [*range(4, 10), 3]
    assert tokenizer.decode(ids, skip_special_tokens=True) == 'he say, "stop.'


@pytest.mark.parametrize("write", [write_opennmt, write_eole, write_joeynmt])
def test_the_report_names_dropout_that_does_not_act_here(tmp_path, write):
    write(tmp_path / "foreign")
    notes = import_model(tmp_path / "foreign", check=False).report.notes
    assert any(note.startswith("dropout=0.1 does not act inside attention") for note in notes)
