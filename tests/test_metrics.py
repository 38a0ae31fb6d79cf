"""The metrics against sacreBLEU's own interface and values computed by hand, offline."""

import concurrent.futures
import math
import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import sacrebleu
import torch
from transformers import EvalPrediction

from vanilla_transformer import VanillaTransformerTokenizer
from vanilla_transformer.metrics import load_metric
from vanilla_transformer.metrics.text import bleu_tokenizer
from vanilla_transformer.tasks.seq2seq import Seq2SeqArguments
from vanilla_transformer.tasks.settings import InputError
from vanilla_transformer.tasks.text_scores import text_metrics

GUESSES = ["The cat sat on the mat.", "hello there, my friend", "", "Ein Haus"]
TRUTHS = ["The cat sat on a mat.", "Hello there, my friends", "nothing came", "Ein Haus"]


@pytest.mark.parametrize(
    "options", [{}, {"lowercase": True}, {"tokenize": "char"}, {"tokenize": "none", "force": True}], ids=str
)
def test_bleu_is_sacrebleus(options):
    expected = sacrebleu.BLEU(**options)
    score = expected.corpus_score(GUESSES, [TRUTHS])
    got = load_metric("sacrebleu", **options).compute(predictions=GUESSES, references=TRUTHS)
    assert got["score"] == score.score
    assert got["counts"] == score.counts and got["totals"] == score.totals
    assert got["precisions"] == score.precisions and got["bp"] == score.bp
    assert (got["sys_len"], got["ref_len"]) == (score.sys_len, score.ref_len)
    assert got["signature"] == str(expected.get_signature())


def test_bleu_by_hand():
    # Of 4 unigrams 3 match, of 3 bigrams 2, of 2 trigrams 1, of 1 four-gram none: smoothed to 1 / (2 * 1).
    got = load_metric("sacrebleu").compute(predictions=["a b c d"], references=["a b c e"])
    assert got["counts"] == [3, 2, 1, 0] and got["totals"] == [4, 3, 2, 1] and got["bp"] == 1
    assert got["score"] == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


@pytest.mark.parametrize("options", [{}, {"word_order": 2}, {"lowercase": True, "beta": 3}], ids=str)
def test_chrf_is_sacrebleus(options):
    expected = sacrebleu.CHRF(**options)
    got = load_metric("chrf", **options).compute(predictions=GUESSES, references=TRUTHS)
    assert got["score"] == expected.corpus_score(GUESSES, [TRUTHS]).score
    assert got["signature"] == str(expected.get_signature())


@pytest.mark.parametrize("name", ["sacrebleu", "chrf"])
def test_several_references_and_batches(name):
    metric = load_metric(name)
    other = ["The cat was sitting on the mat.", "hello there, friend", "no thing came", "Das Haus"]
    scorer = {"sacrebleu": sacrebleu.BLEU, "chrf": sacrebleu.CHRF}[name]()
    both = [list(pair) for pair in zip(TRUTHS, other)]
    expected = scorer.corpus_score(GUESSES, [TRUTHS, other]).score
    assert metric.compute(predictions=GUESSES, references=both)["score"] == expected
    metric.add_batch(predictions=GUESSES[:2], references=both[:2])
    metric.add_batch(predictions=GUESSES[2:], references=both[2:])
    assert metric.compute()["score"] == expected
    uneven = [both[0], *([truth] for truth in TRUTHS[1:])]
    expected = scorer.corpus_score(GUESSES, [TRUTHS, [other[0], None, None, None]]).score
    assert metric.compute(predictions=GUESSES, references=uneven)["score"] == expected
    assert metric.compute(predictions=TRUTHS, references=TRUTHS)["score"] == pytest.approx(100)


def test_options_can_be_given_at_the_score():
    metric = load_metric("sacrebleu")
    lower = metric.compute(predictions=GUESSES, references=TRUTHS, lowercase=True)
    assert lower == load_metric("sacrebleu", lowercase=True).compute(predictions=GUESSES, references=TRUTHS)
    assert "case:lc" in lower["signature"]


