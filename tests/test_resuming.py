"""Resuming, interrupts, two processes and averaging: the weights are those of an uninterrupted run."""

import json
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import (
    BUDGET,
    RESUMED,
    RESUMES_ON_CPU,
    SIZES,
    At,
    assert_same_weights,
    build,
    main,
    pairs,
    script,
    trainer_of,
)

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
)
from vanilla_transformer.training import (
    TrainingInterrupted,
)


@pytest.mark.parametrize("streamed", [False, True], ids=["indexed", "streamed"])
def test_resumed_run_equals_the_uninterrupted_bit_for_bit(tmp_path, streamed):
    def run(folder, checkpoint=None):
        data = pairs(40).to_iterable_dataset() if streamed else pairs(40)
        trainer = trainer_of(folder, build(dropout=0.2), data, stream_buffer_size=8, **RESUMED)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-3"))
    if not streamed:
        updates_per_epoch = round(9 / whole.state.epoch)
        assert 1 < updates_per_epoch < 3 and 3 % updates_per_epoch  # inside the second epoch
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())
    for old, new in zip(whole.optimizer.state.values(), resumed.optimizer.state.values()):
        assert torch.equal(old["exp_avg_sq"], new["exp_avg_sq"])
    assert resumed._get_learning_rate() == whole._get_learning_rate()


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_an_interrupted_run_resumes_to_the_same_end(tmp_path, capfd, strategy):
    """Averaging included: a checkpoint that only the interrupt asked for is not averaged, nor kept."""
    settings = RESUMED | {"save_strategy": strategy, "average_checkpoints": 2, "save_total_limit": 2}
    settings |= {"eval_strategy": strategy, "eval_steps": 3, "eval_dataset": pairs(5, 1)}
    whole = trainer_of(tmp_path / "whole", build(dropout=0.2), **settings)
    whole.train()

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    callback = At(5, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)])  # as under torchrun
    broken = trainer_of(tmp_path / "broken", build(dropout=0.2), callbacks=[callback], **settings)
    with pytest.raises(TrainingInterrupted) as interrupt:
        broken.train()
    assert all(entry["step"] != 5 for entry in broken.state.log_history if "eval_loss" in entry)
    assert interrupt.value.code == 130
    assert signal.signal(signal.SIGINT, handler) is signal.default_int_handler  # put back
    checkpoint = tmp_path / "broken" / "checkpoint-5"
    assert f"--resume_from_checkpoint {checkpoint}" in capfd.readouterr().err

    resumed = trainer_of(tmp_path / "broken", build(dropout=0.2), **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())
    names = sorted(path.name for path in (tmp_path / "broken").glob("checkpoint-*"))
    assert names == ["checkpoint-6", "checkpoint-9"]


def test_resuming_a_finished_run_trains_nothing_and_gives_its_weights(tmp_path):
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **BUDGET}
    trainer = trainer_of(tmp_path, **saving)
    trainer.train()
    weights = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    again = trainer_of(tmp_path, model=build("seq2seq", dropout=0.5), **saving)
    output = again.train(resume_from_checkpoint=True)
    assert output.global_step == again.state.global_step == 4
    assert_same_weights(again.model.state_dict(), weights)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("seed", {"seed": 5}),
        ("max_source_tokens", {"max_source_tokens": 70}),
        ("tokens_per_update", {"tokens_per_update": 240}),
        ("examples in the training data", {"train_dataset": pairs(50)}),
        ("checksum of the training data", {"train_dataset": pairs(60, seed=3)}),
    ],
)
def test_resuming_with_other_data_or_batches_is_an_error(tmp_path, key, changed):
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, **BUDGET}
    trainer_of(tmp_path, **saving).train()
    other = trainer_of(tmp_path, **{**saving, "max_steps": 4, **changed})
    with pytest.raises(ValueError, match=f"checkpoint-2.*{key}"):
        other.train(resume_from_checkpoint=True)
    same = trainer_of(tmp_path, **{**saving, "max_steps": 4, "logging_steps": 3})
    assert same.train(resume_from_checkpoint=True).global_step == 4


