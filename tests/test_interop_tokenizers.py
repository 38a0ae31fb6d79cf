"""The tokenizers of imported checkpoints give the ids that the original projects give."""

import json
import shutil

import pytest
import yaml
from foreign_checkpoints import write_fairseq, write_joeynmt
from tiny_marian import texts, train_sentencepiece
from transformers import AutoTokenizer, FSMTConfig, FSMTForConditionalGeneration, pipeline

from vanilla_transformer.interop import ConversionError, import_model
from vanilla_transformer.interop.fairseq import fsmt_tokenizer, read_dictionary

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def learn_codes(words: dict[str, int], merges: int) -> list[tuple[str, str]]:
    """Byte-pair encoding as subword-nmt learns it."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    codes = []
    for _ in range(merges):
        pairs: dict[tuple[str, str], int] = {}
        for word, pieces in split.items():
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] = pairs.get(pair, 0) + words[word]
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        codes.append(best)
        split = {word: merged(pieces, best) for word, pieces in split.items()}
    return codes


def merged(pieces, pair):
    result, index = [], 0
    while index < len(pieces):
        together = tuple(pieces[index : index + 2]) == pair
        result.append("".join(pair) if together else pieces[index])
        index += 1 + together
    return result


def apply_codes(word, codes):
    """The pieces of a word as fairseq's dictionaries name them: `@@` where the word goes on."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    for pair in codes:
        pieces = merged(pieces, pair)
    return [piece[:-4] if piece.endswith("</w>") else f"{piece}@@" for piece in pieces]


def test_merges_of_digits_have_no_frequency(tmp_path):
    pytest.importorskip("sacremoses")
    words = [*SPECIAL, "195", "1@@", "9@@", "5", "19@@"]
    for lines in ("#version: 0.2\n1 9\n19 5</w>\n", "1 9 20\n19 5</w> 7\n"):  # of subword-nmt, of fastBPE
        (tmp_path / "codes").write_text(lines)
        assert fsmt_tokenizer(tmp_path / "codes", [words, words], ["en", "de"]).tokenize("195") == ["195</w>"]


def test_a_dictionary_has_a_word_on_each_line(tmp_path):
    (tmp_path / "dict.en.txt").write_bytes("the 10\r\na\u2028b 5\nx\x85 4\ncat 3\n".encode())
    assert read_dictionary(tmp_path / "dict.en.txt") == [*SPECIAL, "the", "a\u2028b", "x\x85", "cat"]
    (tmp_path / "dict.en.txt").write_bytes(b"\xfc 10\n")
    with pytest.raises(ConversionError, match="dict.en.txt is not UTF-8"):
        read_dictionary(tmp_path / "dict.en.txt")


