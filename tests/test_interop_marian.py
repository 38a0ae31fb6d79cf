"""An imported Marian model gives the original's numbers and texts, with its own tokenizer."""

import json
import shutil
import sys

import pytest
import torch
from imported_models import assert_same_first_loss, assert_same_logits, assert_same_output
from tiny_marian import texts, write_marian
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianMTModel, pipeline

from vanilla_transformer import split_words
from vanilla_transformer.alignments import source_words, words_of_pieces
from vanilla_transformer.interop import ConversionError, import_model

VARIANTS = {
    "opus": {},
    "relu": {"activation_function": "relu"},
    "unscaled": {"scale_embedding": False},
    "separate": {
        "separate": True,
        "decoder_vocab_size": 95,
        "pad_token_id": 94,
        "decoder_start_token_id": 94,
    },
    "separate unscaled": {"separate": True, "scale_embedding": False},
    "untied": {"separate": True, "tie_word_embeddings": False, "decoder_vocab_size": 120, "d_model": 48},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    """The original, and the import as it is loaded from its folder."""
    folder = tmp_path_factory.mktemp("marian")
    original = write_marian(folder / "opus", with_tokenizer=False, **VARIANTS[request.param])
    report = import_model(folder / "opus", folder / "ours").report
    assert report.passed and report.format == "marian"
    assert [name for name, *_ in report.checks][3:] == [
        "logits equal the original's",
        "greedy outputs equal the original's",
        "beam-4 outputs equal the original's",
    ]
    return AutoModelForSeq2SeqLM.from_pretrained(folder / "ours"), original


def marian_logits(original):
    def logits(input_ids, attention_mask, decoder_input_ids):
        return original(input_ids, attention_mask, decoder_input_ids=decoder_input_ids).logits

    return logits


def test_logits(pair):
    assert_same_logits(pair[0], marian_logits(pair[1]))


def test_greedy(pair):
    assert_same_output(*pair, num_beams=1)


def test_beam_4(pair):
    assert_same_output(*pair, num_beams=4)


def test_first_loss(pair):
    assert_same_first_loss(pair[0], marian_logits(pair[1]))


def test_the_bias_of_the_logits_learns(pair):
    model = pair[0]
    assert model.config.output_bias
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[8, 9, 0]])}
    model(**batch).loss.backward()
    assert model.lm_head.bias.grad.abs().sum() > 0
    model.zero_grad()


def test_a_model_without_bias_gets_none(tmp_path):
    original = write_marian(tmp_path / "opus", with_tokenizer=False)
    original.final_logits_bias.zero_()
    original.save_pretrained(tmp_path / "opus")
    model = import_model(tmp_path / "opus").model
    assert not model.config.output_bias and model.lm_head.bias is None


