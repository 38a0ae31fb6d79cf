"""The recipe of text classification: from data to pipeline(), on one process and on two."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import launch, run_recipe
from test_classification import BAD, GOOD, reviews, write
from transformers import AutoModelForSequenceClassification, pipeline

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerTokenizer,
    VanillaTransformerVisionConfig,
)
from vanilla_transformer.corpora import load_corpus
from vanilla_transformer.tasks import InputError, get_model

QUICKSTART = "recipes/text_classification/quickstart.yaml"
SMALL = {
    **{"vocab_size": 300, "max_steps": 2, "max_source_tokens": 500, "use_cpu": True},
    **{"model.hidden_size": 16, "model.intermediate_size": 32, "model.num_attention_heads": 2},
    **{"model.encoder_layers": 1, "eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1},
    **{"save_strategy": "steps", "save_steps": 1},
}


def run(*words, **settings):
    flags = [f"--{name}={value}" for name, value in {**SMALL, **settings}.items()]
    run_recipe("text_classification", *words, *flags)


def test_quickstart_from_data_to_pipeline(tmp_path, capsys):
    folder = tmp_path / "model"
    few = dict(
        max_train_samples=9000, max_validation_samples=30, max_test_samples=20, max_tokenizer_samples=99
    )
    run(QUICKSTART, **few, average_checkpoints=2, save_total_limit=2, output_dir=folder)

    results = json.loads((folder / "results.json").read_text())
    assert results["updates"] == 2
    assert results["validation_loss"] > 0
    assert "test_perplexity" not in results
    report = json.loads((folder / "classes.json").read_text())
    corpus = load_corpus("bible_en_es")["test"]
    assert list(report["classes"]) == corpus.features["part"].names
    assert sum(row["examples"] for row in report["classes"].values()) == 20

    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["en"] for line in lines] == corpus["en"][:20]
    classify = pipeline("text-classification", model=str(folder))
    got = classify([line["en"] for line in lines], truncation=True)
    assert [out["label"] for out in got] == [line["predicted"] for line in lines]
    assert [out["score"] for out in got] == pytest.approx([line["score"] for line in lines], abs=1e-3)
    right = np.mean([line["label"] == line["predicted"] for line in lines])
    assert right == pytest.approx(results["test_accuracy"])

    card = (folder / "README.md").read_text()
    assert "text-classification" in card and "accuracy" in card
    assert f'pipeline("text-classification", model="{folder}")' in capsys.readouterr().out
    go_on = {"max_steps": 3, "resume_from_checkpoint": "true"}
    run(QUICKSTART, **few, **go_on, output_dir=folder)
    assert json.loads((folder / "results.json").read_text())["updates"] == 3


def test_a_users_file_with_a_class_token_and_balanced_classes(tmp_path):
    rows = [{"text": text, "label": "good"} for text in GOOD * 8] + [{"text": BAD[0], "label": "bad"}] * 8
    (tmp_path / "mine.csv").write_text(
        "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in rows)
    )
    mine = {"train_file": tmp_path / "mine.csv", "validation_share": 0.25, "balance_classes": True}
    folder = tmp_path / "model"
    run(**mine, output_dir=folder, **{"model.pooling": "class_token"})
    classify = pipeline("sentiment-analysis", model=str(folder))
    assert classify.tokenizer("a joy")["input_ids"][0] == classify.tokenizer.bos_token_id
    assert classify("a joy")[0]["label"] in ("good", "bad")
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and {line["label"] for line in lines} == {"good", "bad"}
    assert classify([line["text"] for line in lines])[0]["label"] == lines[0]["predicted"]


def test_training_starts_from_a_pretrained_encoder(tmp_path):
    """Training starts from its weights and its vocabulary, with a new projection to the labels."""
    from vanilla_transformer import VanillaTransformerForMaskedLM

    tokenizer = VanillaTransformerTokenizer.train([GOOD + BAD], vocab_size=290, show_progress=False)
    sizes = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=1)
    encoder = VanillaTransformerForMaskedLM(VanillaTransformerConfig(vocab_size=len(tokenizer), **sizes))
    for model in (encoder, tokenizer):
        model.save_pretrained(tmp_path / "encoder")
    file, folder = reviews(tmp_path / "train.jsonl"), tmp_path / "model"
    mine = {"train_file": file, "validation_file": file, "pretrained": tmp_path / "encoder"}
    rate = {"learning_rate": 1e-9, "lr_scheduler_type": "constant", "warmup_steps": 0}
    run(**mine, **rate, output_dir=folder)
    model = VanillaTransformerForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(model.get_input_embeddings().weight, encoder.get_input_embeddings().weight)
    assert model.config.id2label == {0: "neg", 1: "pos"}
    stored = [json.loads((path / "tokenizer.json").read_text()) for path in (folder, tmp_path / "encoder")]
    assert stored[0]["model"] == stored[1]["model"]
    with pytest.raises(InputError, match="model.preset"):
        run(**mine, output_dir=tmp_path / "two", **{"model.preset": "tiny"})
    tokenizer.save_pretrained(tmp_path / "pictures")
    VanillaTransformerVisionConfig().save_pretrained(tmp_path / "pictures")
    for wrong, message in (
        (tmp_path / "nowhere", "pretrained: .*nowhere: there is no such folder here"),
        ("outputs/nowhere", "pretrained: outputs/nowhere: there is no such folder here"),
        (tmp_path / "pictures", "pretrained: .*pictures has a vocabulary of 0 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            run(**mine | {"pretrained": wrong}, output_dir=tmp_path / "three")


def test_a_pretrained_classifier_gets_a_head_for_other_labels(tmp_path, caplog):
    sizes = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=1)
    sizes |= {"decoder_layers": 0}
    tokenizer = VanillaTransformerTokenizer.train([GOOD + BAD], vocab_size=290, show_progress=False)
    stored = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    config = VanillaTransformerConfig(vocab_size=len(tokenizer), **sizes, **stored)
    before = VanillaTransformerForSequenceClassification(config)
    before.save_pretrained(tmp_path)

    def load(*names, **sizes):
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: id for id, name in enumerate(names)}}
        caplog.clear()
        model = get_model(AutoModelForSequenceClassification, sizes, tokenizer, str(tmp_path), **labels)
        assert list(model.config.id2label.values()) == list(names)
        body, expected = (dict(one.named_parameters()) for one in (model, before))
        for name in expected:
            if not name.startswith("classifier."):
                torch.testing.assert_close(body[name], expected[name])
        return model.classifier

    for names in (("x", "y"), ("x", "y", "z"), ("a", "b"), ("a", "b", "c", "d")):
        head = load(*names)
        assert "its head is replaced" in caplog.text and "3 other labels (a, b, c)" in caplog.text
        assert head.weight.shape == (len(names), 16) and head.weight.std() > 0
        assert not torch.equal(head.weight[:2], before.classifier.weight[:2])
    head = load("a", "b", "c")
    assert torch.equal(head.weight, before.classifier.weight) and not caplog.text
    head = load("c", "a", "b")
    assert torch.equal(head.weight, before.classifier.weight[[2, 0, 1]])
    assert torch.equal(head.bias, before.classifier.bias[[2, 0, 1]])
    with pytest.raises(InputError, match="has other sizes than the model: block"):
        load("x", "y", hidden_size=32)
    with pytest.raises(InputError, match="has no model.encoder.embed_positions.weight"):
        load("x", "y", position_embedding_type="learned")
    with pytest.raises(InputError, match="pretrained: .*'dropout'"):
        load("x", "y", dropout="high")


@pytest.mark.slow
def test_two_processes_score_every_text_once(tmp_path):
    file = reviews(tmp_path / "reviews.jsonl", copies=2)
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()[:11]]
    few = write(tmp_path / "few.jsonl", rows)
    settings = {**SMALL, "train_file": file, "validation_file": few, "per_device_eval_batch_size": 2}
    settings |= {"max_steps": 4, "save_steps": 2, "output_dir": tmp_path / "model"}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    done = launch("recipes/text_classification.py", *flags, processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in (tmp_path / "model" / "predictions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [row["text"] for row in rows]
    report = json.loads((tmp_path / "model" / "classes.json").read_text())
    assert {name: row["examples"] for name, row in report["classes"].items()} == {"neg": 5, "pos": 6}
    accuracy = json.loads((tmp_path / "model" / "results.json").read_text())["validation_accuracy"]
    assert accuracy == pytest.approx(np.mean([line["label"] == line["predicted"] for line in lines]))


def test_the_linear_baseline_reads_the_same_data(tmp_path):
    file = reviews(tmp_path / "train.jsonl", copies=3)
    files = [word for split in ("train", "validation", "test") for word in (f"--{split}_file", file)]
    done = launch("benchmarks/baselines/tfidf.py", *files, "--output_dir", tmp_path / "unused")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout)
    assert results["train_examples"] == 30
    assert results["test_accuracy"] == results["validation_accuracy"] == 1.0
