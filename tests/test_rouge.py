"""ROUGE and bits per character: by hand, against rouge-score's own interface, and beside other metrics."""

import math

import evaluate
import pytest
from rouge_score.rouge_scorer import RougeScorer

from vanilla_transformer.metrics import load_metric

GUESSES = ["The cat sat on the mat.", "dogs running\nfast home", "", "one two three"]
TRUTHS = ["The cats sat on a mat.", "the dog runs\nhome fast", "nothing came", "three two one"]


def test_by_hand():
    # 2 of 3 words, 1 of 2 pairs; the longest common subsequence is "b c".
    got = load_metric("rouge").compute(predictions=["a b c"], references=["b c d e"])
    precision, recall = 2 / 3, 2 / 4
    assert got["rouge1"] == got["rougeL"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert got["rouge2"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))


@pytest.mark.parametrize("use_stemmer", [True, False])
def test_the_mean_of_rouge_scores(use_stemmer):
    types = ["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"]
    scorer = RougeScorer(types, use_stemmer=use_stemmer)
    rows = [scorer.score(truth, guess) for guess, truth in zip(GUESSES, TRUTHS)]
    metric = load_metric("rouge", rouge_types=types, use_stemmer=use_stemmer)
    got = metric.compute(predictions=GUESSES, references=TRUTHS)
    each = metric.compute(predictions=GUESSES, references=TRUTHS, use_aggregator=False)
    for name in types:
        assert each[name] == [row[name].fmeasure for row in rows]
        assert got[name] == pytest.approx(sum(each[name]) / len(rows))


def test_sentences_are_lines():
    metric = load_metric("rouge")
    got = metric.compute(predictions=["a b c\nd e f"], references=["d e f\na b c"])
    assert got["rougeLsum"] == pytest.approx(1)
    assert got["rougeL"] == pytest.approx(1 / 2)


def test_the_best_of_several_references():
    metric = load_metric("rouge")
    several = metric.compute(predictions=["a b", "c"], references=[["x y", "a b"], ["c", "c d", "z"]])
    assert several["rouge1"] == pytest.approx(1)
    single = metric.compute(predictions=["a b", "c"], references=[["x y"], ["z"]])
    assert single["rouge1"] == 0


def test_stems_and_other_scripts():
    stemmed = load_metric("rouge").compute(predictions=["running dogs"], references=["run dog"])
    plain = load_metric("rouge", use_stemmer=False).compute(
        predictions=["running dogs"], references=["run dog"]
    )
    assert (stemmed["rouge1"], plain["rouge1"]) == (pytest.approx(1), 0)
    assert "stem:porter" in stemmed["signature"] and "stem:no" in plain["signature"]
    greek = {"predictions": ["ένα δύο"], "references": ["ένα τρία"]}
    assert load_metric("rouge").compute(**greek)["rouge1"] == pytest.approx(1 / 2)
    metric = load_metric("rouge", tokenizer=str.split)
    assert metric.compute(**greek)["rouge1"] == pytest.approx(1 / 2)
    assert "words:split" in metric.compute(**greek)["signature"]


def test_batches_and_combination():
    metric = load_metric("rouge")
    whole = metric.compute(predictions=GUESSES, references=TRUTHS)
    for start in (0, 2):
        metric.add_batch(predictions=GUESSES[start : start + 2], references=TRUTHS[start : start + 2])
    assert metric.compute() == whole
    both = evaluate.combine([load_metric("rouge"), load_metric("chrf")])
    got = both.compute(predictions=GUESSES, references=TRUTHS)
    assert got["rouge2"] == whole["rouge2"] and got["score"] > 0


def test_bits_per_character_do_not_depend_on_the_tokens():
    nll = [3.0, 5.0, 1.5]
    metric = load_metric("bits_per_character")
    whole = metric.compute(nll=[sum(nll)], characters=[20])
    cut = metric.compute(nll=nll, characters=[10, 6, 4])
    assert whole == pytest.approx(cut)
    assert whole["bits_per_character"] == pytest.approx(sum(nll) / math.log(2) / 20)
    uniform = metric.compute(nll=[7 * math.log(32)], characters=[7])
    assert uniform["bits_per_character"] == pytest.approx(5)
    both = evaluate.combine([load_metric("perplexity"), metric])
    both.add_batch(nll=nll, tokens=[4, 3, 2], characters=[10, 6, 4])
    got = both.compute()
    assert got["perplexity"] == pytest.approx(math.exp(sum(nll) / 9))
    assert got["bits_per_character"] == pytest.approx(whole["bits_per_character"])


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: load_metric("rouge", rouge_types=["rouge0"]), "'rouge0'.*rouge1 to rouge9"),
        (lambda: load_metric("rouge").compute(), "rouge has nothing to score"),
        (
            lambda: load_metric("rouge").compute(predictions=["a"], references=[[]]),
            "prediction 0 has no reference",
        ),
        (
            lambda: load_metric("rouge").compute(predictions=["a"], references=["a"], stemmer=True),
            "no option.*stemmer",
        ),
        (
            lambda: load_metric("bits_per_character").compute(nll=[1.0], characters=[0]),
            "at least one character",
        ),
    ],
)
def test_errors_say_what_was_wrong(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        wrong()


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("Он читает новую книгу.", "Она читает книгу!", 2 * 2 / 7),
        ("कमल पढ़ता है।", "कमल लिखता है।", 2 / 3),
        ("我們喝茶", "我喝茶。", 2 * 3 / 7),
        ("お茶を", "お茶", 4 / 5),
        ("ผมกิน", "ผมกิน", 1),
        ("Die Maler", "Die Müller", 1 / 2),
        ("cafe\u0301 noir", "café noir", 1),
        ("한국 사람", "한국 음식", 1 / 2),
    ],
)
def test_words_of_other_scripts(prediction, reference, score):
    got = load_metric("rouge").compute(predictions=[prediction], references=[reference])
    assert got["rouge1"] == pytest.approx(score) and "words:unicode_words|stem:no" in got["signature"]


def test_english_with_an_accent_now_and_then_keeps_its_words():
    truth = ["The workers walked to a café, " + "and they were talking about the running costs again " * 10]
    guess = ["The worker walks to a café, " + "and they talked about the running costs again " * 10]
    got = load_metric("rouge").compute(predictions=guess, references=truth)
    expected = RougeScorer(["rouge1"], use_stemmer=True).score(truth[0], guess[0])["rouge1"].fmeasure
    assert got["rouge1"] == pytest.approx(expected) and "words:a-z0-9|stem:porter" in got["signature"]
