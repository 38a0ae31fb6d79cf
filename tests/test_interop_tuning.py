"""Imported models are fine-tuned by the recipe, with their tokenizer and tags, and by PEFT."""

import json

import pytest
import torch
from launch import run_recipe
from tiny_marian import texts, write_marian
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer.interop import import_model

pytest.importorskip("sentencepiece")
PAIRS = [
    (f">>spa<< {source[:60]}", target[:60]) for source, target in zip(texts("en")[:24], texts("es")[:24])
]


@pytest.fixture(scope="module", params=[False, True], ids=["joint", "separate"])
def tuned(request, tmp_path_factory):
    """The original, and the folders of the import and of the model that the recipe trained from it."""
    folder = tmp_path_factory.mktemp("tuning")
    original = write_marian(folder / "opus", separate=request.param, max_position_embeddings=128)
    import_model(folder / "opus", folder / "ours")
    rows = [{"source": source, "target": target} for source, target in PAIRS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_recipe(
        "seq2seq",
        *("--pretrained", folder / "ours", "--output_dir", folder / "tuned"),
        *("--train_file", folder / "pairs.jsonl", "--validation_file", folder / "pairs.jsonl"),
        *("--source_column", "source", "--target_column", "target", "--target_lang", "es"),
        *("--max_steps", 2, "--warmup_steps", 1, "--learning_rate", 1e-3, "--lr_scheduler_type", "constant"),
        *("--eval_on_start", "true", "--eval_strategy", "steps", "--eval_steps", 2),
        *("--per_device_train_batch_size", 8, "--num_beams", 1, "--max_extra_tokens", 4),
        *("--report_to", "none", "--save_strategy", "no", "--use_cpu", "true"),
    )
    return original, folder / "ours", folder / "tuned"


def original_loss(original, tokenizer) -> float:
    """The cross-entropy of all targets in nats a token, one pair at a time."""
    total, count = 0.0, 0
    for source, target in PAIRS:
        batch = tokenizer(source, text_target=target, return_tensors="pt")
        with torch.no_grad():
            logits = original(**batch).logits
        total += float(F.cross_entropy(logits[0], batch["labels"][0], reduction="sum"))
        count += batch["labels"].numel()
    return total / count


def test_the_loss_before_the_first_step_is_the_originals(tuned):
    original, imported, folder = tuned
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    first = next(entry for entry in history if "eval_loss" in entry)
    assert first["step"] == 0
    expected = original_loss(original, AutoTokenizer.from_pretrained(imported))
    assert first["eval_loss"] == pytest.approx(expected, abs=1e-4)
    assert [entry for entry in history if "eval_loss" in entry][-1]["eval_loss"] < first["eval_loss"]


def test_tokenizer_tags_and_start_token_are_kept(tuned):
    original, imported, folder = tuned
    before, after = map(AutoTokenizer.from_pretrained, (imported, folder))
    assert type(after) is type(before)
    sources = [source for source, _ in PAIRS]
    assert after(sources) == before(sources)
    tag = before.convert_tokens_to_ids(">>spa<<")
    assert after(sources[0])["input_ids"][0] == tag != before.unk_token_id
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    pad = original.config.pad_token_id
    assert model.config.decoder_start_token_id == model.config.pad_token_id == pad
    assert model.generation_config.decoder_start_token_id == pad
    assert model.generation_config.bad_words_ids == [[pad]]


def test_the_attention_of_word_alignments_is_chosen(tuned):
    settings = AutoModelForSeq2SeqLM.from_pretrained(tuned[2]).generation_config
    assert settings.alignment_layer in range(3) and isinstance(settings.alignment_shift, bool)
