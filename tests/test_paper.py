"""The paper's Table 3: the configs at its size, the scaled grid, and the statistics of its report."""

import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from launch import parse_recipe
from scipy import stats

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.embeddings import sinusoids

FOLDER = Path(__file__).parents[1] / "recipes" / "paper"
sys.path.insert(0, str(FOLDER))  # its files import each other as scripts do

import grid  # noqa: E402
import position_size  # noqa: E402
import report  # noqa: E402
from table3 import ROWS  # noqa: E402


def millions(settings: dict, words: int) -> int:
    config = VanillaTransformerConfig.from_preset(settings.pop("preset"), **{**settings, "vocab_size": words})
    with torch.device("meta"):
        return round(VanillaTransformerForConditionalGeneration(config).num_parameters() / 1e6)


def test_every_row_of_table_3_has_a_recipe():
    assert {path.stem for path in (FOLDER / "table3").glob("*.yaml")} == set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_at_the_papers_size(row):
    """It parses, has the paper's number of parameters, and differs from base in its row alone."""
    path = FOLDER / "table3" / f"{row}.yaml"
    text = path.read_text()
    assert text.startswith(
        f"# Not run yet: torchrun --nproc-per-node 8 recipes/seq2seq.py recipes/paper/table3/{row}"
    )
    model, data, *_, args = parse_recipe("seq2seq", path, "--bf16=false")
    paper = ROWS[row]
    assert millions(model, data.vocab_size) == (paper.millions or ROWS["base"].millions)
    assert f"perplexity {paper.perplexity:.2f}, BLEU {paper.bleu}" in text
    assert args.average_checkpoints == 0

    settings, base = yaml.safe_load(text), yaml.safe_load((FOLDER / "table3" / "base.yaml").read_text())
    changed = {key for key in settings | base if settings.get(key) != base.get(key)} - {"output_dir", "model"}
    expected = {"label_smoothing_factor"} if "smoothing" in row else {"vocab_size", "max_steps"}
    assert changed == (expected if "smoothing" in row or row == "big" else set())


@pytest.mark.parametrize("row", ROWS)
def test_a_scaled_row_keeps_the_papers_ratios(row):
    """Each size is that of the paper over the same factor: 4 for widths, 2 for depths, 1 for the rest."""
    flags = grid.as_flags(ROWS[row].changes)
    small, *_, args = parse_recipe("seq2seq", grid.BASE, "--train_file=a.parquet", "--bf16=false", *flags)
    large, *_, large_args = parse_recipe("seq2seq", FOLDER / "table3" / f"{row}.yaml", "--bf16=false")
    small = VanillaTransformerConfig(**{**small, "vocab_size": 9})
    large = VanillaTransformerConfig.from_preset(large["preset"])
    for name in ("hidden_size", "intermediate_size", "head_dim", "value_dim"):
        assert getattr(large, name) == 4 * getattr(small, name)
    for name in ("encoder_layers", "decoder_layers"):
        assert getattr(large, name) == 2 * getattr(small, name)
    for name in ("num_attention_heads", "dropout", "position_embedding_type", "norm_position"):
        assert getattr(large, name) == getattr(small, name)
    assert args.label_smoothing_factor == large_args.label_smoothing_factor
    assert args.learning_rate * small.hidden_size**0.5 == pytest.approx(0.002 * 128**0.5, rel=3e-3)


# The runner, on a few verses of the shipped corpus

SMALL = ["--dataset=bible_en_es", "--source_lang=en", "--target_lang=es", "--max_train_samples=300"]
SMALL += ["--max_validation_samples=4", "--max_test_samples=4", "--vocab_size=300", "--max_extra_tokens=2"]
SMALL += ["--max_steps=2", "--model.hidden_size=16", "--model.intermediate_size=16", "--bf16=false"]


@pytest.mark.slow
def test_two_rows_and_two_seeds(tmp_path, capsys):
    results, runs = tmp_path / "results" / "grid.jsonl", tmp_path / "runs"
    rows = ["base", "C-2-layers"]
    assert grid.run_grid(rows, 1, [], SMALL, results, runs) == 0
    assert grid.run_grid(rows, 2, [], SMALL, results, runs) == 0
    assert "2 of 4 runs to do" in capsys.readouterr().out
    assert grid.run_grid(rows, 2, [], SMALL, results, runs) == 0
    assert "0 of 4 runs to do" in capsys.readouterr().out
    done = grid.read_results(results)
    assert [(run["row"], run["seed"]) for run in done] == list(grid.planned(rows, 2))
    assert done[0]["parameters"] > done[1]["parameters"]
    assert done[0]["perplexity"] != done[2]["perplexity"]  # another seed
    assert not list(runs.glob("*/"))  # the checkpoints are gone
    assert "4 of 60 runs are done, of 2 updates each" in report.report(done)
    with pytest.raises(ValueError, match="base, seed 1 was run with other settings"):
        grid.run_grid(rows, 2, [], [*SMALL, "--warmup_steps=9"], results, runs)


