"""Decided before the first update: early stopping, bf16, warm-up, the score that a search optimises."""

import signal

import pytest
from tiny_training import RESUMED, At, arguments, assert_same_weights, build, pairs, trainer_of

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.tasks import parse
from vanilla_transformer.training import TrainingInterrupted, VanillaTransformerTrainingArguments


def test_early_stopping_keeps_the_best_weights(tmp_path):
    settings = RESUMED | {"max_steps": 90, "eval_strategy": "steps", "eval_steps": 3}
    settings |= {"early_stopping_patience": 2, "noam_factor": 20}
    trainer = trainer_of(tmp_path, eval_dataset=pairs(9, 1), **settings)
    trainer.train()
    assert trainer.state.global_step < 90
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, abs=1e-6)


@pytest.mark.parametrize("averaged", [0, 2])
def test_a_run_that_stopped_early_is_complete(tmp_path, averaged, capfd):
    settings = RESUMED | {"max_steps": 90, "eval_strategy": "steps", "eval_steps": 3}
    settings |= {"early_stopping_patience": 2, "noam_factor": 20, "average_checkpoints": averaged}
    first = trainer_of(tmp_path, eval_dataset=pairs(9, 1), **settings)
    first.train()
    second = trainer_of(tmp_path, build(dropout=0.3), eval_dataset=pairs(9, 1), **settings)
    second.train(resume_from_checkpoint=True)
    assert "has stopped early, after 2 evaluations" in capfd.readouterr().err
    assert second.state.global_step == first.state.global_step
    assert_same_weights(second.model.state_dict(), first.model.state_dict())
    longer = {**settings, "early_stopping_patience": 4}
    third = trainer_of(tmp_path, build(), eval_dataset=pairs(9, 1), **longer)
    third.train(resume_from_checkpoint=True)
    assert third.state.global_step > first.state.global_step


def test_early_stopping_goes_on_counting_after_an_interrupt(tmp_path):
    settings = RESUMED | {"max_steps": 90, "eval_strategy": "steps", "eval_steps": 3, "noam_factor": 20}
    settings |= {"early_stopping_patience": 3, "eval_dataset": pairs(9, 1)}
    whole = trainer_of(tmp_path / "whole", **settings)
    whole.train()
    end = whole.state.global_step
    stop = At(end - 2, lambda: signal.raise_signal(signal.SIGTERM))  # two evaluations have not improved
    with pytest.raises(TrainingInterrupted):
        trainer_of(tmp_path / "broken", callbacks=[stop], **settings).train()
    resumed = trainer_of(tmp_path / "broken", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == end
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())


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


@pytest.mark.parametrize(
    "settings, key",
    [
        ({"save_steps": 0}, "save_steps=0"),
        ({"eval_steps": -5}, "eval_steps=-5"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size=0"),
        ({"stream_buffer_size": 0}, "stream_buffer_size=0"),
        ({"num_train_epochs": 0, "max_steps": -1}, "num_train_epochs=0"),
        ({"num_train_epochs": float("nan")}, "num_train_epochs=nan"),
        ({"learning_rate": float("nan"), "lr_scheduler_type": "linear"}, "learning_rate=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"tokens_per_update": 0}, "tokens_per_update=0"),
        ({"max_source_tokens": 10**20}, "max_source_tokens=1000000"),
        ({"push_to_hub": True, "do_train": False}, "push_to_hub"),
        (
            {"early_stopping_patience": 2, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no"},
            "early_stopping_patience=2 keeps the best checkpoint",
        ),
    ],
    ids=str,
)
def test_a_number_that_cannot_work_is_an_error_that_names_its_key(tmp_path, settings, key):
    with pytest.raises(ValueError, match=key):
        arguments(tmp_path, **settings)


def test_bf16_auto_is_a_word_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr("vanilla_transformer.training.precision.speed_of_bf16", lambda device: 0.5)
    for words, chosen in (("--bf16 auto", False), ("--bf16 false", False), ("", False)):
        given = parse(
            VanillaTransformerConfig,
            VanillaTransformerTrainingArguments,
            argv=["--output_dir", str(tmp_path), "--use_cpu", "true", *words.split()],
        )
        assert given[-1].bf16 is chosen


def test_a_resumed_run_has_the_learning_rate_that_it_is_given(tmp_path):
    linear = {"lr_scheduler_type": "linear", "learning_rate": 0.01, "warmup_steps": 2}
    trainer_of(tmp_path, **RESUMED, **linear).train()
    longer = RESUMED | linear | {"max_steps": 18}
    changed = trainer_of(tmp_path, **{**longer, "learning_rate": 0.002})
    changed.train(resume_from_checkpoint=True)
    rates = {log["step"]: log["learning_rate"] for log in changed.state.log_history if "learning_rate" in log}
    assert rates[10] == pytest.approx(0.002 * (18 - 9) / (18 - 2))
    with pytest.raises(ValueError, match="adam_beta2 changed from 0.98 to 0.9"):
        trainer_of(tmp_path, **{**longer, "max_steps": 30, "adam_beta2": 0.9}).train(
            resume_from_checkpoint=True
        )
    with pytest.raises(ValueError, match="optim changed from adam to adafactor"):
        trainer_of(tmp_path, **{**longer, "max_steps": 30, "optim": "adafactor"}).train(
            resume_from_checkpoint=True
        )


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