def test_the_search_settings_stay_marians(pair):
    ours, theirs = pair[0].generation_config, pair[1].generation_config
    for name in ("num_beams", "bad_words_ids", "forced_eos_token_id", "max_length", "length_penalty"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert getattr(ours, "length_penalty_type", None) is None
    assert ours.decoder_start_token_id == pair[0].config.pad_token_id


@pytest.mark.parametrize(
    "change, named",
    [
        ({"encoder_layerdrop": 0.1}, "encoder_layerdrop"),
        ({"normalize_embedding": True}, "normalize_embedding"),
        ({"normalize_before": True}, "normalize_before"),
        ({"decoder_ffn_dim": 32}, "ffn_dim"),
        ({"decoder_attention_heads": 2}, "attention_heads"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_change_results_is_refused(tmp_path, change, named):
    write_marian(tmp_path / "opus", with_tokenizer=False, **change)
    with pytest.raises(ConversionError, match=named):
        import_model(tmp_path / "opus", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_learned_positions_are_refused(tmp_path):
    original = write_marian(tmp_path / "opus", with_tokenizer=False)
    original._keys_to_ignore_on_save = None
    original.model.encoder.embed_positions.weight.data += 1
    original.save_pretrained(tmp_path / "opus")
    with pytest.raises(ConversionError, match="learned positions in the encoder"):
        import_model(tmp_path / "opus")


def test_a_failed_check_saves_nothing(tmp_path, monkeypatch):
    write_marian(tmp_path / "opus", with_tokenizer=False)
    monkeypatch.setattr("vanilla_transformer.interop.checks.TOLERANCE", -1)
    with pytest.raises(ConversionError, match="FAILED logits equal the original's"):
        import_model(tmp_path / "opus", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.fixture(scope="module", params=[False, True], ids=["joint", "separate"])
def folders(request, tmp_path_factory):
    pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("opus")
    write_marian(folder / "opus", separate=request.param)
    import_model(folder / "opus", folder / "ours")
    return folder / "ours", folder / "opus"


def test_the_tokenizer_encodes_and_decodes_alike(folders):
    ours, theirs = map(AutoTokenizer.from_pretrained, folders)
    assert type(ours) is type(theirs)
    sources = [
        f"{tag}{text}" for tag in ("", ">>spa<< ", ">>fra<< ", ">>xxx<< ") for text in texts("en")[:50]
    ]
    sources += ["", " ", "☃ \t 漢字 <pad> </s> <unk>", ">>spa<<", "a" * 300]
    assert ours(sources) == theirs(sources)
    targets = texts("es")[:50]
    ids = ours(text_target=targets)["input_ids"]
    assert ids == theirs(text_target=targets)["input_ids"]
    for skip in (True, False):
        assert ours.batch_decode(ids, skip_special_tokens=skip) == theirs.batch_decode(
            ids, skip_special_tokens=skip
        )


@pytest.mark.parametrize("task", ["translation", "summarization", "text2text-generation"])
def test_pipelines_give_the_originals_texts(folders, task):
    ours, theirs = (pipeline(task, model=str(folder), device="cpu") for folder in folders)
    sources = [">>spa<< " + text for text in texts("en")[:6]]
    assert ours(sources, max_length=30) == theirs(sources, max_length=30)
    assert ours(sources, batch_size=3, num_beams=1, max_length=30) == theirs(
        sources, num_beams=1, max_length=30
    )


def test_words_of_the_source_are_aligned(folders):
    """With two vocabularies, the tokenizer itself decodes sources with the words of the target."""
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for text in texts("en")[:20]:
            ids = torch.tensor(tokenizer(text)["input_ids"])
            with source_words(tokenizer) as options:
                found = words_of_pieces(tokenizer, ids, **options)
            assert sorted(set(sum(found, []))) == list(range(len(split_words(text))))
        target = tokenizer(text_target=texts("es")[0])["input_ids"]
        assert tokenizer.decode(target, skip_special_tokens=True) == texts("es")[0]


def test_the_original_class_is_not_changed(folders):
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained(folders[1]), MarianMTModel)


def test_a_folder_as_on_the_hub(tmp_path):
    """OPUS-MT's config.json has settings of Marian and of the search; weights are a half-precision pickle."""
    original = write_marian(tmp_path / "opus", with_tokenizer=False)
    folder, pad = tmp_path / "opus", original.config.pad_token_id
    (folder / "model.safetensors").unlink()
    torch.save(original.half().state_dict(), folder / "pytorch_model.bin")
    (folder / "generation_config.json").unlink()
    entries = json.loads((folder / "config.json").read_text())
    entries |= {
        "static_position_embeddings": True,
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "normalize_before": False,
        "normalize_embedding": False,
        "extra_pos_embeddings": pad + 1,
        "classif_dropout": 0.0,
        "num_beams": 6,
        "bad_words_ids": [[pad]],
        "max_length": 40,
        "_name_or_path": "/tmp/Helsinki-NLP/opus-mt-en-de",
    }
    (folder / "config.json").write_text(json.dumps(entries))
    imported = import_model(folder, tmp_path / "ours")
    settings = imported.model.generation_config
    assert (settings.num_beams, settings.max_length, settings.bad_words_ids) == (6, 40, [[pad]])
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert loaded.dtype == torch.float32 and loaded.generation_config.bad_words_ids == [[pad]]
    assert "half precision" in imported.report.notes[0]
    theirs = MarianMTModel.from_pretrained(folder, dtype=torch.float32).eval()
    for stack in (theirs.model.encoder, theirs.model.decoder):
        stack.embed_positions.weight.data = stack.embed_positions.create_weight()
    assert_same_logits(loaded, marian_logits(theirs))
    assert_same_output(loaded, theirs, num_beams=6)


def test_a_tokenizer_without_its_package_names_the_extra(tmp_path, monkeypatch):
    write_marian(tmp_path / "opus", with_tokenizer=False)
    (tmp_path / "opus" / "source.spm").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"sentencepiece is missing: install the extra \[interop\]"):
        import_model(tmp_path / "opus")


@pytest.mark.parametrize("file", ["source.spm", "target.spm", "vocab.json", "config.json"])
def test_a_file_that_is_missing_is_named(folders, tmp_path, file):
    folder = shutil.copytree(folders[1], tmp_path / "opus")
    (folder / file).unlink()
    with pytest.raises(ConversionError, match=f"opus has no {file}: copy"):
        import_model(folder, format="marian", check=False)


def test_a_second_vocabulary_that_is_missing_is_named(tmp_path):
    pytest.importorskip("sentencepiece")
    write_marian(tmp_path / "opus", separate=True)
    (tmp_path / "opus" / "target_vocab.json").unlink()
    with pytest.raises(ConversionError, match="opus has no target_vocab.json: copy"):
        import_model(tmp_path / "opus", check=False)


def test_files_that_cannot_be_read_are_named(folders, tmp_path):
    folder = shutil.copytree(folders[1], tmp_path / "opus")
    (folder / "source.spm").write_text("nonsense")
    with pytest.raises(ConversionError, match="the tokenizer of .* cannot be read: .*source.spm"):
        import_model(folder, check=False)
    (folder / "model.safetensors").write_text("nonsense")
    with pytest.raises(ConversionError, match="the weights of .*opus cannot be read"):
        import_model(folder, check=False)


def test_a_note_says_that_there_is_no_tokenizer(tmp_path):
    write_marian(tmp_path / "opus", with_tokenizer=False)
    notes = import_model(tmp_path / "opus", check=False).report.notes
    assert any("has no source.spm, target.spm, vocab.json" in note for note in notes)
