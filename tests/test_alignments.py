"""Word alignments: words, the attention that links them, pipelines, and the benchmark's arithmetic."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_translators import FAMILIES, TEXTS, make, t5, vanilla
from transformers import GenerationConfig

import vanilla_transformer.alignments
from vanilla_transformer import (
    ToolkitTokenizer,
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    choose_attention,
    split_words,
    word_alignments,
)
from vanilla_transformer.alignments import LONGEST, linked_words, short_pairs, words_of_pieces
from vanilla_transformer.scores import Forced
from vanilla_transformer.visualization.weights import attention_of_text

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import alignments  # noqa: E402

TARGETS = ["a lazy dog", "the quick brown fox", "the fox", "dog"]


def test_words_are_separated_from_punctuation_at_their_ends():
    assert split_words('"Don\'t," he said: a well-known cat (J.P).') == [
        '"', "Don't", ',"', "he", "said", ":", "a", "well-known", "cat", "(", "J.P", ")."
    ]  # fmt: skip
    assert split_words("5€ $3 C++") == ["5", "€", "$", "3", "C", "++"]
    assert split_words(" -- ") == ["--"] and split_words("") == [] and split_words("हिन्दी।") == ["हिन्दी", "।"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_word_has_pieces(family):
    _, tokenizer = FAMILIES[family]()
    for text in [*TEXTS, "the dog . a fox"]:
        ids = torch.tensor(tokenizer(text)["input_ids"])
        found = words_of_pieces(tokenizer, ids)
        assert len(found) == len(ids) and found[-1] == []
        assert sorted(set(sum(found, []))) == list(range(len(split_words(text))))
        assert sum(found, []) == sorted(sum(found, []))


def test_a_word_is_linked_to_what_its_pieces_attend_to():
    attention = torch.tensor([[0.9, 0, 0, 0.1], [0, 0.3, 0.2, 0.5], [0, 0.1, 0.6, 0.3], [0, 0, 0.1, 0.9]])
    source, target = [[0], [1], [1], []], [[], [0], [0, 1], [2]]
    assert linked_words(source, target, attention, shift=True) == [(1, 0), (1, 1), (1, 2)]
    assert linked_words(source, target, attention, shift=False) == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert linked_words([[], []], [[0]], attention[:1, :2], True) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_alignments_are_those_of_the_models_attention(family):
    model, tokenizer = FAMILIES[family]()
    start, layer = model.config.decoder_start_token_id, 0
    together = word_alignments(model, tokenizer, TEXTS, TARGETS)
    model.set_attn_implementation("eager")
    for source, target, line in zip(TEXTS, TARGETS, together):
        inputs = tokenizer(source, return_tensors="pt", return_token_type_ids=False)
        ids = torch.tensor([[start, *tokenizer(text_target=target)["input_ids"]]])
        with torch.no_grad():
            passed = model(**inputs, decoder_input_ids=ids, output_attentions=True)
        weights = passed.cross_attentions[layer][0].mean(0)
        pieces = words_of_pieces(tokenizer, inputs["input_ids"][0]), words_of_pieces(tokenizer, ids[0])
        assert alignments.links(line) == set(linked_words(*pieces, weights, True))
        assert {link[1] for link in alignments.links(line)} == set(range(len(target.split())))
    assert word_alignments(model, tokenizer, TEXTS[:1], TARGETS[:1], shift=False) != [""]
    with pytest.raises(ValueError, match="4 sources and 1 targets"):
        word_alignments(model, tokenizer, TEXTS, TARGETS[:1])


@pytest.mark.parametrize("training", [False, True])
def test_alignments_need_no_dropout_and_leave_the_mode(training):
    model, tokenizer = vanilla(dropout=0.5)
    expected = word_alignments(model.eval(), tokenizer, TEXTS, TARGETS)
    assert word_alignments(model.train(training), tokenizer, TEXTS, TARGETS) == expected
    assert model.training == training
    choose_attention(model, tokenizer, TEXTS, TARGETS)
    assert model.training == training


def test_words_of_a_source_with_its_own_vocabulary(tmp_path):
    names = {"source": "the dog runs fast today", "target": "der Hund"}
    for side, words in names.items():
        known = ["<unk>", "<pad>", "</s>", *words.split()]
        (tmp_path / side).write_text(json.dumps({word: id for id, word in enumerate(known)}))
    tokenizer = ToolkitTokenizer(str(tmp_path / "source"), str(tmp_path / "target"))
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sizes = {"vocab_size": 8, "target_vocab_size": 5, "encoder_layers": 1, "decoder_layers": 2}
    config = VanillaTransformerConfig.from_preset("tiny", **sizes, **ids)
    model = VanillaTransformerForConditionalGeneration(config).eval()
    pipe, text = make("translation", (model, tokenizer)), names["source"]
    settings = {"max_new_tokens": 4, "min_new_tokens": 3, "suppress_tokens": [0, 1]}
    record = pipe(text, return_alignments=True, **settings)[0]
    assert word_alignments(model, tokenizer, [text], [record["translation_text"]]) == [record["alignment"]]
    attention = attention_of_text(model, tokenizer, text, "der Hund")["cross"]
    assert attention.columns == [*text.split(), "</s>"] and attention.rows == ["der", "Hund", "</s>"]


def test_a_layer_that_does_not_exist_is_named():
    model, tokenizer = vanilla()
    with pytest.raises(ValueError, match="layer=7 does not exist: use 0 to 0"):
        word_alignments(model, tokenizer, TEXTS, TARGETS, layer=7)


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_return_alignments_of_every_output(family):
    model, tokenizer = FAMILIES[family]()
    pipe = make("translation", (model, tokenizer), num_beams=3, num_return_sequences=2)
    results = pipe(TEXTS, return_alignments=True, return_scores=True)
    for text, records, plain in zip(TEXTS, results, pipe(TEXTS)):
        for record, other in zip(records, plain):
            assert record["translation_text"] == other["translation_text"] and "score" in record
            found = alignments.links(record["alignment"])
            assert {t for _, t in found} == set(range(len(split_words(record["translation_text"]))))
            assert {s for s, _ in found} <= set(range(len(split_words(text))))
    alone = [pipe(text, return_alignments=True) for text in TEXTS]
    assert [[r["alignment"] for r in records] for records in alone] == [
        [r["alignment"] for r in records] for records in results
    ]
    assert pipe(" ", return_alignments=True)[0]["alignment"] == ""


def test_words_of_the_prompt_are_not_counted():
    model, tokenizer = t5()
    model.config.prefix = "translate English to German : "
    pipe = make("text2text-generation", (model, tokenizer), return_alignments=True)
    for text, record in zip(TEXTS, pipe(TEXTS)):
        for source, _ in alignments.links(record["alignment"]):
            assert 0 <= source < len(split_words(text))


@pytest.mark.parametrize("best", [(0, True), (2, False), (1, True)])
def test_the_attention_whose_links_repeat_is_chosen_and_saved(best, monkeypatch, tmp_path):
    model, tokenizer = vanilla(decoder_layers=3)
    sources = ["the lazy dog", "a lazy fox", "the quick fox", "a dog jumps", "the fox jumps"] * 2
    targets = [" ".join(reversed(text.split())) for text in sources]

    def force(model, inputs, ids, layers, **others):
        torch.manual_seed(0)
        attention = {layer: torch.rand(*ids.shape, inputs["input_ids"].shape[1]) for layer in layers}
        layer, shift = best
        for row, (source, target) in enumerate(zip(inputs["input_ids"], ids)):
            ours, theirs = words_of_pieces(tokenizer, source), words_of_pieces(tokenizer, target)
            for place, words in enumerate(theirs):
                for word in words:
                    partner = ours.index([len(split_words(sources[row])) - 1 - word])
                    attention[layer][row, place - (not shift), partner] = 2.0
        return Forced(torch.zeros(0), torch.zeros(0), attention)

    monkeypatch.setattr(vanilla_transformer.alignments, "force", force)
    assert choose_attention(model, tokenizer, sources, targets) == best
    lines = word_alignments(model, tokenizer, sources, targets)
    assert alignments.links(lines[0]) == {(0, 2), (1, 1), (2, 0)}
    model.generation_config.save_pretrained(tmp_path)
    model.generation_config = GenerationConfig.from_pretrained(tmp_path)
    assert word_alignments(model, tokenizer, sources, targets) == lines


def test_a_choice_has_short_pairs_at_even_distances(monkeypatch):
    _, tokenizer = vanilla()
    monkeypatch.setattr(vanilla_transformer.alignments, "MOST_PAIRS", 5)
    for count in range(1, 22):
        pairs = [(f"the dog {number}", f"a fox {number}") for number in range(count)]
        found = short_pairs(tokenizer, *zip(*pairs))
        assert found == pairs[:: -(-count // 5)] and len(found) <= 5
    long = "dog " * LONGEST
    assert short_pairs(tokenizer, ["a", "b", long], ["x", long, "z"]) == [("a", "x")]


def test_the_reference_of_the_benchmark_and_its_error_rate():
    gold = alignments.read_gold()
    assert len(gold) == 50 and all(sure and sure <= possible for sure, possible in gold.values())
    assert alignments.alignment_error_rate([sure for sure, _ in gold.values()], list(gold.values())) == 0
    assert alignments.alignment_error_rate([{(0, 0), (5, 5)}], [({(0, 0), (1, 1)}, {(0, 0), (1, 1)})]) == 0.5
    assert alignments.diagonal(["a"] * 3, ["b"] * 3) == {(0, 0), (1, 1), (2, 2)}


def test_ibm_model_1_learns_which_words_meet():
    english = ["the dog", "the cat", "a dog", "a cat", "the house"]
    german = ["hund der", "katze der", "hund ein", "katze ein", "haus der"]
    model = alignments.IBMModel1([(e.split(), g.split()) for e, g in zip(english, german)], rounds=20)
    assert model.align(["a", "house"], ["haus", "ein", "unbekannt"]) == {(1, 0), (0, 1)}
