"""The recipe extends the vocabulary of a model that it fine-tunes, and resumes such a run."""

import json

import pytest
from launch import run_recipe
from tiny_marian import texts
from tiny_translators import vanilla
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer.tasks import InputError

PAIRS = list(zip(texts("en")[:24], texts("es")[:24]))


@pytest.fixture
def start(tmp_path):
    model, tokenizer = vanilla(max_position_embeddings=512)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "start")
    rows = [{"source": source[:60], "target": target[:60]} for source, target in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def train(folder, *words, pretrained="start", output="tuned"):
    run_recipe(
        "seq2seq",
        *("--pretrained", folder / pretrained, "--output_dir", folder / output),
        *("--train_file", folder / "pairs.jsonl", "--source_column", "source", "--target_column", "target"),
        *("--warmup_steps", 1, "--learning_rate", 1e-3, "--lr_scheduler_type", "constant"),
        *("--per_device_train_batch_size", 8, "--report_to", "none", "--use_cpu", "true"),
        *words,
    )


def test_new_tokens_are_learned_saved_and_resumed(start):
    before = AutoTokenizer.from_pretrained(start / "start")
    train(start, "--extend_vocabulary", 30, "--max_steps", 2, "--save_steps", 2)
    tokenizer = AutoTokenizer.from_pretrained(start / "tuned")
    model = AutoModelForSeq2SeqLM.from_pretrained(start / "tuned")
    assert len(tokenizer) == len(before) + 30 == model.config.vocab_size == model.lm_head.out_features
    text = PAIRS[0][0]
    assert len(tokenizer(text)["input_ids"]) < len(before(text)["input_ids"])
    train(
        start,
        *("--extend_vocabulary", 30, "--max_steps", 4, "--save_steps", 4),
        *("--resume_from_checkpoint", "true"),
    )
    again = AutoTokenizer.from_pretrained(start / "tuned")
    assert again.get_vocab() == tokenizer.get_vocab() and again(text) == tokenizer(text)
    state = json.loads((start / "tuned" / "trainer_state.json").read_text())
    assert state["global_step"] == 4


def test_a_negative_number_is_an_error(start):
    with pytest.raises(InputError, match="extend_vocabulary=-1 must not be negative"):
        train(start, "--extend_vocabulary", -1, "--max_steps", 1)