def test_perplexity_does_not_depend_on_the_cut():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 9, generator=generator)
    labels = torch.randint(9, (12,), generator=generator)
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double()
    whole = load_metric("perplexity").compute(nll=[nll.sum().item()], tokens=[12])
    cut = load_metric("perplexity")
    for part in nll.split([1, 4, 7]):
        cut.add_batch(nll=[part.sum().item()], tokens=[len(part)])
    assert cut.compute() == pytest.approx(whole)
    assert whole["perplexity"] == pytest.approx(math.exp(nll.mean()))
    assert whole["loss"] == pytest.approx(nll.mean().item()) and whole["tokens"] == 12


def test_uniform_guess_over_n_words_has_perplexity_n():
    got = load_metric("perplexity").compute(nll=[3 * math.log(7), math.log(7)], tokens=[3, 1])
    assert got["perplexity"] == pytest.approx(7)
    assert load_metric("perplexity").compute(nll=[1e9], tokens=[1])["perplexity"] == math.inf


@pytest.mark.parametrize("form", [list, np.array, torch.tensor], ids=["list", "numpy", "torch"])
def test_token_accuracy_ignores_padding(form):
    predictions, references = form([[1, 2, 9], [4, 4, 4]]), form([[1, 3, -100], [4, 4, -100]])
    got = load_metric("token_accuracy").compute(predictions=predictions, references=references)
    assert got == {"token_accuracy": 3 / 4, "tokens": 4}
    metric = load_metric("token_accuracy", ignore_index=4)
    assert metric.compute(predictions=[[1], [4, 0]], references=[[1], [4, 1]])["token_accuracy"] == 0.5


def test_files_instead_of_memory(tmp_path):
    metric = load_metric("chrf", keep_in_memory=False, cache_dir=str(tmp_path))
    metric.add_batch(predictions=GUESSES, references=TRUTHS)
    assert list(tmp_path.rglob("*.arrow"))
    assert metric.compute()["score"] == sacrebleu.corpus_chrf(GUESSES, [TRUTHS]).score
    assert not list(tmp_path.rglob("*.arrow"))


