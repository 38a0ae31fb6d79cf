"""The tiny task of the trainer's tests: to write a sequence backwards.

Run as a script, this file trains it with the flags of the command line, for tests of other processes.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from packaging.version import Version
from transformers import HfArgumentParser, MarianConfig, MarianMTModel, TrainerCallback

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
)
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerSeq2SeqTrainer,
    VanillaTransformerTrainingArguments,
)

RESUMES_ON_CPU = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"),
    reason="transformers 5.17 cannot load an optimizer in several CPU processes",
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


RESUMED = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3, **BUDGET}


def script(*flags, launcher=(), **process):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    command = [sys.executable, *launcher, __file__, *map(str, flags)]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, **process)


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
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
