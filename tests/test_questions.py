"""The experiments of docs/questions.md: their data are right, they remove what they say, and they run."""

import importlib
import random
import sys
from pathlib import Path

import pytest
import torch

QUESTIONS = Path(__file__).parents[1] / "examples" / "questions"
NAMES = ("long_range", "positions", "encoder_decoder", "optimizers", "bleu")


@pytest.fixture(autouse=True)
def questions_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(QUESTIONS)


def load(name):
    return importlib.import_module(name)


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_runs_and_draws(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    few = [] if name == "bleu" else ["--updates", "2"]
    monkeypatch.setattr(sys, "argv", [name, "--output", str(tmp_path), *few])
    load(name).main()
    assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    assert capsys.readouterr().out.startswith("| ")


def test_write_puts_the_table_into_its_place(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    study, bleu = load("study"), load("bleu")
    page = tmp_path / "questions.md"
    page.write_text("before\n<!-- results of bleu -->\nold\n<!-- end of bleu -->\nafter\n")
    monkeypatch.setattr(study, "PAGE", page)
    monkeypatch.setattr(study, "PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(sys, "argv", ["bleu", "--output", str(tmp_path), "--write"])
    bleu.main()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "words left out" in text and (tmp_path / "pictures" / "bleu.svg").exists()


def test_brackets_match():
    ids, labels, distances = load("long_range").brackets(20, random.Random(0))
    for row in zip(ids.tolist(), labels.tolist(), distances.tolist()):
        stack = []
        for place, (token, label, distance) in enumerate(zip(*row)):
            if label == -100:
                stack.append((place, token))
            else:
                start, kind = stack.pop()
                assert (token, label, distance) == (4, kind, place - start)
        assert not stack


def test_a_copy_can_be_read_off_the_input():
    ids, labels, _ = load("long_range").copying(7, 20, random.Random(0))
    assert torch.equal(labels[:, -5:], ids[:, :5])
    assert torch.equal(ids[:, -4:], ids[:, :4]) and (labels[:, :-5] == -100).all()


@pytest.mark.parametrize(
    "number, words",
    [
        (0, "zero"),
        (15, "fifteen"),
        (40, "forty"),
        (99, "ninety nine"),
        (100, "one hundred"),
        (342, "three hundred and forty two"),
        (42_005, "forty two thousand and five"),
        (700_120, "seven hundred thousand one hundred and twenty"),
    ],
)
def test_numbers_in_words(number, words):
    assert load("numbers_in_words").in_words(number) == words.split()


def test_all_numbers_differ_in_words_and_the_test_is_kept_apart():
    numbers = load("numbers_in_words")
    assert len({tuple(numbers.in_words(number)) for number in range(20_000)}) == 20_000
    assert not set(numbers.draw(2000, random.Random(0))) & set(numbers.draw(200, random.Random(1), True))


def test_a_removed_part_is_gone():
    """A later word reaches an earlier output without the mask only, the source with cross-attention only."""
    questions = load("encoder_decoder")
    source, other_source = torch.tensor([[20, 21, 2, 0]]), torch.tensor([[20, 25, 2, 0]])
    seen = (source != 0).long()
    target, other_target = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6, 7, 4]])
    for variant in questions.VARIANTS:
        torch.manual_seed(0)
        model = questions.build(variant).eval()
        with torch.no_grad():
            logits, leaked, read = (
                model(ids, attention_mask=seen, decoder_input_ids=words).logits
                for ids, words in ((source, target), (source, other_target), (other_source, target))
            )
            leak, reads = (leaked - logits)[:, :3].abs().max() > 1e-5, (read - logits).abs().max() > 1e-5
            states = [
                model.model.encoder(ids, seen).last_hidden_state[:, 0] for ids in (source, other_source)
            ]
        assert leak == (variant == "no causal mask")
        assert reads == (variant != "no cross-attention")
        assert torch.allclose(*states, atol=1e-6) == (variant == "causal encoder")


def test_without_positions_the_source_is_a_bag():
    positions = load("positions")
    source, swapped = torch.tensor([[3, 4, 5, 28]]), torch.tensor([[5, 3, 4, 28]])
    for kind in ("none", "learned", "sinusoidal"):
        torch.manual_seed(0)
        model = positions.build(kind).eval()
        with torch.no_grad():
            logits = [model(ids, labels=source).logits for ids in (source, swapped)]
        assert torch.allclose(*logits, atol=1e-5) == (kind == "none")


def test_both_models_of_question_1_see_the_past_only():
    questions = load("long_range")
    ids = torch.randint(0, 8, (2, 12))
    other = ids.clone()
    other[:, 7] = 9
    for model in (questions.Transformer().eval(), questions.LSTM().eval()):
        with torch.no_grad():
            change = (model(ids) - model(other)).abs().amax((0, 2))
        assert (change[:7] < 1e-5).all() and change[7] > 1e-5