def test_resuming_with_another_model_names_the_checkpoint(tmp_path):
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, **BUDGET}
    trainer_of(tmp_path, **saving).train()
    config = VanillaTransformerConfig(**SIZES, hidden_size=32, intermediate_size=32, num_attention_heads=2)
    wider = VanillaTransformerForConditionalGeneration(config)
    with pytest.raises(ValueError, match="checkpoint-2 holds a different model.*size mismatch"):
        trainer_of(tmp_path, model=wider, **{**saving, "max_steps": 4}).train(resume_from_checkpoint=True)


def test_second_interrupt_stops_at_once(tmp_path):
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    callback = At(5, lambda: [(signal.raise_signal(signal.SIGINT), time.sleep(1.1)) for _ in range(2)])
    trainer = trainer_of(tmp_path, callbacks=[callback], **RESUMED)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 4
    assert signal.signal(signal.SIGINT, handler) is signal.default_int_handler


def test_training_in_another_thread_ignores_signals(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    trainer = trainer_of(tmp_path, max_steps=2)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(trainer.train).result().global_step == 2


def test_sigterm_ends_the_program_with_143_and_a_checkpoint(tmp_path):
    process = script(tmp_path, "--max_steps", 100_000, "--save_steps", 5, "--save_total_limit", 2)
    deadline = time.time() + 60
    while not list(tmp_path.glob("checkpoint-*")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 143, errors
    saved = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert f"--resume_from_checkpoint {saved}" in errors and (saved / "optimizer.pt").exists()


@RESUMES_ON_CPU
def test_two_processes_equal_one(tmp_path):
    """Weights, likelihood, and predictions of an odd number of examples; and resuming inside an epoch."""
    flags = "--max_steps", 9, "--save_steps", 5, "--optim", "sgd", "--lr_scheduler_type", "constant"
    flags += "--learning_rate", 0.5, "--predict_with_generate", "--generation_max_length", 14
    launcher = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"
    process = script(tmp_path / "two", *flags, "--then_resume", tmp_path / "again", launcher=launcher)
    main([str(tmp_path / "one"), *map(str, flags)])
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors

    one, two, again = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two", "again"))
    assert_same_weights(two, one, rtol=1e-5, atol=1e-6)
    assert_same_weights(again, two)
    one, two = (json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("one", "two"))
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-6)
    assert two["eval_token_accuracy"] == one["eval_token_accuracy"]
    assert two["predicted"] == one["predicted"] == 11
    assert two["accumulated"] == 1 and one["accumulated"] == 2


def test_two_processes_end_with_the_best_weights(tmp_path):
    """Not only the process that saves."""
    flags = "--max_steps", 12, "--save_steps", 2, "--eval_strategy", "steps", "--eval_steps", 2
    flags += "--load_best_model_at_end", "true", "--noam_factor", 30
    launcher = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"
    process = script(tmp_path / "run", *flags, launcher=launcher)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    state = json.loads((tmp_path / "run" / "checkpoint-12" / "trainer_state.json").read_text())
    assert state["best_global_step"] < 12 and "missing keys" not in errors
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())  # of both processes together
    assert results["eval_loss"] == pytest.approx(state["best_metric"], rel=1e-6)


# Averaging


def test_average_of_the_last_checkpoints_is_the_final_model(tmp_path):
    trainer = trainer_of(tmp_path, eval_dataset=pairs(9, 1), average_checkpoints=2, **RESUMED)
    metrics = trainer.train().metrics
    parts = [load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (6, 9)]
    mean = {name: (parts[0][name] + weight) / 2 for name, weight in parts[1].items()}
    assert_same_weights(load_file(tmp_path / "model.safetensors"), mean, rtol=1e-6, atol=1e-7)
    assert metrics["final_weights"] == "average of 2 checkpoints: checkpoint-6, checkpoint-9"
    assert trainer.evaluate()["eval_loss"] == metrics["eval_averaged_loss"] != metrics["eval_last_loss"]


def test_a_run_too_short_for_its_average_is_an_error(tmp_path):
    trainer = trainer_of(tmp_path, average_checkpoints=4, **RESUMED)
    with pytest.raises(ValueError, match="average_checkpoints=4, but 9 updates .* leave 3"):
        trainer.train()
