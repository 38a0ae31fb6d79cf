"""examples/bare_loop.py, a training loop on accelerate, computes what the recipe's Trainer computes.

Run by `accelerate launch`, this file is the program that each process executes.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import DatasetDict
from launch import ROOT, launch, load_script, run_recipe
from safetensors.torch import load_file
from transformers import pipeline

from vanilla_transformer.corpora import load_corpus

QUICKSTART = ROOT / "recipes" / "translation" / "quickstart.yaml"


def corpus(name):
    """Some rows of a shipped corpus. The last evaluation batch has fewer rows than the others."""
    rows = {"train": 150, "validation": 21}
    return DatasetDict({split: load_corpus(name)[split].select(range(n)) for split, n in rows.items()})


def write_recipe(folder, dropout):
    """The quickstart with a small model and few updates, which end in the middle of an epoch."""
    recipe = yaml.safe_load(QUICKSTART.read_text())
    recipe["model"] |= {"hidden_size": 16, "intermediate_size": 32, "dropout": dropout}
    recipe |= {"vocab_size": 400, "max_steps": 22, "warmup_steps": 5, "logging_steps": 4, "eval_steps": 8}
    recipe |= {"max_source_tokens": 700, "max_target_tokens": 700, "per_device_eval_batch_size": 8}
    recipe |= {"save_strategy": "steps", "save_steps": 22, "output_dir": str(folder / "trainer")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def train_with_trainer(folder, recipe, *flags):
    """Return the log of the recipe's Trainer."""
    files = []
    for name, split in corpus("bible_en_es").items():
        split.to_parquet(str(folder / f"{name}.parquet"))
        files += [f"--{name}_file", folder / f"{name}.parquet"]
    run_recipe("seq2seq", recipe, "--dataset", "", *files, *flags)
    [state] = (folder / "trainer").glob("checkpoint-*/trainer_state.json")
    return json.loads(state.read_text())["log_history"]


def train_with_loop(recipe, folder):
    bare_loop = load_script("examples/bare_loop.py")
    bare_loop.load_corpus = corpus
    return bare_loop.main(recipe, folder)


def assert_same_losses(history, expected, rel):
    for key, times in (("loss", 5), ("eval_loss", 3)):
        ours, theirs = ({log["step"]: log[key] for log in logs if key in log} for logs in (history, expected))
        assert len(theirs) == times
        assert ours == pytest.approx(theirs, rel=rel)


def test_losses_and_weights_are_the_trainers(tmp_path):
    recipe = write_recipe(tmp_path, dropout=0.1)
    expected = train_with_trainer(tmp_path, recipe)
    assert_same_losses(train_with_loop(recipe, tmp_path / "loop"), expected, rel=1e-6)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("loop", "trainer"))
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():
        assert torch.equal(weights, theirs[name]), name
    assert pipeline("translation", model=str(tmp_path / "loop"))("In the beginning")[0].keys() == {
        "translation_text"
    }


@pytest.mark.slow
def test_two_processes_train_as_the_trainer_with_accumulation(tmp_path):
    """Two processes with a batch each, against one with two batches in an update."""
    recipe = write_recipe(tmp_path, dropout=0.0)
    expected = train_with_trainer(tmp_path, recipe, "--gradient_accumulation_steps", 2)
    finished = launch(__file__, recipe, tmp_path / "loop", processes=2, launcher="accelerate")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert_same_losses(json.loads((tmp_path / "history.json").read_text()), expected, rel=1e-5)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("loop", "trainer"))
    for name, weights in ours.items():
        torch.testing.assert_close(weights, theirs[name], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    recipe, folder = map(Path, sys.argv[1:])
    history = train_with_loop(recipe, folder)
    (folder.parent / "history.json").write_text(json.dumps(history))  # the same from each process