@pytest.mark.slow
def test_positions_start_from_sinusoids(tmp_path, monkeypatch, capsys):
    results, seen = tmp_path / "position_size.jsonl", []

    def train(data, seed, folder, *flags, own=position_size.train):
        own(data, seed, folder, *flags)
        begun = [flag.partition("=")[2] for flag in flags if flag.startswith("--pretrained=")]
        for start in begun:
            model = VanillaTransformerForConditionalGeneration.from_pretrained(start)
            seen.append(model.model.decoder.embed_positions.weight.detach())

    monkeypatch.setattr(position_size, "train", train)
    monkeypatch.setattr(position_size, "ON_HUB", SMALL)
    words = ["position_size.py", "--seeds", "1", "--scales", "1", "0.5", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", words)
    for _ in range(2):  # the second time there is nothing to do
        position_size.main()
        assert "scale 0.5: perplexity" in capsys.readouterr().out
    whole, half = seen
    torch.testing.assert_close(whole, sinusoids(torch.arange(256), 16))
    torch.testing.assert_close(half, whole / 2)
    assert [run["scale"] for run in grid.read_results(results)] == [1.0, 0.5]
    assert {run["updates"] for run in grid.read_results(results)} == {2}


# A recipe that counts to 40 and resumes, in place of one that trains
COUNTING = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(next(word for word in sys.argv if word.startswith("--output_dir=")).partition("=")[2])
state = folder / "checkpoint-1" / "count"
state.parent.mkdir(parents=True, exist_ok=True)
count = int(state.read_text()) if state.is_file() else 0
stopped = []
signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
print("from", count, flush=True)
while count < 40:
    time.sleep(0.02)
    count += 1
    if stopped:
        state.write_text(str(count))
        sys.exit(143)
if "--fail=1" in sys.argv or ("--fail=other" in sys.argv and "num_attention_heads" not in str(sys.argv)):
    sys.exit(1)
scores = {"perplexity": 5.0, "bleu": 20.0, "chrf": 40.0, "bleu_signature": "b", "chrf_signature": "c"}
facts = {"parameters": 9, "updates": count, "hardware": "h", "versions": {}, "commit": "", "data": {}}
scores = {f"validation_{name}": value for name, value in scores.items()}
(folder / "results.json").write_text(json.dumps({**scores, **facts}))
"""
RUN = (
    "import sys; sys.path.insert(0, {folder!r}); import grid; grid.RECIPE = {recipe!r}; sys.exit(grid.main())"
)


@pytest.fixture
def counting_grid(tmp_path):
    (tmp_path / "recipe.py").write_text(COUNTING)
    program = RUN.format(folder=str(FOLDER), recipe=str(tmp_path / "recipe.py"))
    words = [
        "--results",
        str(tmp_path / "grid.jsonl"),
        "--runs",
        str(tmp_path / "runs"),
        "--rows",
        "base",
        "big",
    ]

    def begin(*flags):
        return subprocess.Popen(
            [sys.executable, "-c", program, *words, "--seeds=1", *flags], stdout=subprocess.PIPE
        )

    return begin


def test_a_stopped_grid_resumes(counting_grid, tmp_path):
    log = tmp_path / "runs" / "base-1.log"
    begun = counting_grid()
    while not (log.is_file() and "from 0" in log.read_text()):
        time.sleep(0.02)
    begun.send_signal(signal.SIGTERM)
    assert b"the same command resumes" in begun.communicate()[0]
    assert begun.returncode == 143
    assert not (tmp_path / "grid.jsonl").exists()

    assert counting_grid().wait() == 0
    assert int(re.findall(r"from (\d+)", log.read_text())[1]) > 0
    base, big = grid.read_results(tmp_path / "grid.jsonl")
    assert base["resumed"] and not big["resumed"]
    assert base["updates"] == 40


def test_two_failures_in_a_row_end_the_grid(counting_grid, tmp_path):
    failed = counting_grid("--fail=1")
    assert b"failed: base-1, big-1" in failed.communicate()[0]
    assert failed.returncode == 1
    assert not (tmp_path / "grid.jsonl").exists()
    assert counting_grid().wait() == 0  # and they can be tried again


def test_failures_between_good_runs_do_not_end_the_grid(counting_grid, tmp_path):
    rows = ["base", "A-1-head", "C-2-layers", "A-4-heads"]
    failed = counting_grid("--fail=other", "--rows", *rows)
    assert b"failed: base-1, C-2-layers-1" in failed.communicate()[0]
    done = grid.read_results(tmp_path / "grid.jsonl")
    assert failed.returncode == 1 and [run["row"] for run in done] == ["A-1-head", "A-4-heads"]


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "grid.jsonl").write_text('{"row": "base"}\n{"row": "ba')
    with pytest.raises(ValueError, match="grid.jsonl, line 2"):
        grid.read_results(tmp_path / "grid.jsonl")


# The report, from made-up runs


def run(row, seed, perplexity, bleu, **changes):
    made_up = {"chrf": 50.0, "bleu_signature": "b", "parameters": 1000, "updates": 5, "hardware": "1 thread"}
    made_up |= {"data": {}, "setup": row, "seconds": 60, "row": row, "seed": seed}
    return made_up | {"perplexity": perplexity, "bleu": bleu} | changes


def test_intervals_are_those_of_scipy():
    values = [20.1, 21.7, 20.4]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    found = report.interval(values)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert report.interval([20.1]).half is None
    assert report.interval([20.0, 21.0]).half == pytest.approx(12.7062 * 0.5, rel=1e-4)  # t of one degree


def test_differences_are_paired_by_seed():
    """Seeds without a run of base are skipped; the interval is that of scipy's paired test."""
    own, base = [21.0, 22.5, 23.1], [20.0, 21.0, 22.5]
    runs = [run("base", seed, 8.0, score) for seed, score in enumerate(base, 1)]
    runs += [run("big", seed, 4.0, score) for seed, score in enumerate([*own, 99.0], 1)]
    made = report.Grid(runs)
    found = report.interval(made.differences("big", "bleu"))
    paired = stats.ttest_rel(own, base).confidence_interval()
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((paired.low, paired.high))
    assert made.differences("big", "perplexity") == pytest.approx([100 * math.log(0.5)] * 3)


def test_the_pooled_interval_of_two_rows_is_the_paired_one():
    """With base and one row, the residuals of both effects are those of the differences."""
    own, base = [21.0, 22.5, 23.1], [20.0, 21.0, 22.5]
    runs = [run("base", seed, 8.0, score) for seed, score in enumerate(base, 1)]
    runs += [run("big", seed, 4.0, score) for seed, score in enumerate(own, 1)]
    made = report.Grid(runs)
    assert made.pooled_half("bleu") == pytest.approx(report.interval(made.differences("big", "bleu")).half)
    assert report.Grid(runs[:1]).pooled_half("bleu") is None


@pytest.mark.parametrize(
    ("row", "measure", "mean", "half", "verdict"),
    [
        ("A-1-head", "bleu", -1.0, 0.5, "repeats"),  # the paper: -0.9
        ("A-1-head", "bleu", -1.0, 1.5, "undecided"),
        ("A-1-head", "bleu", 1.0, 0.5, "reversed"),
        ("A-1-head", "bleu", -1.0, None, "undecided"),  # one seed
        ("A-1-head", "perplexity", 3.0, 1.0, "repeats"),
        ("big", "perplexity", -3.0, 1.0, "repeats"),
        ("E-learned-positions", "bleu", 0.1, 0.3, "repeats"),
        ("E-learned-positions", "bleu", 0.1, 0.5, "undecided"),
        ("E-learned-positions", "bleu", -1.0, 0.3, "reversed"),
    ],
)
def test_verdicts(row, measure, mean, half, verdict):
    assert report.judge(row, measure, report.Interval(mean, half)) == verdict


def test_the_verdict_on_a_finding():
    assert report.conclude(["repeats", "repeats"]) == "repeats"
    assert report.conclude(["repeats", "undecided"]) == "repeats where decided"
    assert report.conclude(["repeats", "reversed"]) == "repeats in part"
    assert report.conclude(["undecided", "reversed"]) == "does not repeat"
    assert report.conclude(["undecided"]) == report.conclude([]) == "undecided"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"updates": 6}, "different updates"), ({"setup": "other"}, "big with different settings")],
)
def test_runs_that_do_not_belong_together_raise(change, message):
    runs = [run("base", 1, 8.0, 20.0), run("big", 1, 8.0, 20.0), run("big", 2, 8.0, 20.0, **change)]
    with pytest.raises(ValueError, match=message):
        report.report(runs)
    with pytest.raises(ValueError, match="no run of the row base"):
        report.report(runs[1:])


