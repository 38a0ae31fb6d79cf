"""A call of the tokenizer: text is text, offsets are the text's, and threads do not disturb each other."""

import copy
import re
import threading

import pytest
import torch
from transformers import pipeline
from transformers.utils import logging

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForTokenClassification,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.tasks.language_modeling import for_language_modeling
from vanilla_transformer.tokenization_vanilla_transformer import readable_tokens

TEXTS = ["The light of day, 12 days.", "Él dió la luz a Ana.", "In the beginning God created the light."] * 9


@pytest.fixture(scope="module")
def shared():
    return VanillaTransformerTokenizer.train([TEXTS], 300, ["es", "fr"], show_progress=False)


@pytest.fixture
def tokenizer(shared):
    return copy.deepcopy(shared)


@pytest.fixture(params=["new", "saved"])
def masked(request, tokenizer, tmp_path):
    """The tokenizer of a masked model, also after it was saved and loaded."""
    for_language_modeling(tokenizer, "masked")
    if request.param == "new":
        return tokenizer
    tokenizer.save_pretrained(tmp_path)
    return VanillaTransformerTokenizer.from_pretrained(tmp_path)


# Threads


def test_threads_with_other_settings_do_not_disturb_each_other(tokenizer):
    file = tokenizer.backend_tokenizer.to_str()
    text = "In the beginning God created the light."
    calls = [
        {"target_language": "es"},
        {"target_language": "fr", "truncation": True, "max_length": 4},
        {"truncation": True, "max_length": 6, "add_special_tokens": False},
        {"padding": "max_length", "max_length": 60},
        {"text_target": text, "target_language": "es"},
        {"split_special_tokens": False},
        {},
    ]
    calls = [{"text": "<2fr> " + text, **options} for options in calls]
    expected = [dict(tokenizer(**options)) for options in calls]
    assert len({str(one) for one in expected}) == len(calls)
    wrong = []

    def serve(number):
        for _ in range(500):
            if (got := dict(tokenizer(**calls[number]))) != expected[number]:
                wrong.append((calls[number], got))

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert tokenizer.target_language is None and tokenizer.backend_tokenizer.to_str() == file


def test_the_default_language_is_never_in_targets_of_another_thread(tokenizer):
    tokenizer.target_language = "fr"
    tag = tokenizer.convert_tokens_to_ids("<2fr>")
    firsts = {"input_ids": set(), "labels": set()}

    def serve():
        for _ in range(500):
            batch = tokenizer("The light", text_target="Él dió")
            for name, seen in firsts.items():
                seen.add(batch[name][0])

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert firsts["input_ids"] == {tag} and len(firsts["labels"]) == 1 and tag not in firsts["labels"]


# Text is text


@pytest.mark.parametrize(
    "text", ["a </s> b", "<pad>", " <s>light</s><pad> ", "<mask>", "a <mask> </s>", "a<mask>  <mask><mask>"]
)
def test_a_masked_tokenizer_finds_no_special_token_in_a_text_but_the_mask(masked, text):
    begin, *ids, end = masked(text).input_ids
    assert (begin, end) == (masked.bos_token_id, masked.eos_token_id)
    assert set(ids) & set(masked.all_special_ids) <= {masked.mask_token_id}
    assert (masked.mask_token_id in ids) == (" <mask>" in f" {text}")
    assert masked.decode(masked(text).input_ids, skip_special_tokens=True) == text
    plain = masked(text, split_special_tokens=True).input_ids
    assert masked.mask_token_id not in plain
    assert masked.decode(plain, skip_special_tokens=True) == text


def test_added_special_tokens_keep_the_languages(tokenizer, tmp_path):
    tokenizer.target_language = "fr"
    tokenizer.add_special_tokens({"extra_special_tokens": ["<user>", "<2de>"]})
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, VanillaTransformerTokenizer.from_pretrained(tmp_path)):
        assert one.languages == ["es", "fr", "de"]
        for language in one.languages:
            tag = one.convert_tokens_to_ids(f"<2{language}>")
            assert one("light", target_language=language).input_ids[0] == tag
            assert tag in one.all_special_ids
        assert one("light").input_ids[0] == one.convert_tokens_to_ids("<2fr>")


