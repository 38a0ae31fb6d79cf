"""Training as the paper does it: what an update is made of, and that nothing else changes it.

Run as a script, this file trains the tiny task with the flags that it is given: for runs in other processes.
"""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import HfArgumentParser, MarianConfig, MarianMTModel, TrainerCallback

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
)
from vanilla_transformer.tasks.text_scores import translation_metrics
from vanilla_transformer.training import (
    Seq2SeqCollator,
    TrainingInterrupted,
    VanillaTransformerSeq2SeqTrainer,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
    noam_rate,
)

SIZES = {"vocab_size": 30, "encoder_layers": 1, "decoder_layers": 1}
PLAIN_SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.5}
BUDGET = {"tokens_per_update": 160, "max_target_tokens": 80, "max_source_tokens": 90}


def pairs(count=60, seed=0):
    """Sequences of 2 to 9 random ids with </s>, and the same backwards."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(3, 30, rng.integers(2, 10)).tolist() for _ in range(count)]
    return Dataset.from_dict(
        {"input_ids": [[*row, 2] for row in rows], "labels": [[*row[::-1], 2] for row in rows]}
    )


def lines(count=60, seed=0):
    """The same for a language model."""
    rows = pairs(count, seed)["input_ids"]
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def build(kind="seq2seq", dropout=0.0):
    torch.manual_seed(0)
    if kind == "marian":
        return MarianMTModel(
            MarianConfig(
                **SIZES,
                d_model=16,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                max_position_embeddings=64,
                dropout=dropout,
                pad_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=0,
                bos_token_id=0,
                forced_eos_token_id=None,
            )
        )
    config = VanillaTransformerConfig(
        **SIZES, hidden_size=16, intermediate_size=32, num_attention_heads=2, dropout=dropout
    )
    return {"seq2seq": VanillaTransformerForConditionalGeneration, "causal": VanillaTransformerForCausalLM}[
        kind
    ](config)


def arguments(folder, **settings):
    defaults = {
        "max_steps": 8,
        "warmup_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return VanillaTransformerTrainingArguments(str(folder), use_cpu=True, **defaults | settings)


def trainer_of(folder, model=None, train_dataset=None, callbacks=None, eval_dataset=None, **settings):
    return VanillaTransformerSeq2SeqTrainer(
        build() if model is None else model,
        arguments(folder, **settings),
        data_collator=Seq2SeqCollator(1),
        train_dataset=pairs() if train_dataset is None else train_dataset,
        eval_dataset=eval_dataset,
        callbacks=callbacks,
    )


def assert_same_weights(weights, expected, **tolerance):
    """Bit for bit, or within the tolerance."""
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        if tolerance:
            torch.testing.assert_close(
                weight, expected[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
            )
        else:
            assert torch.equal(weight, expected[name]), name


class At(TrainerCallback):
    """Does something when an update begins."""

    def __init__(self, update, action):
        self.update, self.action = update, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.update:
            self.action()


# What an update is


@pytest.mark.parametrize("kind", ["seq2seq", "marian", "causal"])
def test_accumulated_token_batches_make_the_update_of_one_large_batch(tmp_path, kind):
    """Replayed in plain torch: an update's examples in one batch, the loss divided by their real tokens."""
    data, collate = (lines() if kind == "causal" else pairs()), Seq2SeqCollator(1)
    model, plain = build(kind), build(kind)
    trainer = trainer_of(
        tmp_path, model, data, label_smoothing_factor=0.2, max_steps=5, **PLAIN_SGD, **BUDGET
    )
    sampler = trainer._get_train_sampler()
    plan = sampler.plan(0) + sampler.plan(1)
    trainer.train()

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5, momentum=0.9)
    for first in range(0, 10, 2):
        batch = collate([data[int(index)] for index in np.concatenate(plan[first : first + 2])])
        logits, labels = plain(**batch).logits, batch["labels"]
        if kind == "causal":
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert trainer.args.gradient_accumulation_steps == 2 and trainer.state.epoch > 1
    assert_same_weights(model.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)


def test_the_number_of_accumulated_batches_changes_nothing(tmp_path):
    models = [build(), build(), build()]
    for model, size, accumulated in zip(models, (12, 4, 1), (1, 3, 12)):
        trainer_of(
            tmp_path,
            model,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            train_sampling_strategy="sequential",
            max_steps=7,
            **PLAIN_SGD,
        ).train()
    for other in models[1:]:
        assert_same_weights(other.state_dict(), models[0].state_dict(), rtol=1e-5, atol=1e-6)


