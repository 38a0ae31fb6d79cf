"""Checkpoints: damaged ones are passed over, foreign folders stay, streams resume at their position."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset
from tiny_training import RESUMED, At, assert_same_weights, build, pairs, trainer_of
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


def test_a_run_is_no_checkpoint(run):
    """Its own folder holds a model and a state of the trainer, but no optimizer."""
    trainer = trainer_of(run, **RESUMED)
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    trainer.save_state()
    assert "no state of the optimizer" in find_obstacle(run)


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


@pytest.mark.parametrize("limit", range(1, 8))
def test_rotation_keeps_as_many_as_the_limit(tmp_path, limit):
    saving = {"max_steps": 8, "save_strategy": "steps", "save_steps": 1, "save_total_limit": limit}
    trainer_of(tmp_path, **saving).train()
    assert list(complete_checkpoints(tmp_path)) == list(range(9 - limit, 9))


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
        f"from vanilla_transformer.training.run_lock import lock_run; lock_run({str(tmp_path)!r}); input()"
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
def test_signals_save_a_checkpoint(tmp_path, name, request):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup it is ignored
    request.addfinalizer(lambda: signal.signal(number, before))
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
    ids = [[5], [6]]
    given, changed = (Dataset.from_dict({"input_ids": ids, "labels": labels}) for labels in (one, other))
    assert checksum(given) == checksum(Dataset.from_list(list(given))) != checksum(changed)


def test_what_a_recipe_records_is_compared(tmp_path):
    trainer = trainer_of(tmp_path, **{**RESUMED, "max_steps": 3})
    trainer.data_record = {"train_file": [1, 2]}
    trainer.train()
    other = trainer_of(tmp_path, **RESUMED)
    other.data_record = {"train_file": [1, 3]}
    with pytest.raises(ValueError, match=r"train_file changed from \[1, 2\] to \[1, 3\]"):
        other.train(resume_from_checkpoint=True)