@pytest.mark.parametrize("text", ["a \ud800 b", "\udfff", "half \ud83d and whole \U0001f600", "\udc80\udc80"])
def test_half_a_surrogate_pair_becomes_the_replacement_character(tokenizer, text):
    expected = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    batch = tokenizer([text, "light"], [text, "day"], text_target=text)
    assert tokenizer.decode(batch["labels"], skip_special_tokens=True) == expected
    assert batch["input_ids"][1] == tokenizer("light", "day").input_ids
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == expected
    with pytest.raises((TypeError, ValueError)):
        tokenizer(["a", 7])
    VanillaTransformerTokenizer.train([[text, *TEXTS]], 270, show_progress=False)


def test_no_texts_are_an_empty_batch(tokenizer):
    assert dict(tokenizer([])) == {"input_ids": [], "attention_mask": []}
    assert dict(tokenizer([], text_target=[])) == {"input_ids": [], "attention_mask": [], "labels": []}
    tensors = tokenizer([], return_tensors="pt", padding=True)
    assert tensors["input_ids"].shape == (0, 0) and tensors["input_ids"].dtype == torch.long


# Where a token is in the text


@pytest.mark.parametrize(
    "text",
    [
        "The light of Ana",
        " light, 12 días",
        "  two  spaces and\n a line",
        "Él «dió»\tla 日本 luz",
        "a <mask> b",
        "<mask>, Ana",
    ],
)
@pytest.mark.parametrize("language", [None, "es"])
def test_offsets_are_those_of_the_words_in_the_text(masked, text, language):
    batch = masked(text, target_language=language, return_offsets_mapping=True)
    words = {}
    for word, (start, end) in zip(batch.word_ids(), batch["offset_mapping"]):
        if word is not None and start < end:
            first, last = words.get(word, (start, end))
            words[word] = (min(start, first), max(end, last))
    pieces = [text[start:end] for start, end in words.values()]
    assert all(piece == piece.strip(" ") for piece in pieces), pieces
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


def test_offsets_of_pairs_and_of_given_words(tokenizer):
    batch = tokenizer("The light", " light of", return_offsets_mapping=True)
    spans = zip(batch.sequence_ids(), batch["offset_mapping"])
    found = [
        ("The light", " light of")[number][start:end] for number, (start, end) in spans if number is not None
    ]
    assert "".join(found) == "Thelightlightof"
    words = ["Ana", "created", "light", "12"]
    batch = tokenizer(words, is_split_into_words=True, return_offsets_mapping=True)
    spelled = ["" for _ in words]
    for word, (start, end) in zip(batch.word_ids(), batch["offset_mapping"]):
        if word is not None:
            spelled[word] += words[word][start:end]
    assert spelled == words


@pytest.mark.parametrize("text", ["light of Ana days", "In Ana", " Ana, Ana"])
def test_the_pipeline_finds_the_span_of_a_name(tokenizer, text):
    config = VanillaTransformerConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_attention_heads=2, intermediate_size=8,
        encoder_layers=1, decoder_layers=0, num_labels=2, id2label={0: "O", 1: "I-PER"},
    )  # fmt: skip
    model = VanillaTransformerForTokenClassification(config).eval()
    name = set(tokenizer(" Ana", add_special_tokens=False).input_ids) - {tokenizer.convert_tokens_to_ids("Ġ")}
    name |= set(tokenizer("Ana", add_special_tokens=False).input_ids)

    def label(module, args, kwargs, output):
        is_name = torch.isin(kwargs["input_ids"], torch.tensor(sorted(name)))
        output.logits = torch.stack([~is_name, is_name], dim=-1) * 20.0
        return output

    model.register_forward_hook(label, with_kwargs=True)
    pipe = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
    found = [
        text[one["start"] : one["end"]] for one in pipe(text) if "Ana" in text[one["start"] : one["end"]]
    ]
    assert found == ["Ana"] * text.count("Ana")


# Reading tokens


@pytest.mark.parametrize("text", ["Él dió la luz", "日本 😊", " a\nb 12", "Ġ Ã"])
def test_readable_tokens_spell_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    tokens = tokenizer.readable_tokens(ids)
    spelled = "".join(tokens)
    for byte in sorted(set(re.findall(r"(?:\\x[0-9a-f]{2})+", spelled)), key=len, reverse=True):
        spelled = spelled.replace(byte, bytes.fromhex(byte.replace("\\x", "")).decode())
    assert spelled == f" {text}" and "\ufffd" not in spelled
    assert readable_tokens(tokenizer, [2]) == ["</s>"]


def test_a_surrogate_is_logged_once(tokenizer, caplog):
    logging.warning_once.cache_clear()
    logging.enable_propagation()
    for _ in range(3):
        tokenizer("\ud900")
    logging.disable_propagation()
    assert caplog.text.count("surrogate") == 1
