"""The pipelines that transformers 5 left out, with this package's models and with transformers' own."""

import logging

import datasets
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.generation import paper_generation_config
from vanilla_transformer.pipelines import TASKS, TranslationPipeline, register_pipelines

KEYS = {"translation": "translation", "summarization": "summary", "text2text-generation": "generated"}
TEXTS = ["the quick fox", "a lazy dog sleeps", "the dog", "over the fence jumps the quick brown fox"]
WORDS = [*" ".join(TEXTS).split(), ".", ":", "translate", "English", "to", "German", "Romanian"]
SIZES = dict(
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=0,
    decoder_start_token_id=0,
    forced_eos_token_id=1,
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(WORDS)])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def vanilla(language_tags=(), **config):
    tokenizer = VanillaTransformerTokenizer.train(
        [TEXTS], vocab_size=290, language_tags=language_tags, min_frequency=1, show_progress=False
    )
    sizes = dict(
        hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=1, decoder_layers=1
    )
    config = VanillaTransformerConfig(vocab_size=len(tokenizer), **{**sizes, **config})
    torch.manual_seed(0)
    return VanillaTransformerForConditionalGeneration(config).eval(), tokenizer


def marian(**config):
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = MarianConfig(vocab_size=len(tokenizer), **{**SIZES, "max_position_embeddings": 64, **config})
    return MarianMTModel(config).eval(), tokenizer


def t5(**config):
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes, **config)
    return T5ForConditionalGeneration(config).eval(), tokenizer


def bart():
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = BartConfig(vocab_size=len(tokenizer), **SIZES, max_position_embeddings=64)
    return BartForConditionalGeneration(config).eval(), tokenizer


FAMILIES = {"vanilla": vanilla, "marian": marian, "t5": t5, "bart": bart}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def parts():
    return vanilla()


def make(task, parts, **kwargs):
    model, tokenizer = parts
    return pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **{"max_new_tokens": 6, **kwargs})


# What goes in and what comes out