def test_learning_rates_are_the_papers(tmp_path):
    trainer = trainer_of(tmp_path, warmup_steps=5, noam_factor=0.7, max_steps=12)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    formula = [0.7 * 16**-0.5 * min(update**-0.5, update * 5**-1.5) for update in range(1, 13)]
    assert rates == formula == [noam_rate(update, 16, 5, 0.7) for update in range(1, 13)]
    group = trainer.optimizer.param_groups[0]
    assert type(trainer.optimizer.optimizer) is torch.optim.Adam
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.98), 1e-9, 0.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"optim": "sgd", "lr_scheduler_type": "linear", "learning_rate": 0.1},
        {"optim": "adafactor", "lr_scheduler_type": "cosine"},
        {
            "optim": "adamw_torch",
            "lr_scheduler_type": "inverse_sqrt",
            "learning_rate": 1e-3,
            "max_grad_norm": 1.0,
        },
    ],
    ids=lambda settings: settings["optim"],
)
def test_transformers_own_optimizers_and_schedules_train(tmp_path, settings):
    trainer = trainer_of(tmp_path, max_steps=3, **settings, **BUDGET)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())
    if settings["optim"] == "sgd":
        assert trainer.optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("kind", ["seq2seq"])
def test_r_drop_draws_two_passes_together(tmp_path, kind):
    data, model = pairs(), build(kind, dropout=0.3).train()
    trainer = trainer_of(tmp_path, model, data, r_drop=3.0, label_smoothing_factor=0.2)
    rows = [data[index] for index in range(5)]
    # Of equal length: a batch without padding draws the same dropout with and without a training loss.
    rows = [{"input_ids": row["input_ids"][:3], "labels": row["labels"][-3:]} for row in rows]
    batch = Seq2SeqCollator(1)(rows)
    torch.manual_seed(1)
    loss = trainer.compute_loss(model, dict(batch))

    torch.manual_seed(1)
    logits = model(**{name: torch.cat([values, values]) for name, values in batch.items()}).logits
    labels, first, second = batch["labels"], logits[:5], logits[5:]
    assert not torch.allclose(first, second)  # dropout
    tokens, expected = (labels != -100).sum(), 0
    for row in range(5):
        for place in range(labels.shape[1]):
            if labels[row, place] == -100:
                continue
            p, q = (passed[row, place].softmax(-1) for passed in (first, second))
            for one, other in ((p, q), (q, p)):
                target = 0.8 * F.one_hot(labels[row, place], 30) + 0.2 / 30
                expected -= (target * one.log()).sum() / 2
                expected += 3 / 4 * (one * (one / other).log()).sum()
    torch.testing.assert_close(loss, expected / tokens)


def test_r_drop_without_dropout_is_the_plain_loss(tmp_path):
    """In batches that are accumulated too; and without labels to agree on it is refused."""
    weights = []
    for r_drop in (0.0, 5.0):
        trainer = trainer_of(tmp_path / str(r_drop), r_drop=r_drop, **PLAIN_SGD, **BUDGET)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert_same_weights(*weights, rtol=1e-4, atol=1e-5)

    # A loss of the caller gets both passes, and the number of items of one.
    batch = Seq2SeqCollator(1)([pairs()[index] for index in range(5)])
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch: (len(labels), num_items_in_batch)
    items = torch.tensor(7)
    trainer.args.average_tokens_across_devices = False
    assert trainer.compute_loss(trainer.model.train(), dict(batch), False, items) == (10, items)
    with pytest.raises(ValueError, match="r_drop needs labels that are ids"):
        trainer.compute_loss(
            trainer.model.train(), {"input_ids": torch.ones(1, 1), "labels": torch.ones(1, 2)}
        )
    with pytest.raises(ValueError, match="r_drop=-1 is negative"):
        arguments(tmp_path, r_drop=-1)
    alone = type("TwoGpus", (VanillaTransformerTrainingArguments,), {"n_gpu": 2})
    with pytest.raises(ValueError, match="r_drop=1.0 compares two passes on one device.*torchrun"):
        alone(str(tmp_path), use_cpu=True, r_drop=1.0)


def test_r_drop_without_dropout_is_a_warning(tmp_path, caplog):
    for dropout, warned in ((0.0, True), (0.1, False)):
        caplog.clear()
        trainer_of(tmp_path / str(dropout), build(dropout=dropout), r_drop=1.0)
        assert ("r_drop=1.0 has no effect" in caplog.text) is warned


def test_r_drop_with_a_model_of_others_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="r_drop=1.0 does not apply to MarianMTModel"):
        trainer_of(tmp_path, build("marian", 0.1), r_drop=1.0)