def test_combined():
    texts = evaluate.combine([load_metric("sacrebleu"), load_metric("chrf")])
    got = texts.compute(predictions=GUESSES, references=TRUTHS)
    assert got["sacrebleu_score"] == sacrebleu.corpus_bleu(GUESSES, [TRUTHS]).score
    assert got["chrf_score"] == sacrebleu.corpus_chrf(GUESSES, [TRUTHS]).score
    texts.add_batch(predictions=GUESSES[:3], references=TRUTHS[:3])
    texts.add(prediction=GUESSES[3], reference=TRUTHS[3])
    assert texts.compute() == got
    tokens = evaluate.combine([load_metric("perplexity"), load_metric("token_accuracy")])
    tokens.add_batch(nll=[0.0], tokens=[2], predictions=[[1, 2]], references=[[1, 2]])
    got = tokens.compute()
    assert got["perplexity"] == got["token_accuracy"] == 1


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: load_metric("sacrebleau"), "did you mean 'sacrebleu'"),
        (lambda: load_metric("sacrebleu", tokenize="13b"), "tokenize='13b' .*13a"),
        (lambda: load_metric("chrf", tokenize="13a"), "chrf has no option.*tokenize"),
        (lambda: load_metric("sacrebleu").compute(), "sacrebleu has nothing to score"),
        (lambda: load_metric("chrf").compute(predictions=[], references=[]), "chrf has nothing to score"),
        (
            lambda: load_metric("chrf").compute(predictions=["a"], references=[[]]),
            "prediction 0 has no reference",
        ),
        (lambda: load_metric("chrf").compute(predictions=["a", "b"], references=["a"]), "Mismatch"),
        (lambda: load_metric("perplexity").compute(nll=[1.0], tokens=[0]), "at least one token"),
        (lambda: load_metric("token_accuracy").compute(predictions=[[1]], references=[[1, 2]]), "sentence 0"),
        (lambda: load_metric("token_accuracy").compute(predictions=[[1]], references=[[-100]]), "padding"),
    ],
)
def test_errors_say_what_was_wrong(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        wrong()


def test_threads_score_at_once():
    expected = sacrebleu.corpus_bleu(GUESSES, [TRUTHS]).score

    def score(_):
        return load_metric("sacrebleu").compute(predictions=GUESSES, references=TRUTHS)["score"]

    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        assert list(threads.map(score, range(9))) == [expected] * 9


def test_processes_score_at_once_offline_and_write_nothing(tmp_path):
    """Without a network, and with no cache folder left in the home, as `evaluate` otherwise makes one."""
    program = (
        "import socket; socket.socket.connect = None\n"
        "from vanilla_transformer.metrics import load_metric\n"
        "bleu, perplexity = load_metric('sacrebleu'), load_metric('perplexity')\n"
        "for _ in range(3):\n"
        "    bleu.compute(predictions=['a b c d'], references=['a b c d'])\n"
        "print(perplexity.compute(nll=[0.0], tokens=[1])['perplexity'])"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate()[0].strip() for run in runs] == ["1.0", "1.0"]
    assert not [file for file in tmp_path.rglob("*") if {"metrics", "evaluate"} & set(file.parts)]


def test_the_target_language_chooses_sacrebleus_tokenizer(monkeypatch):
    assert {bleu_tokenizer(code) for code in (None, "en", "de", "pt-BR", "my_language", "zulu")} >= {"13a"}
    assert {bleu_tokenizer(code) for code in ("zh", "zh-CN", "zh_TW", "zho_Hans", "ZH")} == {"zh"}
    assert {bleu_tokenizer(code) for code in ("th", "lo", "km", "my", "khm_Khmr")} == {"char"}
    for installed, names in ((None, ["char", "char"]), (object(), ["ja-mecab", "ko-mecab"])):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=installed: found)
        assert [bleu_tokenizer(code) for code in ("ja", "kor_Hang")] == names


@pytest.mark.parametrize(
    ("keys", "tokenizer"),
    [({"target_lang": "zh-TW"}, "zh"), ({"target_lang": "zh", "bleu_tokenize": "char"}, "char"),
     ({"target_lang": "de"}, "13a"), ({"target_lang": "th"}, "char"),
     ({"train_file": ["a.en", "b.zh.gz"]}, "zh"), ({"train_file": ["a.csv"], "target_lang": "xx"}, "13a")],
)  # fmt: skip
def test_the_recipe_scores_by_the_words_of_the_target_language(keys, tokenizer):
    texts = ["我昨天在河边看见两只狗。", "ผมกินข้าวกับแม่ที่บ้าน"]
    own = VanillaTransformerTokenizer.train([texts], 270, show_progress=False)
    data = Seq2SeqArguments(**{"source_lang": "en", "train_file": ["a.en", "a.xx"], **keys})
    ids = np.array(own(texts, padding=True)["input_ids"])
    scores = text_metrics(data, own)(EvalPrediction(ids, ids))
    assert f"tok:{tokenizer}|" in scores["bleu_signature"]
    assert (scores["bleu"] == pytest.approx(100)) == (tokenizer != "13a")


@pytest.mark.parametrize("name", ["13b", "ja-mecab", ""])
def test_a_wrong_bleu_tokenizer_raises_before_training(name):
    with pytest.raises(InputError, match="bleu_tokenize=.*13a, intl, char"):
        Seq2SeqArguments(source_lang="en", target_lang="ja", train_file=["a.en", "a.ja"], bleu_tokenize=name)
