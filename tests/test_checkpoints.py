"""Checkpoints: damaged ones are passed over, foreign folders stay, streams resume at their position."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset
from tiny_training import BUDGET, RESUMED, At, arguments, assert_same_weights, build, pairs, trainer_of
from transformers import TrainerCallback

from vanilla_transformer.training import TrainingInterrupted, average_checkpoints
from vanilla_transformer.training.manifest import (
    MANIFEST,
    complete_checkpoints,
    find_obstacle,
    newest_checkpoint,
)
from vanilla_transformer.training.resumption import checksum
from vanilla_transformer.training.run_lock import LOCK, FolderInUse, lock_run, locked


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A finished run of 9 updates with checkpoints 3, 6 and 9."""
    folder = tmp_path_factory.mktemp("saved")
    trainer_of(folder, build(dropout=0.2), **RESUMED).train()
    return folder


@pytest.fixture
def run(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "run"))


def delete(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


def halve(file):
    os.truncate(file, file.stat().st_size // 2)


def zero(file):
    file.write_bytes(bytes(file.stat().st_size))


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = [delete, empty, halve, zero, flip]
NEEDED = (
    *("model.safetensors", "config.json", "optimizer.pt", "scheduler.pt"),
    *("rng_state.pth", "trainer_state.json", "data_order.json"),
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NEEDED)
def test_a_damaged_checkpoint_is_named_and_passed_over(run, name, damage, caplog):
    damage(run / "checkpoint-9" / name)
    assert name in find_obstacle(run / "checkpoint-9")
    assert newest_checkpoint(run) == run / "checkpoint-6"
    assert "checkpoint-9 is passed over" in caplog.text and name in caplog.text
    with pytest.raises(ValueError, match=rf"checkpoint-9: {name}.*checkpoint-6 is undamaged"):
        trainer_of(run, **RESUMED).train(resume_from_checkpoint=str(run / "checkpoint-9"))


def test_the_run_resumed_before_the_damage_ends_alike(saved, run):
    flip(run / "checkpoint-9" / "optimizer.pt")
    again = trainer_of(run, build(dropout=0.2), **RESUMED)
    again.train(resume_from_checkpoint=True)
    undamaged = trainer_of(run, build(), **RESUMED)
    undamaged.restore(str(saved / "checkpoint-9"))
    assert_same_weights(again.model.state_dict(), undamaged.model.state_dict())
    assert find_obstacle(run / "checkpoint-9") is None  # written again


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_manifest_the_structure_is_checked(run, damage):
    """As in checkpoints of version 0.1.0 or of transformers' Trainer."""
    for folder in run.glob("checkpoint-*"):
        (folder / MANIFEST).unlink()
    assert newest_checkpoint(run) == run / "checkpoint-9"
    damage(run / "checkpoint-9" / "optimizer.pt")
    assert newest_checkpoint(run) == run / "checkpoint-6"


def test_weights_alone_cannot_be_resumed(tmp_path):
    trainer_of(tmp_path, **RESUMED, save_only_model=True).train()
    with pytest.raises(ValueError, match="no checkpoint in"):
        trainer_of(tmp_path, **RESUMED).train(resume_from_checkpoint=True)


def test_damaged_weights_are_not_averaged(run, caplog):
    halve(run / "checkpoint-6" / "model.safetensors")
    (run / "checkpoint-7").mkdir()  # half deleted
    averaging = RESUMED | {"average_checkpoints": 2}
    trainer = trainer_of(run, **averaging)
    output = trainer.train(resume_from_checkpoint=True)
    assert output.metrics["final_weights"].endswith("checkpoint-3, checkpoint-9")
    assert "checkpoint-6 is not averaged: model.safetensors has" in caplog.text
    mean = average_checkpoints([run / "checkpoint-3", run / "checkpoint-9"])
    assert_same_weights({name: trainer.model.state_dict()[name] for name in mean}, mean)


def test_folders_of_the_user_stay(tmp_path):
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "checkpoint-final" / "model.safetensors").write_text("mine")
    (tmp_path / "checkpoint-6").mkdir()
    (tmp_path / "checkpoint-6" / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint-1").mkdir()
    trainer_of(tmp_path, **RESUMED, save_total_limit=1).train()
    assert sorted(folder.name for folder in tmp_path.glob("checkpoint-*")) == [
        *("checkpoint-1", "checkpoint-6.old0", "checkpoint-9", "checkpoint-final")
    ]
    assert (tmp_path / "checkpoint-6.old0" / "notes.txt").read_text() == "mine"


def test_rotation_goes_by_step_not_by_time(tmp_path):
    def set_clock_ahead():
        ahead = time.time() + 86_400
        for folder in tmp_path.glob("checkpoint-*"):
            os.utime(folder, (ahead, ahead))

    trainer_of(tmp_path, callbacks=[At(5, set_clock_ahead)], **RESUMED, save_total_limit=1).train()
    assert list(complete_checkpoints(tmp_path)) == [9]


def test_the_best_checkpoint_survives_rotation(tmp_path, caplog):
    def confuse(model):
        model.get_output_embeddings().weight.data.mul_(-3)

    model = build()
    settings = RESUMED | {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True}
    trainer = trainer_of(
        tmp_path, model, eval_dataset=pairs(9, 1), callbacks=[At(4, lambda: confuse(model))], **settings,
        save_total_limit=1,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-3")
    assert list(complete_checkpoints(tmp_path)) == [3, 9]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, abs=1e-6)
    assert "missing keys" not in caplog.text  # tied weights are stored once


def test_a_run_that_moved_keeps_its_best_checkpoint(tmp_path):
    settings = RESUMED | {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True}
    settings |= {"eval_dataset": pairs(9, 1), "noam_factor": 30}
    first = trainer_of(tmp_path / "first", **{**settings, "max_steps": 6})
    first.train()
    (tmp_path / "first").rename(tmp_path / "moved")
    second = trainer_of(tmp_path / "moved", **settings)
    second.train(resume_from_checkpoint=True)
    best = second.state.best_model_checkpoint
    assert best == str(tmp_path / "moved" / f"checkpoint-{second.state.best_global_step}")


def test_an_interrupts_checkpoint_goes_with_the_next_one(tmp_path):
    stop = At(5, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(TrainingInterrupted):
        trainer_of(tmp_path, callbacks=[stop], **RESUMED).train()
    assert list(complete_checkpoints(tmp_path)) == [3, 5]
    trainer_of(tmp_path, **RESUMED).train(resume_from_checkpoint=True)
    assert list(complete_checkpoints(tmp_path)) == [3, 6, 9]


def test_rotation_leaves_checkpoints_of_later_updates(run, saved):
    """They are of another run, which the user has put there."""
    shutil.copytree(saved / "checkpoint-9", run / "checkpoint-5000")
    trainer_of(run, **RESUMED, save_total_limit=1).train(resume_from_checkpoint=str(run / "checkpoint-3"))
    assert list(complete_checkpoints(run)) == [9, 5000]


def test_resuming_from_an_earlier_checkpoint_names_the_later_ones(run, caplog):
    trainer_of(run, **RESUMED).train(resume_from_checkpoint=str(run / "checkpoint-3"))
    assert "checkpoint-6, checkpoint-9 in" in caplog.text and "later updates than checkpoint-3" in caplog.text


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = build()

    class Overflow(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 5:
                model.model.encoder.layers[0].feed_forward.fc1.bias.data[0] = float("inf")

    trainer = trainer_of(tmp_path, model, callbacks=[Overflow()], **RESUMED)
    with pytest.raises(FloatingPointError, match=r"encoder.layers.0.feed_forward.fc1.bias .* not saved"):
        trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-3"}


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_weights_get_the_mode_of_other_new_files(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        trainer = trainer_of(tmp_path, **{**RESUMED, "max_steps": 3})
        trainer.train()
        trainer.save_model()
        average_checkpoints([tmp_path / "checkpoint-3"], tmp_path / "mean")
        build("marian").save_pretrained(tmp_path / "plain")
        build().save_pretrained(tmp_path / "ours")
    finally:
        os.umask(before)
    for folder in (tmp_path, tmp_path / "checkpoint-3", tmp_path / "mean", tmp_path / "ours"):
        assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == mode, folder


# Two runs in one folder


def test_two_runs_cannot_share_a_folder(tmp_path):
    program = (
        f"from vanilla_transformer.training.resumption import checksum
from vanilla_transformer.training.run_lock import lock_run; lock_run({str(tmp_path)!r}); input()"
    )
    path = os.pathsep.join(sys.path)
    other = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    deadline = time.time() + 60
    while not (tmp_path / LOCK).exists() and time.time() < deadline:
        time.sleep(0.05)
    with pytest.raises(FolderInUse, match=rf"output_dir: process {other.pid} on .* trains in"):
        trainer_of(tmp_path, **RESUMED).train()
    other.kill()
    other.wait()
    assert (tmp_path / LOCK).exists()  # of a process that is dead
    assert trainer_of(tmp_path, **RESUMED).train().global_step == 9
    assert not (tmp_path / LOCK).exists()


def test_the_lock_of_a_recipe_outlives_the_training(tmp_path):
    lock_run(tmp_path)
    with locked(tmp_path):
        pass
    assert (tmp_path / LOCK).exists()


# Signals


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTERM"])
def test_signals_save_a_checkpoint(tmp_path, name):
    number = getattr(signal, name)
    trainer = trainer_of(tmp_path, callbacks=[At(5, lambda: signal.raise_signal(number))], **RESUMED)
    with pytest.raises(TrainingInterrupted) as interrupt:
        trainer.train()
    assert interrupt.value.code == 128 + number
    assert find_obstacle(tmp_path / "checkpoint-5") is None


# What must not change


def test_another_accumulation_is_refused_unless_the_update_stays(tmp_path):
    fixed = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 8}
    trainer_of(tmp_path, **fixed).train()
    with pytest.raises(ValueError, match="gradient_accumulation_steps.* changed from 8 to 16"):
        trainer_of(tmp_path, **fixed, gradient_accumulation_steps=2).train(resume_from_checkpoint=True)
    same = fixed | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 5}
    assert trainer_of(tmp_path, **same).train(resume_from_checkpoint=True).global_step == 5


def test_changed_tokens_of_equal_length_are_refused(tmp_path):
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer_of(tmp_path, **saving).train()
    changed = pairs().to_dict()
    changed["labels"][17][0] = 3 if changed["labels"][17][0] != 3 else 4
    other = trainer_of(tmp_path, train_dataset=Dataset.from_dict(changed), **{**saving, "max_steps": 4})
    with pytest.raises(ValueError, match="checksum of the training data changed"):
        other.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "one, other",
    [
        ([[1, 2], [3]], [[1], [2, 3]]),
        ([[[1, 2]], [[3]]], [[[1], [2]], [[3]]]),
        (["a", "b"], ["a", "c"]),
        ([0.25, 1.0], [0.25, 0.5]),
        ([1, None], [1, 2]),
    ],
    ids=str,
)
def test_a_checksum_sees_values_and_where_rows_end(one, other):
    given, changed = (Dataset.from_dict({"input_ids": [[5], [6]], "labels": labels}) for labels in (one, other))
    assert checksum(given) == checksum(Dataset.from_list(list(given))) != checksum(changed)


def test_what_a_recipe_records_is_compared(tmp_path):
    trainer = trainer_of(tmp_path, **{**RESUMED, "max_steps": 3})
    trainer.data_record = {"train_file": [1, 2]}
    trainer.train()
    other = trainer_of(tmp_path, **RESUMED)
    other.data_record = {"train_file": [1, 3]}
    with pytest.raises(ValueError, match=r"train_file changed from \[1, 2\] to \[1, 3\]"):
        other.train(resume_from_checkpoint=True)


# Streams


def generated(count):
    yield from pairs(count)


class Plain(torch.utils.data.IterableDataset):
    """A stream without a state."""

    def __iter__(self):
        yield from pairs(120)


def shards(numbers):
    for number in numbers:
        yield from pairs(30, number)


STREAMS = {
    "generator": lambda: IterableDataset.from_generator(generated, gen_kwargs={"count": 120}),
    "mapped": lambda: (
        IterableDataset.from_generator(generated, gen_kwargs={"count": 120})
        .map(lambda rows: rows, batched=True, batch_size=7)
        .filter(lambda row: len(row["labels"]) > 3)
    ),
    "shuffled shards": lambda: IterableDataset.from_generator(
        shards, gen_kwargs={"numbers": [1, 2, 3, 4]}
    ).shuffle(seed=1, buffer_size=1),
    "without a state": Plain,
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [5, 9])
def test_a_stream_resumes_exactly_at_its_position(tmp_path, stream, workers, stop):
    settings = {"max_steps": 12, "save_strategy": "steps", "save_steps": 1, **BUDGET}
    settings |= {"stream_buffer_size": 40}  # one or two updates in a block

    def run(folder, checkpoint=None, workers=0):
        data = STREAMS[stream]()
        trainer = trainer_of(folder, build(dropout=0.2), data, dataloader_num_workers=workers, **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    whole = run(tmp_path / "whole")
    position = json.loads((tmp_path / "whole" / f"checkpoint-{stop}" / "stream_position.json").read_text())
    assert position["epoch"] + position["block"] > 0  # not a replay from the start
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / f"checkpoint-{stop}"), workers)
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())
    assert resumed.state.epoch == whole.state.epoch == 1


