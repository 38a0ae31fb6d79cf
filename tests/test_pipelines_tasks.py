"""Names of tasks: registration, pairs of languages, and the settings that a model stores for a task."""

import logging

import pytest
import torch
import transformers
from tiny_translators import FAMILIES, SIZES, TEXTS, WORDS, make, t5, vanilla
from transformers import MBartConfig, MBartForConditionalGeneration, MBartTokenizer, pipeline

from vanilla_transformer.pipeline_registry import TASKS, register_pipelines
from vanilla_transformer.pipelines import TranslationPipeline


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]()


def test_registering_again_changes_nothing():
    tasks = transformers.pipelines.get_supported_tasks()
    register_pipelines()
    register_pipelines()
    assert transformers.pipelines.get_supported_tasks() == tasks
    assert set(TASKS) <= set(tasks)


def test_other_unknown_and_removed_names_still_raise():
    removed = "has been removed" if hasattr(transformers.pipelines, "REMOVED_TASKS") else "Unknown task"
    with pytest.raises(KeyError, match=removed):
        transformers.pipelines.check_task("question-answering")
    for unknown in ("translation_en", "translations", "translation_en_es"):
        with pytest.raises(KeyError, match="Unknown task"):
            transformers.pipelines.check_task(unknown)


def test_a_pair_without_a_default_model_raises():
    with pytest.raises(ValueError, match="default model"):
        pipeline("translation_xx_to_yy")


def test_a_name_with_languages_adds_the_language_token_to_the_source():
    parts = vanilla(language_tags=["es", "de"])
    model, tokenizer = parts
    into = {language: make("translation", parts, tgt_lang=language) for language in ("es", "de")}
    named = make("translation_en_to_es", parts)
    assert isinstance(named, TranslationPipeline)
    assert named(TEXTS) == into["es"](TEXTS)
    assert named(TEXTS, tgt_lang="de") == into["de"](TEXTS)
    first = {
        language: pipe.encode(TEXTS[0], tgt_lang=language)["input_ids"][0, 0]
        for language, pipe in into.items()
    }
    assert tokenizer.convert_ids_to_tokens([first["es"], first["de"]]) == ["<2es>", "<2de>"]
    with pytest.raises(ValueError, match="pass tgt_lang, one of 'es', 'de'"):
        make("translation", parts)(TEXTS)
    with pytest.raises(ValueError, match="'fr'"):
        make("translation_en_to_fr", parts)(TEXTS)
    tokenizer.target_language = "de"
    assert make("translation", parts)(TEXTS) == into["de"](TEXTS)


def test_a_tokenizer_without_language_tokens_ignores_languages_in_the_task_name(family):
    assert make("translation_en_to_es", family)(TEXTS) == make("translation", family)(TEXTS)
    with pytest.raises(ValueError, match="no language tokens: remove tgt_lang='es'"):
        make("translation", family, tgt_lang="es")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_mbart_gets_its_language_tokens(batch_size):
    codes = transformers.models.mbart.tokenization_mbart.FAIRSEQ_LANGUAGE_CODES
    pieces = [
        *("<s>", "<pad>", "</s>", "<unk>", "▁"),
        *(f"▁{word}" for word in dict.fromkeys(WORDS)),
        *codes,
        "<mask>",
    ]
    tokenizer = MBartTokenizer(vocab=[(piece, -1.0 * index) for index, piece in enumerate(pieces)])
    torch.manual_seed(0)
    sizes = {**SIZES, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    sizes |= {"forced_eos_token_id": 2, "vocab_size": len(tokenizer)}
    parts = MBartForConditionalGeneration(MBartConfig(**sizes)).eval(), tokenizer
    pipe = make("translation", parts, src_lang="en_XX", tgt_lang="es_XX", batch_size=batch_size)
    results = pipe(TEXTS, return_tensors=True)
    assert {int(result["translation_token_ids"][1]) for result in results} == {
        tokenizer.convert_tokens_to_ids("es_XX")
    }
    named = make("translation_en_XX_to_es_XX", parts, batch_size=batch_size)
    assert named(TEXTS) == pipe(TEXTS)
    with pytest.raises(ValueError, match="src_lang"):
        make("translation", parts)(TEXTS[0])


def test_settings_that_a_model_stores_for_a_task_apply(caplog):
    german = {"prefix": "translate English to German : ", "num_beams": 1, "max_length": 5}
    romanian = {"prefix": "translate English to Romanian : ", "num_beams": 1, "max_length": 5}
    parts = t5(task_specific_params={"translation_en_to_de": german, "translation_en_to_ro": romanian})
    model, tokenizer = parts
    inputs = tokenizer("translate English to Romanian : the fox", return_tensors="pt")
    expected = model.generate(**inputs, num_beams=1, max_length=5)[0]
    pipe = pipeline("translation_en_to_ro", model=model, tokenizer=tokenizer, device="cpu")
    assert torch.equal(pipe("the fox", return_tensors=True)[0]["translation_token_ids"], expected)
    with caplog.at_level(logging.WARNING):
        pipe = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu")
    assert pipe.task == "translation_en_to_de" and "translation_en_to_ro" in caplog.text
    assert pipe.prefix == german["prefix"]