@pytest.mark.parametrize("task", KEYS)
def test_a_pipeline_is_tokenize_generate_decode(task, family):
    model, tokenizer = family
    ids = model.generate(**tokenizer(TEXTS[0], return_tensors="pt"), max_new_tokens=6, num_beams=4)
    text = tokenizer.decode(ids[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert make(task, family)(TEXTS[0]) == [{f"{KEYS[task]}_text": text}]


def test_the_shape_of_the_result_follows_the_input(family):
    pipe = make("translation", family)
    one_by_one = [pipe(text) for text in TEXTS]  # each [{"translation_text": ...}]
    flat = [result[0] for result in one_by_one]
    assert pipe(TEXTS) == pipe(tuple(TEXTS)) == flat
    assert pipe([]) == []
    assert list(pipe(text for text in TEXTS)) == one_by_one
    table = datasets.Dataset.from_dict({"en": TEXTS, "number": [1, 2, 3, 4]})
    assert pipe(table["en"]) == flat
    lazy = pipe(KeyDataset(table, "en"))
    assert len(lazy) == len(TEXTS)
    assert list(lazy) == one_by_one


def test_several_sequences_per_text_make_nested_lists(family):
    results = make("summarization", family)(TEXTS, num_return_sequences=3, num_beams=3, batch_size=2)
    assert [len(result) for result in results] == [3] * len(TEXTS)
    best = make("summarization", family)(TEXTS, num_beams=3)
    assert [result[0] for result in results] == best


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batches_change_nothing(family, batch_size):
    pipe = make("translation", family)
    texts = [*TEXTS, "", "dog"]
    assert pipe(texts, batch_size=batch_size) == pipe(texts)
    assert list(pipe((text for text in texts), batch_size=batch_size)) == [[r] for r in pipe(texts)]


def test_token_ids_decode_to_the_text(family):
    _, tokenizer = family
    pipe = make("text2text-generation", family)
    text = pipe(TEXTS[0])[0]["generated_text"]
    record = pipe(TEXTS[0], return_tensors=True)[0]
    assert list(record) == ["generated_token_ids"]
    decoded = tokenizer.decode(
        record["generated_token_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert decoded == text
    both = pipe(TEXTS[0], return_tensors=True, return_text=True)[0]
    assert both["generated_text"] == text
    assert torch.equal(both["generated_token_ids"], record["generated_token_ids"])


def test_clean_up_removes_spaces_before_punctuation():
    model, tokenizer = marian()
    tokenizer.clean_up_tokenization_spaces = True
    ids = {"output_ids": torch.tensor([[[3, 4, tokenizer.convert_tokens_to_ids("."), 1]]]), "blank": [False]}
    pipe = make("translation", (model, tokenizer))
    assert pipe.postprocess(ids)[0]["translation_text"] == "the quick ."
    cleaned = pipe.postprocess(ids, clean_up_tokenization_spaces=True)
    assert cleaned[0]["translation_text"] == "the quick."


# Options


def test_generate_takes_what_the_call_says_before_what_the_pipeline_says(parts):
    def lengths(pipe, **kwargs):
        results = pipe(TEXTS, return_tensors=True, min_new_tokens=1, **kwargs)
        return {len(result["translation_token_ids"]) for result in results}

    pipe = make("translation", parts, max_new_tokens=3)
    assert max(lengths(pipe)) == 4  # with the start token
    assert max(lengths(pipe, max_new_tokens=7)) == 8
    assert max(lengths(make("translation", parts, max_new_tokens=None), max_length=5)) == 5
    with pytest.raises(ValueError, match="max_new_tokenz"):
        pipe(TEXTS[0], max_new_tokenz=3)


def test_without_settings_there_are_four_beams_and_256_tokens(parts):
    model, tokenizer = parts
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu")
    settings = pipe._prepare_generate_kwargs({})
    assert (settings["num_beams"], settings["max_new_tokens"]) == (4, 256)


def test_the_papers_decoding_is_the_models_own_affair(caplog):
    model, tokenizer = vanilla()
    model.generation_config = paper_generation_config(model.config)
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu")
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        ids = model.generate(**inputs)
        assert torch.equal(pipe(text, return_tensors=True)[0]["translation_token_ids"], ids[0])
        assert len(ids[0]) <= inputs["input_ids"].shape[1] + 50 + 1
    assert "max_length" not in caplog.text


def test_stop_sequence_ends_the_text(parts):
    pipe = make("text2text-generation", parts, max_new_tokens=40, num_beams=1, do_sample=True)
    torch.manual_seed(0)
    free = pipe(TEXTS[0])[0]["generated_text"]
    stop = next(character for character in free[2:] if character.isascii())
    torch.manual_seed(0)
    stopped = pipe(TEXTS[0], stop_sequence=stop)[0]["generated_text"]
    assert stop in stopped and len(stopped) < len(free)
    assert free.startswith(stopped[: stopped.index(stop) + 1])


def test_the_models_dtype_is_asked_for_as_in_transformers(tmp_path, parts):
    model, tokenizer = parts
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pipe = pipeline("translation", model=str(tmp_path), dtype=torch.bfloat16, device="cpu")
    assert pipe.model.dtype == torch.bfloat16 and pipe.device == torch.device("cpu")
    assert isinstance(pipe(TEXTS[0], max_new_tokens=3)[0]["translation_text"], str)


def test_saved_and_loaded_it_says_the_same(tmp_path, family):
    pipe = make("summarization", family)
    pipe.save_pretrained(tmp_path)
    again = pipeline("summarization", model=str(tmp_path), device="cpu", max_new_tokens=6)
    assert again(TEXTS) == pipe(TEXTS)


# Tasks by name


def test_registering_again_changes_nothing():
    tasks = transformers.pipelines.get_supported_tasks()
    register_pipelines()
    register_pipelines()
    assert transformers.pipelines.get_supported_tasks() == tasks
    assert set(TASKS) <= set(tasks)


def test_other_names_fail_as_before():
    with pytest.raises(KeyError, match="has been removed"):
        transformers.pipelines.check_task("question-answering")
    for unknown in ("translation_en", "translations", "translation_en_es"):
        with pytest.raises(KeyError, match="Unknown task"):
            transformers.pipelines.check_task(unknown)


def test_a_pair_without_a_default_model_fails_as_in_transformers_4():
    with pytest.raises(ValueError, match="default model"):
        pipeline("translation_xx_to_yy")


def test_a_name_with_languages_marks_the_source():
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
    with pytest.raises(ValueError, match="es, de"):
        make("translation", parts)(TEXTS)
    with pytest.raises(ValueError, match="'fr'"):
        make("translation_en_to_fr", parts)(TEXTS)
    tokenizer.target_language = "de"
    assert make("translation", parts)(TEXTS) == into["de"](TEXTS)


def test_languages_in_a_name_do_no_harm_where_there_is_nothing_to_choose(family):
    assert make("translation_en_to_es", family)(TEXTS) == make("translation", family)(TEXTS)
    with pytest.raises(ValueError, match="marks no languages"):
        make("translation", family, tgt_lang="es")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_languages_of_mbart(batch_size):
    codes = transformers.models.mbart.tokenization_mbart.FAIRSEQ_LANGUAGE_CODES
    pieces = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "▁",
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


def test_settings_that_a_model_keeps_by_task(caplog):
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


# transformers' own pipelines


def test_each_head_serves_the_pipeline_of_its_task(tmp_path):
    _, tokenizer = vanilla()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.split_special_tokens = False  # else "<mask>" in a text is text
    tokenizer.save_pretrained(tmp_path)
    config = VanillaTransformerConfig.from_preset("tiny", vocab_size=len(tokenizer), hidden_size=16)
    results = {}
    for task, auto_class in {
        "feature-extraction": transformers.AutoModel,
        "text-generation": transformers.AutoModelForCausalLM,
        "fill-mask": transformers.AutoModelForMaskedLM,
        "text-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
    }.items():
        settings = config.to_dict() | ({"decoder_layers": 0} if task == "feature-extraction" else {})
        auto_class.from_config(VanillaTransformerConfig(**settings)).save_pretrained(tmp_path)
        pipe = pipeline(task, model=str(tmp_path), device="cpu")
        text = f"the {tokenizer.mask_token} fox" if task == "fill-mask" else "the fox"
        results[task] = pipe(text, **{"max_new_tokens": 4} if task == "text-generation" else {})
    assert len(results["feature-extraction"][0][0]) == 16
    assert results["text-generation"][0]["generated_text"].startswith("the fox")
    assert len(results["fill-mask"]) == 5
    assert 0 < results["text-classification"][0]["score"] < 1
    assert {entity["entity"] for entity in results["token-classification"]} <= {"LABEL_0", "LABEL_1"}


# Input that cannot be used


def test_blank_texts_stay_blank_and_are_counted(family, caplog):
    pipe = make("translation", family)
    with caplog.at_level(logging.WARNING):
        results = pipe(["", TEXTS[0], " \n"], batch_size=2)
    assert [result["translation_text"] for result in results][::2] == ["", ""]
    assert results[1] == pipe(TEXTS[0])[0]
    assert pipe.counts["blank inputs"] == 2
    assert caplog.text.count("blank") >= 1
    assert pipe("", return_tensors=True)[0]["translation_token_ids"].shape == (0,)


def test_warnings_thin_out(parts, caplog):
    pipe = make("translation", parts, max_new_tokens=1)
    with caplog.at_level(logging.WARNING):
        pipe([""] * 25, batch_size=25)
    assert pipe.counts["blank inputs"] == 25
    assert (
        len([record for record in caplog.records if "blank inputs" in record.message]) == 2
    )  # the 1st and 10th


@pytest.mark.parametrize("wrong", [3, None, {"en": "the fox"}, ["the fox"]])
def test_what_is_no_text_is_named_before_any_work(parts, wrong):
    pipe = make("translation", parts)
    with pytest.raises(ValueError, match=f"input 1: expected a string, got {type(wrong).__name__}"):
        pipe(["the fox", wrong, "the dog"])
    assert pipe.call_count == 0
    if not isinstance(wrong, list):
        with pytest.raises(TypeError, match="expected a string"):
            pipe(wrong)


@pytest.mark.parametrize(
    "make_parts", [marian, lambda **config: vanilla(position_embedding_type="learned", **config)]
)
def test_a_text_past_the_last_position_is_refused_unless_cut(make_parts):
    model, tokenizer = make_parts(max_position_embeddings=16)
    pipe = make("translation", (model, tokenizer))
    length = tokenizer("the fox " * 20, return_tensors="pt")["input_ids"].shape[1]
    with pytest.raises(ValueError, match=f"input 2: {length} tokens, .*positions for 16"):
        pipe(["the dog", "the fox", "the fox " * 20])
    assert pipe.call_count == 0
    with pytest.raises(ValueError, match="truncation=True"):
        pipe("the fox " * 20)
    cut = pipe(["the dog", "the fox " * 20], truncation=True)
    assert cut[0] == pipe("the dog")[0]
    assert pipe.encode("the fox " * 20, truncation=True)["input_ids"].shape[1] == 16


def test_a_text_longer_than_intended_is_read_whole_with_a_warning(caplog):
    model, tokenizer = vanilla(max_position_embeddings=16)
    pipe = make("translation", (model, tokenizer))
    text = "the fox " * 20
    with caplog.at_level(logging.WARNING):
        ids = pipe(text, return_tensors=True)[0]["translation_token_ids"]
    assert torch.equal(
        ids, model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=6, num_beams=4)[0]
    )
    assert pipe.counts["long inputs"] == 1 and "16 tokens" in caplog.text
    caplog.clear()
    pipe(text, truncation=True)
    assert pipe.counts["long inputs"] == 1 and "long inputs" not in caplog.text


def test_lengths_that_cannot_be_meant_are_warned_of(parts, caplog):
    def warned(task, text, **kwargs):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            make(task, parts, max_new_tokens=None)(text, **kwargs)
        return [
            record.getMessage() for record in caplog.records if record.name == "vanilla_transformer.pipelines"
        ]

    assert any(
        "min_length=9 is more than max_length=4" in m
        for m in warned("translation", "dog", min_length=9, max_length=4)
    )
    assert any("summary" in m for m in warned("summarization", "dog", max_length=8))
    assert not warned("summarization", "the dog " * 20, max_length=8)
    assert any("short" in m for m in warned("translation", "the dog " * 20, max_length=8))
    assert not warned("translation", "dog", max_length=8)


def test_models_that_do_not_generate_from_a_source_are_refused(parts):
    _, tokenizer = parts
    config = VanillaTransformerConfig.from_preset(
        "tiny", vocab_size=len(tokenizer), encoder_layers=0, decoder_layers=1
    )
    sizes = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=30
    )
    for model in (VanillaTransformerForCausalLM(config), BertForMaskedLM(BertConfig(**sizes))):
        with pytest.raises(ValueError, match=f"encoder-decoder .*{type(model).__name__}"):
            make("translation", (model, tokenizer))
