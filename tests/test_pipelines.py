"""The pipelines that transformers 5 removed, with this package's models and with transformers' own."""

import logging

import datasets
import pytest
import torch
from tiny_translators import FAMILIES, TEXTS, make, marian, vanilla
from transformers import BertConfig, BertForMaskedLM, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForCausalLM
from vanilla_transformer.generation import paper_generation_config

KEYS = {"translation": "translation", "summarization": "summary", "text2text-generation": "generated"}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def parts():
    return vanilla()


@pytest.mark.parametrize("task", KEYS)
def test_a_pipeline_tokenizes_generates_and_decodes(task, family):
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
def test_the_batch_size_does_not_change_the_results(family, batch_size):
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


def test_arguments_of_the_call_override_those_of_the_pipeline(parts):
    def lengths(pipe, **kwargs):
        results = pipe(TEXTS, return_tensors=True, min_new_tokens=1, **kwargs)
        return {len(result["translation_token_ids"]) for result in results}

    pipe = make("translation", parts, max_new_tokens=3)
    assert max(lengths(pipe)) == 4  # with the start token
    assert max(lengths(pipe, max_new_tokens=7)) == 8
    assert max(lengths(make("translation", parts, max_new_tokens=None), max_length=5)) == 5
    with pytest.raises(ValueError, match="max_new_tokenz"):
        pipe(TEXTS[0], max_new_tokenz=3)


def test_the_defaults_are_four_beams_and_256_tokens(parts):
    model, tokenizer = parts
    pipe = pipeline("translation", model=model, tokenizer=tokenizer, device="cpu")
    settings = pipe._with_defaults({}, pipe._chosen_settings({}))
    assert (settings["num_beams"], settings["max_new_tokens"]) == (4, 256)


def test_a_models_own_generation_config_applies(caplog):
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


def test_a_saved_pipeline_gives_the_same_results(tmp_path, family):
    pipe = make("summarization", family)
    pipe.save_pretrained(tmp_path)
    again = pipeline("summarization", model=str(tmp_path), device="cpu", max_new_tokens=6)
    assert again(TEXTS) == pipe(TEXTS)


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
    warnings = [record for record in caplog.records if "blank inputs" in record.message]
    assert len(warnings) == 2  # the 1st and 10th


@pytest.mark.parametrize("wrong", [3, None, {"en": "the fox"}, ["the fox"]])
def test_an_input_that_is_not_a_string_raises_before_any_work(parts, wrong):
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
def test_a_text_beyond_the_last_position_raises_unless_truncated(make_parts):
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


def test_a_text_longer_than_the_model_was_trained_for_logs_a_warning(caplog):
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


def test_implausible_lengths_log_a_warning(parts, caplog):
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
    assert any("may cut" in m for m in warned("translation", "the dog " * 20, max_length=8))
    assert not warned("translation", "dog", max_length=8)


def test_models_that_are_not_encoder_decoders_raise(parts):
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


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_are_in_the_records(family, options, batch_size):
    model, tokenizer = family
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, **options}
    pipe = make("translation", family, **wanted)
    results = pipe(TEXTS[:3], batch_size=batch_size, return_tensors=True)
    for text, records in zip(TEXTS, results):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        alone = model.generate(**inputs, max_new_tokens=6, **wanted)
        for index, record in enumerate(records if isinstance(records, list) else [records]):
            ids = record["translation_token_ids"][1:]
            assert ids[: len(alone.sequences[0]) - 1].tolist() == alone.sequences[index, 1:].tolist()
            assert record["scores"].shape[1] == record["logits"].shape[1] == model.config.vocab_size
            length = int((ids != tokenizer.pad_token_id).sum())
            assert len(record["scores"]) >= max(1, length)
            if options["num_beams"] > 1:
                assert record["sequences_scores"] == pytest.approx(
                    float(alone.sequences_scores[index]), abs=1e-4
                )
                origins = alone.beam_indices[index]
                for step in range(int((origins >= 0).sum())):
                    expected = alone.scores[step][origins[step]]
                    torch.testing.assert_close(record["scores"][step], expected, atol=1e-4, rtol=1e-3)
            else:
                torch.testing.assert_close(record["scores"][0], alone.scores[0][0], atol=1e-4, rtol=1e-3)
                assert "sequences_scores" not in record


def test_without_scores_records_are_texts(parts):
    assert make("translation", parts)("the dog", return_dict_in_generate=True)[0].keys() == {
        "translation_text"
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 10**6},
        {"max_length": 10**9},
        {"max_new_tokens": 2.5},
        {"num_return_sequences": 10**6},
        {"batch_size": 10**9},
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"num_workers": 10**6},
    ],
    ids=str,
)
def test_absurd_settings_raise_and_name_the_setting(family, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        make("translation", family, max_new_tokens=None)(TEXTS, **settings)


def test_close_limits_are_logged_for_the_first_and_the_tenth_time(parts, caplog):
    pipe = make("translation", parts, max_new_tokens=None, max_length=8)
    with caplog.at_level(logging.WARNING):
        pipe(["the dog " * 20] * 12, batch_size=1)
    assert sum("may cut" in record.getMessage() for record in caplog.records) == 2


def test_a_surrogate_in_a_text_is_replaced(parts):
    pipe = make("translation", parts)
    assert pipe("the \ud800 dog") == pipe("the \ufffd dog")