def test_a_stream_with_another_buffer_is_refused(tmp_path):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, **BUDGET}
    trainer_of(tmp_path, train_dataset=Plain(), stream_buffer_size=8, **settings).train()
    other = trainer_of(tmp_path, train_dataset=Plain(), stream_buffer_size=9, **{**settings, "max_steps": 4})
    with pytest.raises(ValueError, match="stream_buffer_size changed from 8 to 9"):
        other.train(resume_from_checkpoint=True)


# The end of a run, planned before its start


def test_early_stopping_keeps_the_best_weights(tmp_path):
    settings = RESUMED | {"max_steps": 90, "eval_strategy": "steps", "eval_steps": 3}
    settings |= {"early_stopping_patience": 2, "noam_factor": 20}
    trainer = trainer_of(tmp_path, eval_dataset=pairs(9, 1), **settings)
    trainer.train()
    assert trainer.state.global_step < 90
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, abs=1e-6)


def test_early_stopping_works_with_averaging(tmp_path):
    settings = RESUMED | {"max_steps": 90, "eval_strategy": "steps", "eval_steps": 3}
    settings |= {"early_stopping_patience": 2, "noam_factor": 20, "average_checkpoints": 2}
    trainer = trainer_of(tmp_path, eval_dataset=pairs(9, 1), **settings)
    output = trainer.train()
    end = trainer.state.global_step
    assert end < 90
    assert output.metrics["final_weights"].endswith(f"checkpoint-{end - 3}, checkpoint-{end}")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"early_stopping_patience": 2}, "early_stopping_patience=2 needs evaluations"),
        ({"early_stopping_patience": 0, "eval_strategy": "steps"}, "must be at least 1"),
        ({"bf16": "maybe"}, "bf16=maybe is none of true, false, auto"),
    ],
)
def test_settings_that_cannot_work_are_errors(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **settings)


