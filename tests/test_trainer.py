"""Training as the paper does it: the updates, the loss, the learning rate, evaluation."""

import json
import math

import numpy as np
import pytest
import torch
from tiny_training import (
    BUDGET,
    PLAIN_SGD,
    arguments,
    assert_same_weights,
    build,
    lines,
    pairs,
    trainer_of,
)
from torch.nn import functional as F

from vanilla_transformer.tasks.text_scores import translation_metrics
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
    noam_rate,
)

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


def test_the_defaults_are_the_papers(tmp_path):
    args = VanillaTransformerTrainingArguments(str(tmp_path), use_cpu=True)
    assert (args.lr_scheduler_type, args.warmup_steps, args.noam_factor) == ("noam", 4000, 1.0)
    assert args.label_smoothing_factor == 0.1


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
    with pytest.raises(ValueError, match="r_drop=-1 must not be negative"):
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


@pytest.mark.parametrize("kind", ["seq2seq", "marian", "causal"])
def test_the_loss_of_a_model_in_evaluation_is_not_smoothed(tmp_path, kind):
    model, data = build(kind, dropout=0.3), lines(5) if kind == "causal" else pairs(5)
    r_drop = 0.0 if kind == "marian" else 2.0
    trainer = trainer_of(tmp_path, model, eval_dataset=data, label_smoothing_factor=0.4, r_drop=r_drop)
    batch = Seq2SeqCollator(1)(list(data))
    with torch.no_grad():
        loss = trainer.compute_loss(model.eval(), dict(batch))
        logits, labels = model(**batch).logits, batch["labels"]
    if kind == "causal":
        logits, labels = logits[:, :-1], labels[:, 1:]
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_perplexity_of_a_bad_model_is_the_exponential_of_its_loss(tmp_path):
    model = build()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)  # sure of the wrong words
    metrics = trainer_of(tmp_path, model, eval_dataset=pairs(5)).evaluate()
    assert 50 < metrics["eval_loss"] < 700
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))
