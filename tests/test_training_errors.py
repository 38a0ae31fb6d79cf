"""What stops a run, what it leaves behind, and the training arguments."""

import math
import resource

import pytest
from datasets import Dataset
from tiny_training import BUDGET, RESUMED, At, arguments, assert_same_weights, build, pairs, trainer_of
from transformers import HfArgumentParser

from vanilla_transformer.training import (
    VanillaTransformerTrainingArguments,
)


def break_loss(model):
    model.register_forward_hook(
        lambda module, inputs, outputs: outputs | {"loss": outputs["loss"] * math.nan}
    )


def break_gradient(model):
    model.model.encoder.layers[0].feed_forward.fc1.weight.register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize("break_it", [break_loss, break_gradient])
def test_nan_stops_training_before_it_reaches_the_weights(tmp_path, break_it):
    model = build()
    trainer = trainer_of(tmp_path, model, callbacks=[At(8, lambda: break_it(model))], **RESUMED)
    with pytest.raises(FloatingPointError, match=r"update 8 .* learning rate .*checkpoint-6"):
        trainer.train()
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert trainer.state.global_step == 7


def test_a_full_disk_keeps_earlier_checkpoints_and_no_partial_one(tmp_path):
    settings, limits = RESUMED | {"max_steps": 6}, resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = trainer_of(tmp_path / "whole", build(dropout=0.2), **settings)
    whole.train()

    (tmp_path / "full" / "unfinished" / "checkpoint-3").mkdir(
        parents=True
    )  # of a program killed while saving
    fill = At(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1])))
    trainer = trainer_of(tmp_path / "full", build(dropout=0.2), callbacks=[fill], **settings)
    try:
        with pytest.raises(
            OSError, match=r"checkpoint-6 could not be written in .*full.*resume from .*checkpoint-3"
        ):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in (tmp_path / "full").iterdir()} == {"checkpoint-3"}

    trainer = trainer_of(tmp_path / "full", build(dropout=0.2), **settings)
    trainer.train(resume_from_checkpoint=True)
    assert_same_weights(trainer.model.state_dict(), whole.model.state_dict())


def test_an_unwritable_output_dir_is_an_error_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="output_dir: cannot write to .*file/run"):
        trainer_of(tmp_path / "file" / "run")


def test_an_earlier_runs_checkpoints_are_not_overwritten(tmp_path):
    trainer_of(tmp_path, **RESUMED).train()
    with pytest.raises(ValueError, match="output_dir holds .*checkpoint-9"):
        trainer_of(tmp_path, **RESUMED).train()


@pytest.mark.parametrize(
    "settings, names",
    [
        ({"train_sampling_strategy": "group_by_length", "max_target_tokens": 50}, "train_sampling_strategy"),
        ({"auto_find_batch_size": True, "max_target_tokens": 50}, "auto_find_batch_size"),
        ({"dataloader_drop_last": True, "max_source_tokens": 50}, "dataloader_drop_last"),
        ({"per_device_train_batch_size": 16, "max_source_tokens": 50}, "per_device_train_batch_size"),
        ({"accelerator_config": {"dispatch_batches": True}, "max_target_tokens": 50}, "dispatch_batches"),
        ({"accelerator_config": {"split_batches": True}, "max_target_tokens": 50}, "split_batches"),
        ({"gradient_accumulation_steps": 3, **BUDGET}, "gradient_accumulation_steps=3"),
        ({"gradient_accumulation_steps": 1, **BUDGET}, "gradient_accumulation_steps=1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0"),
        ({"max_target_tokens": 0, "max_source_tokens": 50}, "max_target_tokens=0"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"warmup_steps": 0}, "warmup_steps"),
        ({"noam_factor": 2.0, "lr_scheduler_type": "linear"}, "noam_factor"),
        ({"momentum": 0.5}, "momentum"),
        ({"optim_args": "momentum=0.5"}, "optim_args"),
        ({"weight_decay": 0.1}, "weight_decay=0.1 does not work with optim=adam"),
        ({"lr_scheduler_type": "naom"}, "lr_scheduler_type=naom is none of noam"),
        ({"optim": "adma"}, "optim=adma is none of adam"),
        ({"label_smoothing_factor": 1.0}, "label_smoothing_factor"),
        ({"average_checkpoints": 3}, "save_strategy"),
        ({"average_checkpoints": 3, "save_strategy": "steps", "save_total_limit": 2}, "save_total_limit=2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradicting_arguments_are_errors(tmp_path, settings, names):
    with pytest.raises(ValueError, match=names):
        arguments(tmp_path, **settings)


def test_a_sentence_over_the_budget_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="example 0.*max_target_tokens=5"):
        data = Dataset.from_dict({"input_ids": [[3] * 9], "labels": [[3] * 9]})
        trainer_of(tmp_path, train_dataset=data, max_target_tokens=5).train()


# Arguments


def test_every_attention_implementation_trains_the_same(tmp_path):
    trainers = [trainer_of(tmp_path / kind, attn_implementation=kind) for kind in ("eager", "sdpa")]
    assert [trainer.model.config._attn_implementation for trainer in trainers] == ["eager", "sdpa"]
    # Weights may differ: Adam with ε = 1e-9 makes steps of the rounding errors of the keys' biases.
    losses = [trainer.train().training_loss for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_an_update_holds_the_same_tokens_on_any_number_of_devices(tmp_path, monkeypatch, devices):
    monkeypatch.setattr(VanillaTransformerTrainingArguments, "world_size", devices)
    args = arguments(tmp_path, tokens_per_update=25_000, max_target_tokens=4_096, max_source_tokens=8_192)
    source, target = args.device_budget
    batches = devices * args.gradient_accumulation_steps
    assert target <= 4_096 and 25_000 - batches < target * batches <= 25_000
    assert source == pytest.approx(2 * target, abs=2)


def test_every_key_is_a_flag_that_help_explains(tmp_path, capsys):
    parser = HfArgumentParser(VanillaTransformerTrainingArguments)
    flags = "--lr_scheduler_type noam --noam_factor 2 --max_target_tokens 4096 --tokens_per_update 25000"
    (args,) = parser.parse_args_into_dataclasses(f"--output_dir {tmp_path} --use_cpu {flags}".split())
    assert (args.gradient_accumulation_steps, args.noam_factor, args.learning_rate) == (8, 2.0, 1.0)
    with pytest.raises(SystemExit):
        parser.parse_args_into_dataclasses(["--help"])
    text = capsys.readouterr().out
    own = set(VanillaTransformerTrainingArguments.__annotations__)
    assert {"max_source_tokens", "r_drop", "momentum"} < own
    for name in own:
        assert (
            VanillaTransformerTrainingArguments.__dataclass_fields__[name].metadata["help"]
            and f"--{name}" in text
        )


def test_arguments_survive_their_own_copy(tmp_path):
    import dataclasses

    args = arguments(tmp_path, tokens_per_update=25_000, max_target_tokens=4_096)
    copy = dataclasses.replace(args)
    assert copy.to_dict() == args.to_dict() and copy.device_budget == args.device_budget


# What is left to look at


def test_a_run_writes_curves_events_and_rates(tmp_path):
    trainer = trainer_of(
        tmp_path, report_to="tensorboard", eval_dataset=pairs(9, 1), eval_strategy="steps", **BUDGET
    )
    trainer.train()
    for name in ("training_curves.png", "learning_rate.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("**/events.out.tfevents.*"))
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(
        entry["source_tokens_per_second"] > 0 and entry["target_tokens_per_second"] > 0 for entry in logs
    )
    assert logs[-1]["minutes_left"] == 0