def test_the_report_of_an_unfinished_grid(tmp_path):
    """Rows without a run say so; one seed has no interval."""
    runs = [run("base", 1, 8.0, 20.0), run("base", 2, 8.1, 20.2), run("big", 1, 7.0, 21.0)]
    (tmp_path / "README.md").write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_report(runs, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "\nold\n" not in text
    assert "| A-1-head | 5.29 | 24.9 |  | not run yet |" in text
    assert "| big | 4.33 | 26.4 | 213 | 7.00 | 21.0 | 50.0 | 1,000 | 1 |" in text
    assert "| base | 4.92 | 25.8 | 65 | 8.05 ± 0.64 |" in text
    assert (tmp_path / "grid.svg").read_text().startswith("<?xml")
    report.write_report(runs, tmp_path)
    assert (tmp_path / "README.md").read_text() == text


def test_every_finding_compares_rows_that_the_paper_orders():
    """The paper's numbers agree with its words, and so give each comparison its direction."""
    losses = ("One head", "Too many", "A smaller")
    for finding in report.FINDINGS:
        for row, measure in report.comparisons(finding):
            difference = report.paper_difference(row, measure)
            if finding.startswith(losses):
                assert (difference > 0) == (measure == "perplexity")
            assert difference or row == "E-learned-positions"


def test_the_readme_holds_the_report_of_the_committed_runs():
    readme = (FOLDER / "README.md").read_text()
    runs = grid.read_results(FOLDER / "results" / "grid.jsonl")
    assert report.with_report(readme, report.report(runs)) == readme, (
        "run python recipes/paper/grid.py --report"
    )