@pytest.mark.parametrize("speed, chosen", [(0.6, False), (3.0, True)])
def test_bf16_auto_measures_and_says_what_it_chose(tmp_path, monkeypatch, caplog, speed, chosen):
    monkeypatch.setattr("vanilla_transformer.training.precision.speed_of_bf16", lambda device: speed)
    assert arguments(tmp_path, bf16="auto").bf16 is chosen
    assert f"{speed:.2f} times as fast" in caplog.text


def test_a_warm_up_longer_than_the_run_is_a_warning(tmp_path, caplog):
    trainer_of(tmp_path, max_steps=3, warmup_steps=4000).train()
    assert "warmup_steps=4000, but the run has only 3 updates" in caplog.text


@pytest.mark.parametrize("greater", [None, True])
def test_a_search_optimises_the_chosen_score(tmp_path, monkeypatch, greater):
    seen = {}
    monkeypatch.setattr(
        "transformers.Trainer.hyperparameter_search",
        lambda self, space, objective, *positional, **keywords: seen.update(objective=objective, **keywords),
    )
    metric = {} if greater is None else {"metric_for_best_model": "bleu", "greater_is_better": True}
    trainer_of(tmp_path, **metric).hyperparameter_search(n_trials=1)
    scores = {"eval_loss": 2.5, "eval_perplexity": 12.2, "eval_bleu": 30.0, "eval_bleu_signature": "nrefs:1"}
    assert seen["objective"](scores) == (30.0 if greater else 2.5)
    assert seen["direction"] == ("maximize" if greater else "minimize")
