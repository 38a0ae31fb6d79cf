"""Summarization: training, scoring and the pipeline cut documents alike; the recipe from data to pipeline."""

import json
import logging
import re

import pytest
from datasets import Dataset
from launch import launch, run_recipe
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from vanilla_transformer import VanillaTransformerTokenizer
from vanilla_transformer.metrics import load_metric
from vanilla_transformer.tasks.seq2seq import Seq2SeqArguments, encode_splits
from vanilla_transformer.tasks.text_scores import summarization_metrics

PAIRS = [
    (f"The library number {n} reads files. " + "It is fast. " * (n % 9), f"library {n}") for n in range(120)
]


@pytest.fixture
def pairs_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"document": document, "summary": summary} for document, summary in PAIRS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_long_sources_are_cut_or_skipped(streaming, caplog):
    tokenizer = VanillaTransformerTokenizer.train(
        [[one for pair in PAIRS for one in pair]], 300, show_progress=False
    )
    rows = Dataset.from_dict({"source": [one for one, _ in PAIRS], "target": [two for _, two in PAIRS]})
    splits = {"train": rows.to_iterable_dataset() if streaming else rows, "validation": rows}
    files = {"train_file": ["x.jsonl"], "source_column": "source", "target_column": "target"}
    whole = tokenizer([one for one, _ in PAIRS])["input_ids"]
    limit = sorted(map(len, whole))[len(whole) // 2]

    skipped = encode_splits(
        splits, tokenizer, Seq2SeqArguments(**files, max_source_length=limit), longest=1000
    )
    assert [row["input_ids"] for row in skipped["train"]] == [ids for ids in whole if len(ids) <= limit]
    assert sorted(skipped["validation"]["input_ids"]) == sorted(whole)

    data = Seq2SeqArguments(**files, max_source_length=limit, truncate_source=True)
    with caplog.at_level(logging.INFO):
        cut = encode_splits(splits, tokenizer, data, longest=1000)
    expected = tokenizer([one for one, _ in PAIRS], truncation=True, max_length=limit)["input_ids"]
    assert [row["input_ids"] for row in cut["train"]] == expected
    assert sorted(cut["validation"]["input_ids"]) == sorted(expected)
    assert f"sources to {limit} tokens" in caplog.text


def test_rouge_scores_the_decoded_texts():
    tokenizer = VanillaTransformerTokenizer.train([["a b c d e f"] * 3], 280, show_progress=False)
    ids = tokenizer(["a b c", "d e"], padding=True, return_tensors="np")["input_ids"]
    references = ["a b d", "e d"]
    outputs = type("Outputs", (), {"predictions": ids, "label_ids": ids})
    got = summarization_metrics(tokenizer, references)(outputs)
    expected = load_metric("rouge").compute(predictions=["a b c", "d e"], references=references)
    assert got["rouge_signature"] == expected.pop("signature")
    assert {name: got[name] for name in expected} == {name: 100 * value for name, value in expected.items()}
    assert summarization_metrics(tokenizer)(outputs)["rougeL"] == pytest.approx(100)


def test_the_recipe_from_data_to_pipeline(pairs_file, tmp_path, capsys):
    folder = tmp_path / "model"
    settings = {
        **{"train_file": pairs_file, "validation_file": pairs_file, "max_validation_samples": 12},
        **{"vocab_size": 300, "max_source_length": 24, "max_target_length": 5, "max_steps": 2},
        **{"eval_strategy": "no", "save_strategy": "no", "logging_steps": 1, "use_cpu": True},
        **{"model.hidden_size": 16, "model.intermediate_size": 32, "model.num_attention_heads": 2},
        **{"model.encoder_layers": 1, "model.decoder_layers": 1, "output_dir": folder},
    }
    words = [f"--{name}={value}" for name, value in settings.items()]
    run_recipe("seq2seq", "recipes/summarization/quickstart.yaml", *words)

    results = json.loads((folder / "results.json").read_text())
    assert 'pipeline("summarization"' in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert "ROUGE-1" in card and results["validation_rouge_signature"].replace("|", "\\|") in card

    lines = [json.loads(line) for line in (folder / "summaries.jsonl").read_text().splitlines()]
    documents, expected = [line["source"] for line in lines], [line["summary"] for line in lines]
    assert documents == [document for document, _ in PAIRS[:12]]
    summarize = pipeline("summarization", model=str(folder))
    assert [out["summary_text"] for out in summarize(documents)] == expected  # cuts long documents itself
    assert [out["summary_text"] for out in summarize(documents, batch_size=4)] == expected
    assert [out[0]["summary_text"] for out in summarize(text for text in documents)] == expected
    rows = KeyDataset(Dataset.from_dict({"document": documents}), "document")
    assert [out[0]["summary_text"] for out in summarize(rows, batch_size=3)] == expected
    assert summarize(documents[0])[0]["summary_text"] == expected[0]
    limit = summarize.tokenizer.model_max_length
    assert limit == 24 and any(len(summarize.tokenizer(text)["input_ids"]) > limit for text in documents)
    longest = summarize(documents, return_tensors=True)
    assert max(len(out["summary_token_ids"]) for out in longest) <= 6  # the start token and max_target_length


def test_the_baseline_scores_leading_sentences(pairs_file):
    words = [f"--train_file={pairs_file}", f"--validation_file={pairs_file}"]
    script, recipe = "benchmarks/baselines/leading_sentences.py", "recipes/summarization/quickstart.yaml"
    done = launch(script, recipe, *words)
    assert done.returncode == 0, done.stderr
    first = [document.split(". ")[0] + "." for document, _ in PAIRS]
    scores = load_metric("rouge").compute(predictions=first, references=[summary for _, summary in PAIRS])
    row = re.search(r"\| validation \| ([\d.]+) \| ([\d.]+)", done.stdout)
    assert [float(row[1]), float(row[2])] == [round(100 * scores[name], 1) for name in ("rouge1", "rouge2")]
