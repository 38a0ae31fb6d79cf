"""The recipe of language modelling: each objective from data to pipeline()."""

import json
import math

import pytest
import torch
from datasets import Dataset
from launch import run_recipe
from test_language_modeling import tokenizer_for
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.tasks import InputError
from vanilla_transformer.tasks.language_modeling import text_scores

SMALL = {
    **{"max_train_samples": 300, "max_validation_samples": 5, "max_test_samples": 5, "vocab_size": 400},
    **{"block_size": 32, "max_steps": 2, "max_target_tokens": 200, "logging_steps": 1, "use_cpu": True},
    **{"model.hidden_size": 16, "model.intermediate_size": 32, "model.num_attention_heads": 2},
    **{
        "model.encoder_layers": 1,
        "model.decoder_layers": 1,
        "warmup_steps": 1,
        "eval_steps": 1,
        "bf16": False,
    },
    **{"save_strategy": "steps", "save_steps": 1},
}


def run(path, folder, *more):
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    run_recipe("language_modeling", path, *flags, *more, f"--output_dir={folder}")
    return json.loads((folder / "results.json").read_text())


def test_the_quickstart_from_data_to_pipeline(tmp_path):
    folder = tmp_path / "model"
    results = run("recipes/language_modeling/quickstart.yaml", folder)
    assert results["updates"] == 2
    for split in ("validation", "test"):
        nll = results[f"{split}_loss"] * results[f"{split}_tokens"]
        bits = results[f"{split}_bits_per_character"] * results[f"{split}_characters"]
        assert bits == pytest.approx(nll / math.log(2))
        assert results[f"{split}_perplexity"] == pytest.approx(math.exp(results[f"{split}_loss"]))
    card = (folder / "README.md").read_text()
    assert "bits per character" in card and 'pipeline("text-generation"' in card
    config = AutoConfig.from_pretrained(folder)
    assert (
        config.max_position_embeddings
        == SMALL["block_size"]
        < VanillaTransformerConfig().max_position_embeddings
    )

    write = pipeline("text-generation", model=str(folder), max_new_tokens=6, do_sample=False)
    prompts = ["In the beginning God", "And", "He said to them, Go and"]
    single = [write(prompt)[0]["generated_text"] for prompt in prompts]
    assert all(text.startswith(prompt) for text, prompt in zip(single, prompts))
    assert [texts[0]["generated_text"] for texts in write(prompts, batch_size=3)] == single
    assert [texts[0]["generated_text"] for texts in write(prompt for prompt in prompts)] == single
    rows = KeyDataset(Dataset.from_dict({"prompt": prompts}), "prompt")
    assert [texts[0]["generated_text"] for texts in write(rows, batch_size=2)] == single

    again = run(
        "recipes/language_modeling/quickstart.yaml",
        folder,
        "--max_steps=3",
        "--resume_from_checkpoint=true",
    )
    assert again["updates"] == 3


def test_the_masked_recipe_from_data_to_pipeline(tmp_path):
    folder = tmp_path / "model"
    results = run("recipes/language_modeling/masked.yaml", folder)
    assert results["validation_loss"] > 0 and "validation_bits_per_character" not in results
    positions = VanillaTransformerConfig().max_position_embeddings  # room for what it is fine-tuned to
    assert AutoConfig.from_pretrained(folder).max_position_embeddings == positions
    fill = pipeline("fill-mask", model=str(folder), top_k=3)
    texts = ["In the <mask> God created.", "And God <mask>"]
    single = [fill(text) for text in texts]
    assert [len(answers) for answers in single] == [3, 3]
    for one, many in zip(single, fill(texts, batch_size=2)):
        assert [answer["token"] for answer in many] == [answer["token"] for answer in one]
    assert single[0][0]["sequence"].startswith("In the ")
    assert [answers[0]["token"] for answers in fill(text for text in texts)] == [
        answers[0]["token"] for answers in single
    ]


def test_a_denoising_model_is_a_start_for_summaries(tmp_path, caplog):
    """seq2seq.py starts from the weights, the tokenizer and the sizes of a model of language_modeling.py."""
    started, folder = tmp_path / "started", tmp_path / "model"
    book = tmp_path / "book.jsonl"
    rows = [{"text": f"The library {number} reads files.", "summary": "reads files"} for number in range(300)]
    book.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"--train_file={book}", f"--validation_file={book}"]
    noise = ["--objective=denoising", "--max_source_tokens=200", "--model.max_position_embeddings=64"]
    results = run(given[0], started, given[1], *noise)
    assert results["validation_loss"] > 0 and "validation_bits_per_character" not in results
    assert pipeline("text2text-generation", model=str(started))("The library")[0]["generated_text"]

    def fine_tune(folder, *more):
        rate = ["--learning_rate=1e-9", "--lr_scheduler_type=constant", "--max_steps=1", "--use_cpu=true"]
        limits = ["--max_source_tokens=500", "--max_target_tokens=500", "--max_validation_samples=2"]
        columns = ["--task=summarization", "--source_column=text", "--target_column=summary"]
        words = [*given, *rate, *limits, *columns, f"--pretrained={started}", f"--output_dir={folder}", *more]
        run_recipe("seq2seq", *words)

    fine_tune(folder, "--model.dropout=0.3")
    assert "vocab_size" not in caplog.text
    fine_tune(tmp_path / "sized", "--vocab_size=321")
    assert "vocab_size=321 is ignored" in caplog.text
    before, after = (AutoModelForSeq2SeqLM.from_pretrained(path) for path in (started, folder))
    for (name, one), two in zip(before.named_parameters(), after.parameters()):
        torch.testing.assert_close(one, two, msg=name)
    assert after.config.dropout == 0.3 and before.config.dropout != 0.3
    assert (
        AutoTokenizer.from_pretrained(folder).get_vocab()
        == AutoTokenizer.from_pretrained(started).get_vocab()
    )
    assert "| pretrained | started |" in (folder / "README.md").read_text()

    for key, message in (
        ("--model.preset=tiny", "model.preset and pretrained"),
        ("--model.hidden_size=32", "other sizes than the model: block asks for"),
        ("--tokenizer=" + str(other_tokenizer(tmp_path)), "has a vocabulary of .* but the tokenizer has"),
    ):
        with pytest.raises(InputError, match=message):
            fine_tune(tmp_path / "refused", key)


def other_tokenizer(folder):
    tokenizer_for("denoising").save_pretrained(folder / "other")
    return folder / "other"


def test_a_file_and_a_given_tokenizer(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("".join(f"The dog {number} runs home.\n" for number in range(200)))
    one = run(f"--train_file={book}", tmp_path / "one", "--eval_strategy=no")
    assert one["updates"] == 2
    given = [f"--tokenizer={tmp_path / 'one'}", f"--test_file={book}", "--eval_strategy=no"]
    two = run(f"--train_file={book}", tmp_path / "two", *given)
    assert two["test_characters"] == len(book.read_text())
    with pytest.raises(InputError, match="block_size=32 is more than max_position_embeddings=16"):
        run(
            f"--train_file={book}",
            tmp_path / "three",
            "--model.max_position_embeddings=16",
            "--eval_strategy=no",
        )


def test_the_word_perplexity_of_a_bad_model_is_not_capped():
    texts = Dataset.from_dict({"text": ["incomprehensibilities"]})
    encoded = Dataset.from_dict({"labels": [[-100, *range(20), 2]]})
    scores = text_scores({"test_loss": 7.0}, "test", texts, encoded)
    assert scores["test_word_perplexity"] == pytest.approx(math.exp(7 * 21 / 2))  # the word and the end