def test_bpe_of_fairseq(tmp_path):
    pytest.importorskip("sacremoses")
    sentences = [text.lower() for text in texts("en")[:80]]
    tokens = [[word for word in text.split() if word.isalpha()] for text in sentences]
    counts: dict[str, int] = {}
    for word in sum(tokens, []):
        counts[word] = counts.get(word, 0) + 1
    codes = learn_codes(counts, 60)
    pieces = sorted({piece for word in counts for piece in apply_codes(word, codes)})
    words = [*SPECIAL, *pieces[:-3]]  # some pieces are unknown
    write_fairseq(tmp_path / "fairseq", words=len(words))
    for language in ("en", "es"):
        lines = [f"{word} 1\n" for word in words[4:]]
        (tmp_path / "fairseq" / f"dict.{language}.txt").write_text("".join(lines))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in codes)]
    (tmp_path / "fairseq" / "bpecodes").write_text("\n".join(lines) + "\n")
    import_model(tmp_path / "fairseq", tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    for line in tokens:
        expected = [
            words.index(piece) if piece in words else 3 for word in line for piece in apply_codes(word, codes)
        ]
        assert tokenizer(" ".join(line))["input_ids"] == [*expected, 2]
    known = [line for line in tokens if 3 not in tokenizer(" ".join(line))["input_ids"]]
    assert len(known) > 20
    for line in known:
        ids = tokenizer(" ".join(line))["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(line)
    assert pipeline("translation", model=str(tmp_path / "ours"), device="cpu")("in the beginning")

    # The same tokenizer in a folder of FSMT.
    sizes = {"src_vocab_size": len(words), "tgt_vocab_size": len(words), "tie_word_embeddings": True}
    layers = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 32}
    layers |= {
        f"{stack}_{name}": 2 for stack in ("encoder", "decoder") for name in ("ffn_dim", "attention_heads")
    }
    FSMTForConditionalGeneration(FSMTConfig(**sizes, **layers)).save_pretrained(tmp_path / "fsmt")
    tokenizer.save_pretrained(tmp_path / "fsmt")
    notes = import_model(tmp_path / "fsmt", tmp_path / "again").report.notes
    assert not any("separate vocabularies" in note for note in notes)
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    lines = [" ".join(line) for line in tokens]
    assert again(lines) == tokenizer(lines) and again.eos_token_id == 2

    # With another vocabulary of the target, FSMTTokenizer is of no use for training.
    target = json.loads((tmp_path / "fsmt" / "vocab-tgt.json").read_text())
    moved = {word: 4 + len(target) - index if index > 4 else index for word, index in target.items()}
    (tmp_path / "fsmt" / "vocab-tgt.json").write_text(json.dumps(moved))
    notes = import_model(tmp_path / "fsmt", check=False).report.notes
    assert any("separate vocabularies, but FSMTTokenizer" in note for note in notes)


@pytest.mark.parametrize("separate", [False, True], ids=["joint", "separate"])
@pytest.mark.parametrize("project", ["fairseq", "joeynmt"])
def test_sentencepiece(tmp_path, project, separate):
    pytest.importorskip("sentencepiece")
    import sentencepiece

    files = tmp_path / "files"
    files.mkdir()
    pieces = [piece for piece in train_sentencepiece(files, "spm", "en", 200) if piece not in SPECIAL]
    first = SPECIAL if project == "fairseq" else ["<unk>", "<pad>", "<s>", "</s>"]
    source, target = [*first, *pieces], [*first, *(reversed(pieces[:-5]) if separate else pieces)]
    folder = tmp_path / project
    tied = "output" if separate else "all"
    if project == "fairseq":
        write_fairseq(folder, words=len(source), target_words=len(target), tied=tied)
        for language, words in (("en", source), ("es", target)):
            (folder / f"dict.{language}.txt").write_text("".join(f"{word} 1\n" for word in words[4:]))
        shutil.copy(files / "spm.spm", folder / "sentencepiece.bpe.model")
    else:
        write_joeynmt(folder, words=len(source), target_words=len(target), tied=tied)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for side, words in (("src", source), ("trg", target)):
            config["data"][side] |= {
                "tokenizer_type": "sentencepiece",
                "tokenizer_cfg": {"model_file": "/elsewhere/sp.model"},
            }
            (folder / f"{side}_vocab.txt").write_text("\n".join(words) + "\n")
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        shutil.copy(files / "spm.spm", folder / "sp.model")
    import_model(folder, tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    model = sentencepiece.SentencePieceProcessor(str(files / "spm.spm"))
    end, unknown = source.index("</s>"), source.index("<unk>")
    for words, key in ((source, "text"), (target, "text_target")):
        for text in [*texts("en")[:50], "☃ 漢字", ""]:
            found, cut = tokenizer(**{key: text})["input_ids"], model.encode(text, out_type=str)
            if project == "fairseq" or words == source:
                expected = [words.index(piece) if piece in words else unknown for piece in cut]
                assert found == [*expected, end]
            else:  # JoeyNMT cuts such that the pieces are in the vocabulary
                known = [words[index] for index in found[:-1] if index != unknown]
                lost = {*text} - {*"".join(words)}
                assert "".join(known) == "".join(piece for piece in "".join(cut) if piece not in lost)
    text = texts("en")[0]
    ids = tokenizer(text_target=text)["input_ids"]
    assert unknown in ids or tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.pad_token_id == 1
    assert pipeline("translation", model=str(tmp_path / "ours"), device="cpu")(text, max_length=8)


def test_a_dictionary_of_another_model_is_refused(tmp_path):
    write_fairseq(tmp_path / "fairseq")
    for language in ("en", "es"):
        (tmp_path / "fairseq" / f"dict.{language}.txt").write_text("a 1\nb 1\n")
    with pytest.raises(ConversionError, match=r"dict\.en\.txt has 6 words, but the model has 61"):
        import_model(tmp_path / "fairseq")