def test_the_plain_trainer_refuses_to_generate(tmp_path):
    with pytest.raises(ValueError, match="VanillaTransformerSeq2SeqTrainer"):
        VanillaTransformerTrainer(build(), arguments(tmp_path, predict_with_generate=True))


@pytest.mark.parametrize("kind, r_drop", [("seq2seq", 0.0), ("seq2seq", 2.0), ("marian", 0.0)])
def test_an_update_without_labels_changes_nothing(tmp_path, kind, r_drop):
    """As masking that hides no word of a batch makes one."""
    data = [{"input_ids": [5, 6, 2], "labels": [-100, -100]}] * 4
    trainer = trainer_of(
        tmp_path, build(kind, 0.1), data, r_drop=r_drop, max_steps=1, remove_unused_columns=False, **PLAIN_SGD
    )
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    assert trainer.train().training_loss == 0
    assert_same_weights(trainer.model.state_dict(), before)


def test_a_metric_that_no_evaluation_has_costs_no_work(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 3, "metric_for_best_model": "bleu"}
    trainer = trainer_of(tmp_path, eval_dataset=pairs(8), save_strategy="steps", save_steps=6, **settings)
    with pytest.raises(ValueError, match="metric_for_best_model=bleu is none of .*loss, .*checkpoint-3"):
        trainer.train()
    assert (tmp_path / "checkpoint-3" / "model.safetensors").is_file()


# Evaluation


@pytest.mark.parametrize("kind", ["seq2seq", "marian", "causal"])
def test_evaluation_is_the_corpus_likelihood_without_smoothing(tmp_path, kind):
    model, data = build(kind, dropout=0.3), lines(21, 1) if kind == "causal" else pairs(21, 1)
    likelihood = tokens = right = 0
    model.eval()
    for example in data:
        labels = torch.tensor([example["labels"]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example["input_ids"]]), labels=labels).logits
        if kind == "causal":
            logits, labels = logits[:, :-1], labels[:, 1:]
        likelihood += F.cross_entropy(logits[0], labels[0], reduction="sum").item()
        tokens += labels.numel()
        right += (logits.argmax(-1) == labels).sum().item()

    trainer = trainer_of(
        tmp_path, model, eval_dataset=data, per_device_eval_batch_size=4, label_smoothing_factor=0.4
    )
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(likelihood / tokens, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(likelihood / tokens), rel=1e-5)
    assert metrics["eval_token_accuracy"] == pytest.approx(right / tokens)


class Words:
    """A tokenizer whose words are numbers."""

    pad_token_id = 1

    def batch_decode(self, rows, skip_special_tokens):
        return [" ".join(str(token) for token in row if token > 2) for row in rows]


def test_generated_translations_are_scored_with_signatures(tmp_path):
    data = pairs(7, 1)
    trainer = trainer_of(
        tmp_path,
        eval_dataset=data,
        predict_with_generate=True,
        generation_max_length=14,
        per_device_eval_batch_size=3,
    )
    trainer.compute_metrics = translation_metrics(Words())
    metrics = trainer.evaluate()
    assert metrics["eval_bleu_signature"].startswith("nrefs:1|case:mixed")
    assert "eval_bleu_signature" not in trainer.state.log_history[-1]  # a text is no point on a curve
    trainer.save_metrics("eval", metrics)
    assert json.loads((tmp_path / "all_results.json").read_text())["eval_chrf_signature"]

    targets = Words().batch_decode(data["labels"], True)
    trainer.compute_metrics = translation_metrics(Words(), references=targets)
    prediction = trainer.predict(data)
    guessed = Words().batch_decode(prediction.predictions, True)
    trainer.compute_metrics = translation_metrics(Words(), references=guessed)
    assert trainer.evaluate()["eval_bleu"] == pytest.approx(100)  # in the order of the data
    trainer.compute_metrics = translation_metrics(Words(), references=targets[1:])
    with pytest.raises(ValueError, match="7 outputs but 6 references"):
        trainer.evaluate()


# Going on


RESUMED = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3, **BUDGET}


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
def test_interrupt_saves_then_resumes_to_the_same_end(tmp_path, capfd, strategy):
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
        ("checksum of the examples' lengths", {"train_dataset": pairs(60, seed=3)}),
    ],
)
def test_resuming_with_other_data_or_batches_is_refused(tmp_path, key, changed):
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, **BUDGET}
    trainer_of(tmp_path, **saving).train()
    other = trainer_of(tmp_path, **{**saving, "max_steps": 4, **changed})
    with pytest.raises(ValueError, match=f"checkpoint-2.*{key}"):
        other.train(resume_from_checkpoint=True)
    same = trainer_of(tmp_path, **{**saving, "max_steps": 4, "logging_steps": 3})
    assert same.train(resume_from_checkpoint=True).global_step == 4


