"""Imported models go out to CTranslate2: two vocabularies, ties, and small errors."""

import sys
from pathlib import Path

import pytest
import torch
from cli_models import call, save_translator
from foreign_checkpoints import write_opennmt
from tiny_marian import texts, write_marian
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer.interop import ConversionError, import_model

ctranslate2 = pytest.importorskip("ctranslate2")
exporting = pytest.importorskip("vanilla_transformer.interop.exporting")

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import imported_marian  # noqa: E402


def test_the_benchmark_finds_no_difference(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sentencepiece")
    write_marian(tmp_path / "opus", max_position_embeddings=512)
    (tmp_path / "lines").write_text("\n".join(text[:40] for text in texts("en")[:6]) + "\n")
    words = [str(tmp_path / "opus"), str(tmp_path / "lines"), "--batch_size", "3", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["imported_marian.py", *words])
    imported_marian.main()
    output = capsys.readouterr().out
    assert output.count("0 of 6 outputs differ") == 2 and output.count("6 of 6 outputs are equal") == 2


@pytest.mark.parametrize("separate", [False, True], ids=["joint", "separate"])
def test_marian_models_translate_alike(tmp_path, separate):
    pytest.importorskip("sentencepiece")
    write_marian(tmp_path / "opus", separate=separate, max_position_embeddings=512)
    import_model(tmp_path / "opus", tmp_path / "ours", check=False)
    sentences = [f">>spa<< {text[:80]}" for text in texts("en")[:20]]
    exported = exporting.export_ctranslate2(tmp_path / "ours", tmp_path / "ct2", sentences=sentences)
    assert [check.equal + check.ties for check in exported.checks] == [20, 20]
    assert exported.difference < 1e-4

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ct2")
    source, target = exporting.vocabularies(
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").config, tokenizer
    )
    assert source.index("</s>") == target.index("</s>") == 0 and (source != target) == separate
    ids = tokenizer(sentences[0])["input_ids"]
    translator = ctranslate2.Translator(str(tmp_path / "ct2"))
    (result,) = translator.translate_batch([[source[id] for id in ids]], max_decoding_length=10)
    known = {*target}
    assert result.hypotheses[0] and known.issuperset(result.hypotheses[0])


def test_two_vocabularies_of_opennmt(tmp_path):
    write_opennmt(tmp_path / "onmt", tied="none", target_words=47)
    import_model(tmp_path / "onmt", tmp_path / "ours", check=False)
    exported = exporting.export_ctranslate2(tmp_path / "ours", tmp_path / "ct2")
    assert [check.equal + check.ties for check in exported.checks] == [100, 100]


def test_a_tie_is_no_difference(tmp_path):
    """Each target word has a twin with the same logits, so that every choice is a tie."""
    folder = save_translator(tmp_path / "model", tie_word_embeddings=False, max_position_embeddings=128)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    with torch.no_grad():
        for matrix in (model.lm_head.weight, model.model.decoder.embed_tokens.weight):
            first = matrix[10:].shape[0] // 2
            matrix[10 : 10 + first] = matrix[10 + first : 10 + 2 * first]
    model.save_pretrained(folder)
    exported = exporting.export_ctranslate2(folder, tmp_path / "ct2")
    assert all(check.equal + check.ties == check.total for check in exported.checks)


def test_an_error_that_changes_no_word_stops_the_export(tmp_path, monkeypatch):
    folder = save_translator(tmp_path / "model", max_position_embeddings=128)
    stock = exporting.VanillaTransformerLoader.set_stack

    def slightly_wrong(self, spec, stack, config):
        stock(self, spec, stack, config)
        spec.scale_embeddings = 1.001 * spec.scale_embeddings

    monkeypatch.setattr(exporting.VanillaTransformerLoader, "set_stack", slightly_wrong)
    with pytest.raises(ConversionError, match="log-probabilities in float32 differ by"):
        exporting.export_ctranslate2(folder, tmp_path / "ct2")
    assert not (tmp_path / "ct2").exists()


def test_one_search_that_differs_stops_the_export(tmp_path, monkeypatch):
    folder = save_translator(tmp_path / "model", max_position_embeddings=128)
    stock = exporting.Translations.translate

    def translate(self, sources, beams):
        found = stock(self, sources, beams)
        return found if beams == 1 else [[*ids[:-1], (ids[-1] + 1) % 200 + 10] for ids in found]

    monkeypatch.setattr(exporting.Translations, "translate", translate)
    with pytest.raises(ConversionError, match="1 of 1 outputs are equal: float32, greedy\n0 of 1 outputs"):
        exporting.export_ctranslate2(folder, tmp_path / "ct2", sentences=["the dog runs"])
    assert not (tmp_path / "ct2").exists()


def test_noise_does_not_excuse_another_output(tmp_path):
    """An output that no rounding explains is counted as neither equal nor a tie."""
    folder = save_translator(tmp_path / "model", max_position_embeddings=128, layer_norm_eps=0.01)
    exporting.export_ctranslate2(folder, tmp_path / "ct2")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    names = exporting.vocabularies(model.config, AutoTokenizer.from_pretrained(folder))
    sources = exporting.tokenized(model, None, None)[:5]
    exact = exporting.Translations(tmp_path / "ct2", names)
    changing = exporting.Translations(tmp_path / "ct2", names)
    for beams in exporting.BEAMS:
        expected = exporting.generated(model, sources, exporting.plain_settings(model, beams))
        changed = [[*output[:-1], (output[-1] + 1) % 200 + 10] for output in expected]
        check = exporting.compare(model, exact, sources, changed, beams, difference=1e-6)
        assert check.equal == 0 and check.ties == 5  # the right outputs are found; the changed ones are not
        changing.translate = lambda sources, beams, changed=changed: changed
        check = exporting.compare(model, changing, sources, expected, beams, difference=1e-6)
        assert (check.equal, check.ties, check.total) == (0, 0, 5)


def test_import_chooses_the_attention_of_alignments(tmp_path):
    pytest.importorskip("sentencepiece")
    write_marian(tmp_path / "opus", separate=True, max_position_embeddings=128)
    pairs = [f"{source[:60]}\t{target[:60]}" for source, target in zip(texts("en")[:8], texts("es")[:8])]
    (tmp_path / "pairs.tsv").write_text("\n".join(pairs) + "\n")
    words = ("import", tmp_path / "opus", tmp_path / "ours", "--pairs")
    assert "word alignments use the attention of decoder layer" in call(*words, tmp_path / "pairs.tsv").stdout
    settings = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").generation_config
    assert settings.alignment_layer in range(3) and isinstance(settings.alignment_shift, bool)
    (tmp_path / "pairs.tsv").write_text("no tab\n")
    assert "line 1: write source, tab, target" in call(*words, tmp_path / "pairs.tsv", code=1).stderr
