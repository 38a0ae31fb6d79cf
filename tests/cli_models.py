"""Saved models for the tests of the command, and the command as a program."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import typer.testing
from tiny_translators import vanilla

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForSequenceClassification,
    paper_generation_config,
)
from vanilla_transformer.cli import app

ROOT = Path(__file__).parents[1]


def save_translator(folder: Path, **config) -> Path:
    """A tiny translator with random weights; outputs have at most 5 tokens more than inputs."""
    model, tokenizer = vanilla(**{"max_position_embeddings": 64, **config})
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * 0.05)
    model.generation_config = paper_generation_config(model.config)
    model.generation_config.max_extra_tokens = 5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_classifier(folder: Path) -> Path:
    _, tokenizer = vanilla()
    config = VanillaTransformerConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=0,
        max_position_embeddings=64,
        id2label={0: "bad", 1: "good", 2: "neutral"},
    )
    VanillaTransformerForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def call(*words: object, input: bytes | str | None = None, code: int = 0):
    """The result of the command in this process; raises if it ends with another exit code."""
    result = typer.testing.CliRunner().invoke(app, [str(word) for word in words], input=input)
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


def start(*words: object, **options) -> subprocess.Popen:
    """The command as a program of its own."""
    own = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-m", "vanilla_transformer_command", *map(str, words)]
    return subprocess.Popen(command, env=own, **pipes, **options)


def run(*words: object, input: bytes = b"", code: int = 0) -> tuple[bytes, str]:
    """Output and error stream of the command as a program; raises if it ends with another exit code."""
    process = start(*words)
    output, errors = process.communicate(input, timeout=300)
    assert process.returncode == code, (process.returncode, output, errors.decode())
    return output, errors.decode()