def test_resuming_with_another_model_is_one_error_that_names_the_checkpoint(tmp_path):
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


def test_training_outside_the_main_thread_leaves_signals_alone(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    trainer = trainer_of(tmp_path, max_steps=2)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(trainer.train).result().global_step == 2


def script(*flags, launcher=(), **process):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    command = [sys.executable, *launcher, __file__, *map(str, flags)]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, **process)


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


# Averaging


def test_average_of_the_last_checkpoints_is_the_final_model(tmp_path):
    trainer = trainer_of(tmp_path, eval_dataset=pairs(9, 1), average_checkpoints=2, **RESUMED)
    metrics = trainer.train().metrics
    parts = [load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (6, 9)]
    mean = {name: (parts[0][name] + weight) / 2 for name, weight in parts[1].items()}
    assert_same_weights(load_file(tmp_path / "model.safetensors"), mean, rtol=1e-6, atol=1e-7)
    assert metrics["final_weights"] == "average of 2 checkpoints: checkpoint-6, checkpoint-9"
    assert trainer.evaluate()["eval_loss"] == metrics["eval_averaged_loss"] != metrics["eval_last_loss"]


def test_a_run_too_short_for_its_average_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, average_checkpoints=4, **RESUMED)
    with pytest.raises(ValueError, match="average_checkpoints=4, but 9 updates .* leave 3"):
        trainer.train()


# What goes wrong


def break_loss(model):
    model.register_forward_hook(
        lambda module, inputs, outputs: outputs | {"loss": outputs["loss"] * math.nan}
    )


def break_gradient(model):
    model.model.encoder.layers[0].feed_forward.fc1.weight.register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize("break_it", [break_loss, break_gradient])
def test_nan_stops_before_the_weights_are_spoilt(tmp_path, break_it):
    model = build()
    trainer = trainer_of(tmp_path, model, callbacks=[At(8, lambda: break_it(model))], **RESUMED)
    with pytest.raises(FloatingPointError, match=r"update 8 .* learning rate .*checkpoint-6"):
        trainer.train()
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert trainer.state.global_step == 7


def test_full_disk_leaves_earlier_checkpoints_and_no_part_of_a_new_one(tmp_path):
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


def test_unwritable_output_dir_is_refused_before_training(tmp_path):
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
def test_options_that_cannot_be_honoured_are_refused(tmp_path, settings, names):
    with pytest.raises(ValueError, match=names):
        arguments(tmp_path, **settings)


def test_a_sentence_over_the_budget_is_named(tmp_path):
    with pytest.raises(ValueError, match="example 0.*max_target_tokens=5"):
        data = Dataset.from_dict({"input_ids": [[3] * 9], "labels": [[3] * 9]})
        trainer_of(tmp_path, train_dataset=data, max_target_tokens=5).train()


# Arguments


def test_attention_is_computed_as_asked_and_trains_the_same(tmp_path):
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


def test_curves_events_and_rates_are_left_behind(tmp_path):
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


# The tiny task in a process of its own


def main(words):
    folder, *words = words
    again = words[words.index("--then_resume") + 1] if "--then_resume" in words else None
    words = [word for word in words if word not in ("--then_resume", again)]
    flags = {name: value for name, value in BUDGET.items() if f"--{name}" not in words}
    words = ["--output_dir", folder, *(f"--{name}={value}" for name, value in flags.items()), *words]
    words += [
        "--use_cpu",
        "--warmup_steps=4",
        "--save_strategy=steps",
        "--disable_tqdm=true",
        "--dataloader_pin_memory=false",
    ]
    (args,) = HfArgumentParser(VanillaTransformerTrainingArguments).parse_args_into_dataclasses(words)

    def run(checkpoint=None):
        trainer = VanillaTransformerSeq2SeqTrainer(
            build(),
            args,
            data_collator=Seq2SeqCollator(1),
            train_dataset=pairs(40),
            eval_dataset=pairs(11, 1),
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        return trainer

    trainer = run()
    trainer.compute_metrics = lambda prediction: {"predicted": len(prediction.predictions)}
    metrics = trainer.evaluate()
    metrics |= {"predicted": metrics["eval_predicted"], "accumulated": args.gradient_accumulation_steps}
    trainer.save_metrics("eval", metrics)
    if again:
        args.output_dir = again
        run(str(Path(folder, "checkpoint-5")))


if __name__ == "__main__":
    main(sys.argv[1:])
