"""Classification of texts: labels from data, the loss, the scores, the recipe from files to pipeline()."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_recipe
from datasets import ClassLabel, Dataset, Features, Value
from torch.nn import functional as F
from transformers import EvalPrediction, pipeline

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerTokenizer,
    VanillaTransformerVisionConfig,
)
from vanilla_transformer.corpora import load_corpus
from vanilla_transformer.tasks.labels import (
    class_ids,
    class_names,
    class_report,
    class_weights,
    classification_loss,
    classification_metrics,
    mix_outputs,
)
from vanilla_transformer.tasks.settings import InputError
from vanilla_transformer.tasks.text_classification import (
    TextClassificationArguments,
    encode_splits,
    load_splits,
)

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes" / "text_classification").glob("*.yaml"))
QUICKSTART = "recipes/text_classification/quickstart.yaml"
GOOD = ["a wonderful film", "warm and funny", "I liked it", "a joy to watch", "great fun for all"]
BAD = ["a dull film", "cold and sad", "I hated it", "a pain to watch", "no fun at all"]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reviews(path: Path, copies=1, good="pos", bad="neg") -> str:
    rows = [{"text": text, "label": good} for text in GOOD] + [{"text": text, "label": bad} for text in BAD]
    return write(path, rows * copies)


def arguments(train: str, validation: str | None = None, **settings) -> TextClassificationArguments:
    files = {"train_file": [train], "validation_file": validation and [validation]}
    return TextClassificationArguments(**files, **settings)


# Labels


@pytest.mark.parametrize(
    "values, feature, names, ids",
    [
        (["b", "a", None, "b "], Value("string"), ["a", "b"], [1, 0, -100, 1]),
        ([10, 9, 9, None], Value("int64"), ["9", "10"], [1, 0, 0, -100]),
        ([4.0, -1.0, None], Value("float64"), ["-1", "4"], [1, 0, -100]),
        ([True, False], Value("bool"), ["False", "True"], [1, 0]),
        ([1, 0, -1, None], ClassLabel(names=["no", "yes"]), ["no", "yes"], [1, 0, -100, -100]),
    ],
    ids=["text", "numbers", "numbers with gaps", "truth values", "class labels"],
)
def test_names_and_ids_of_labels(values, feature, names, ids):
    rows = Dataset.from_dict({"label": values}, features=Features({"label": feature}))
    assert class_names(rows, "label", "here") == names
    assert class_ids(rows, "label", "here", names) == ids


def test_labels_are_matched_by_name(tmp_path):
    train = Dataset.from_dict(
        {"text": GOOD, "label": [0, 1, 0, 1, 1]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])}),
    )
    train.to_parquet(tmp_path / "train.parquet")
    other = write(tmp_path / "v.jsonl", [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}])
    splits = load_splits(arguments(str(tmp_path / "train.parquet"), other))
    assert splits["validation"]["label"] == [1, 0]
    assert splits["validation"].features["label"].names == ["no", "yes"]


@pytest.mark.parametrize(
    "train, validation, settings, message",
    [
        (
            [("a", "x"), ("b", "y")],
            [("c", "z")],
            {},
            r"row 1: the label 'z' \(1 rows\) is not in the training",
        ),
        ([("a", "pos"), ("b", "neg")], [("c", "poss")], {}, "did you mean 'pos'"),
        ([("a", "x"), ("b", "x")], None, {}, "'x' alone.*two classes"),
        ([("a", None), ("b", None)], None, {}, "no label"),
        ([("a", 0.5), ("b", 1.5)], None, {}, "row 1.*0.5, a number for regression"),
        ([("a", [1, 0]), ("b", [0, 1])], None, {}, "holds .*1, 0.*no class"),
        ([(3, "x"), (4, "y")], None, {}, "row 1: text_column 'text' holds int, not text: 3"),
        ([("a", "x"), ("b", "y")], None, {"label_column": "labl"}, "no column 'labl'; did you mean 'label'"),
        ([("a", "x"), ("b", "y")], None, {"text_column": ["txt"]}, "no column 'txt'; did you mean 'text'"),
        ([("a", "x"), ("b", "y")], None, {"text_column": ["text", "label"]}, "cannot be the label"),
        ([("a", "x"), ("b", "y")], None, {"validation_share": 0.5}, "no example of some class"),
        ([("a", "x"), ("b", "y")], None, {"streaming": True}, "streaming"),
        ([("a", "x"), ("b", "y")], None, {"max_length": 2}, "max_length=2"),
    ],
)
def test_what_cannot_be_meant_is_an_error(train, validation, settings, message, tmp_path):
    files = [
        write(tmp_path / f"{name}.jsonl", [dict(zip(("text", "label"), row)) for row in rows])
        if rows
        else None
        for name, rows in (("train", train), ("validation", validation))
    ]
    with pytest.raises(InputError, match=message):
        load_splits(arguments(*files, **settings))


def test_empty_texts_and_missing_labels_are_counted(tmp_path, caplog):
    rows = [{"text": text, "label": label} for text, label in zip(GOOD, "xyxyx")]
    rows[1]["text"], rows[3]["text"], rows[4]["label"] = "  ", None, None
    train = write(tmp_path / "train.jsonl", [*rows, {"text": "more", "label": "y"}])
    unlabelled = write(tmp_path / "v.jsonl", [{"text": "a", "label": None}])
    with caplog.at_level(logging.INFO):
        splits = load_splits(arguments(train, unlabelled))
    assert splits["train"]["text"] == [GOOD[0], GOOD[2], "more"]
    assert splits["train"]["label"] == [0, 0, 1]
    assert "skipped 2 of 6 rows with an empty text (rows 2, 4)" in caplog.text
    assert "skipped 1 of 6 rows without a label (rows 5)" in caplog.text
    assert "x 2, y 1" in caplog.text
    assert list(splits) == ["train"] and "nothing is left to score" in caplog.text


def test_a_declared_class_without_examples_is_told(tmp_path, caplog):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "c"])})
    Dataset.from_dict({"text": ["x", "y"], "label": [0, 2]}, features=features).to_parquet(
        tmp_path / "t.parquet"
    )
    splits = load_splits(arguments(str(tmp_path / "t.parquet")))
    assert "no training example of b" in caplog.text
    assert splits["train"].features["label"].names == ["a", "b", "c"]


def test_validation_share_holds_out_of_each_class(tmp_path):
    train = reviews(tmp_path / "train.jsonl", copies=4)
    data = arguments(train, validation_share=0.25)
    splits = load_splits(data, seed=3)
    assert np.bincount(splits["validation"]["label"]).tolist() == [5, 5]
    assert len(splits["train"]) == 30
    assert load_splits(data, seed=3)["validation"]["text"] == splits["validation"]["text"]
    given = load_splits(arguments(train, reviews(tmp_path / "v.jsonl"), validation_share=0.25))
    assert len(given["train"]) == 40 and len(given["validation"]) == 10


# Tokens


def test_encoding_cuts_orders_and_keeps_the_texts(tmp_path, caplog):
    rows = [
        {"one": text, "two": "yes " * count, "label": count % 2} for count, text in enumerate(GOOD, start=1)
    ]
    rows[0]["one"] = "word " * 40
    file = write(tmp_path / "train.jsonl", rows)
    data = arguments(file, file, text_column=["one", "two"], max_length=12)
    splits = load_splits(data)
    tokenizer = VanillaTransformerTokenizer.train([GOOD], vocab_size=264, show_progress=False)
    encoded = encode_splits(splits, tokenizer, data, longest=1000)
    assert set(encoded["train"].column_names) == {"input_ids", "labels"}
    assert max(map(len, encoded["train"]["input_ids"])) == 12
    assert all(ids.count(tokenizer.eos_token_id) == 2 for ids in encoded["train"]["input_ids"])
    lengths = list(map(len, encoded["validation"]["input_ids"]))
    assert lengths == sorted(lengths, reverse=True)
    for row in encoded["validation"]:
        assert row["one"] == splits["validation"]["one"][row["row"]]
        assert row["labels"] == splits["validation"]["label"][row["row"]]
    assert re.search(r"train: cut \d of 5 texts to 12 tokens", caplog.text)
    shorter = encode_splits(splits, tokenizer, data, longest=7)
    assert max(map(len, shorter["validation"]["input_ids"])) == 7


# The loss


def random_batch(examples=6, classes=3):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(examples, classes, generator=generator)
    return logits, torch.randint(classes, (examples,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_torchs(smoothing):
    logits, labels = random_batch()
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    loss = classification_loss(smoothing=smoothing)
    torch.testing.assert_close(loss({"logits": logits}, labels), expected)
    shares = F.one_hot(labels, 3).float()
    torch.testing.assert_close(loss({"logits": logits}, shares), expected)
    ignored = torch.cat([labels, torch.tensor([-100])])
    torch.testing.assert_close(loss({"logits": torch.cat([logits, logits[:1]])}, ignored), expected)


def test_loss_of_mixed_labels_is_the_mixture_of_losses():
    logits, labels = random_batch()
    other, share = labels.flip(0), 0.3
    mixed = share * F.one_hot(labels, 3) + (1 - share) * F.one_hot(other, 3)
    loss = classification_loss([0.5, 2, 1])
    parts = share * loss({"logits": logits}, labels) + (1 - share) * loss({"logits": logits}, other)
    torch.testing.assert_close(loss({"logits": logits}, mixed), parts)


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "shares"])
def test_accumulated_loss_is_that_of_the_large_batch(soft):
    """With the Trainer's count of items, which takes each share of a class for one."""
    logits, labels = random_batch()
    labels = F.one_hot(labels, 3).float() if soft else labels
    loss = classification_loss([0.5, 2, 1], smoothing=0.1)
    parts = [
        loss({"logits": logits[rows]}, labels[rows], num_items_in_batch=labels.numel())
        for rows in (slice(0, 1), slice(1, 6))
    ]
    torch.testing.assert_close(sum(parts), loss({"logits": logits}, labels))


def test_weights_make_classes_count_alike():
    counts = np.array([90, 9, 0, 1])
    weights = np.array(class_weights(counts))
    assert (weights * counts)[[0, 1, 3]] == pytest.approx([100 / 3] * 3)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert weights[2] == 0
    logits = torch.zeros(100, 4)
    labels = torch.tensor(np.repeat(np.arange(4), counts))
    loss = classification_loss(weights.tolist())({"logits": logits}, labels)
    assert loss.item() == pytest.approx(np.log(4))


def test_mixing_keeps_outputs_and_labels_together():
    labels = torch.tensor([0, 1, 2, -100, 1])
    logits = F.one_hot(labels.clamp(min=0), 3) * 7.0
    logits[3] = 0
    mixed, shares = mix_outputs(logits, labels, alpha=1.0)
    torch.testing.assert_close(mixed, 7 * shares)
    assert shares.min() >= 0 and shares.sum(-1).max() <= 1 + 1e-6


def test_only_training_mixes():
    logits, labels = random_batch()
    plain, mixing = classification_loss(), classification_loss(mixup=1.0)
    with torch.no_grad():
        assert mixing({"logits": logits}, labels) == plain({"logits": logits}, labels)
    assert mixing({"logits": logits}, labels) != plain({"logits": logits}, labels)
    alike = {"logits": logits[:1].expand(6, 3)}
    torch.testing.assert_close(mixing(alike, labels[:1].expand(6)), plain(alike, labels[:1].expand(6)))
    half = mixing(alike, labels[:1].expand(6), num_items_in_batch=12)
    torch.testing.assert_close(half, plain(alike, labels[:1].expand(6)) / 2)


# The scores


def test_scores_leave_out_what_has_no_label():
    logits = np.array([[2.0, 1, 0], [0, 1, 0], [0, 0, 1], [5, 0, 0]])
    prediction = EvalPrediction(predictions=logits, label_ids=np.array([0, 1, 1, -100]))
    scores = classification_metrics(["a", "b", "c"])(prediction)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["recall_macro"] == pytest.approx((1 + 0.5 + 0) / 3)
    report = class_report(prediction.predictions, prediction.label_ids, ["a", "b", "c"])
    assert list(report["classes"]) == ["a", "b", "c"]
    assert report["classes"]["b"] == {
        "precision": 1,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "examples": 2,
    }
    assert report["confusion_matrix"] == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="2 label_names, but the model has 3 outputs"):
        class_report(prediction.predictions, prediction.label_ids, ["a", "b"])


# The model


def classifier(**settings) -> VanillaTransformerForSequenceClassification:
    sizes = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=2)
    torch.manual_seed(0)
    return VanillaTransformerForSequenceClassification(
        VanillaTransformerConfig(vocab_size=40, **sizes, **settings)
    ).eval()


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_padding_changes_nothing(pooling):
    model = classifier(pooling=pooling)
    ids = torch.randint(3, 40, (2, 5))
    padded = F.pad(ids, (0, 3), value=1)
    mask = (padded != 1).long()
    expected = model(ids).logits
    torch.testing.assert_close(model(padded, mask).logits, expected)
    torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, expected)


def test_the_class_token_alone_is_read():
    """Its vector goes into the projection, the others' do not."""
    model = classifier(pooling="class_token")
    states = model.model(torch.randint(3, 40, (2, 5))).last_hidden_state
    torch.manual_seed(1)
    ids = torch.randint(3, 40, (2, 5))
    states = model.model(ids).last_hidden_state
    torch.testing.assert_close(model(ids).logits, model.classifier(states[:, 0]))


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_word_dropout_hides_words_in_training_alone(pooling):
    ids = torch.randint(3, 40, (1, 30))
    without = classifier(pooling=pooling, dropout=0.0)
    model = classifier(pooling=pooling, dropout=0.0, word_dropout=0.5)
    expected = without(ids).logits
    torch.testing.assert_close(model(ids).logits, expected)
    model.train()
    first, second = model(ids).logits, model(ids).logits
    assert not torch.allclose(first, expected) and not torch.allclose(first, second)
    short = ids[:, :1]
    torch.testing.assert_close(model(short).logits, without(short).logits)  # never the last one left
    torch.manual_seed(3)
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
    torch.manual_seed(3)
    torch.testing.assert_close(model(ids, torch.ones_like(ids)).logits, embedded)


def test_what_is_hidden_is_as_if_it_were_not_there():
    """Apart from the others' places: their positions stay."""
    model = classifier(position_embedding_type="learned", max_position_embeddings=8)
    model.model.encoder.embed_positions.weight.data.zero_()
    ids = torch.randint(3, 40, (1, 6))
    mask = torch.tensor([[1, 0, 1, 1, 0, 1]])
    torch.testing.assert_close(model(ids, mask).logits, model(ids[:, mask[0].bool()]).logits)


def test_pairs_of_words():
    """Of no effect before training; then they tell an order that positions do not, padding or not."""
    still = dict(position_embedding_type="learned", max_position_embeddings=9)
    without, model = classifier(**still), classifier(pair_rows=50, **still)
    model.load_state_dict(without.state_dict(), strict=False)
    for each in (without, model):
        each.model.encoder.embed_positions.weight.data.zero_()
    ids = torch.tensor([[5, 6, 7, 8]])
    swapped = ids[:, [1, 0, 2, 3]]
    expected = without(ids).logits
    torch.testing.assert_close(model(ids).logits, expected)
    torch.testing.assert_close(without(swapped).logits, expected)

    model.embed_pairs.weight.data.normal_()
    logits = model(ids).logits
    assert not torch.allclose(model(swapped).logits, logits, atol=1e-2)
    padded = F.pad(ids, (0, 2), value=1)
    torch.testing.assert_close(model(padded, (padded != 1).long()).logits, logits)
    with pytest.raises(ValueError, match="pair_rows=50 finds pairs by ids"):
        model(inputs_embeds=model.get_input_embeddings()(ids))


def test_pairs_are_saved_and_learned(tmp_path):
    model = classifier(pair_rows=50)
    ids = torch.randint(3, 40, (2, 6))
    model(ids, labels=torch.tensor([0, 1])).loss.backward()
    rows = model.embed_pairs.weight
    assert rows.grad.abs().sum() > 0
    rows.data.normal_()
    model.save_pretrained(tmp_path)
    again = VanillaTransformerForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(ids).logits, model(ids).logits)


def test_word_dropout_of_all_words_is_refused():
    with pytest.raises(Exception, match="word_dropout=1.0"):
        VanillaTransformerConfig(word_dropout=1.0)
    with pytest.raises(Exception, match="pair_rows=-1"):
        VanillaTransformerConfig(pair_rows=-1)


# The recipe


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("text_classification")


SMALL = {
    **{"vocab_size": 300, "max_steps": 2, "max_source_tokens": 500, "use_cpu": True},
    **{"model.hidden_size": 16, "model.intermediate_size": 32, "model.num_attention_heads": 2},
    **{"model.encoder_layers": 1, "eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1},
    **{"save_strategy": "steps", "save_steps": 1},
}


def run(recipe, monkeypatch, *words, **settings):
    monkeypatch.chdir(ROOT)
    flags = [f"--{name}={value}" for name, value in {**SMALL, **settings}.items()]
    monkeypatch.setattr(sys, "argv", ["recipes/text_classification.py", *map(str, words), *flags])
    recipe.main()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(path, recipe):
    model, data, _, args = recipe.settings([str(path), "--bf16", "false"])  # refused where there is no GPU
    assert args.output_dir == f"outputs/{'text_classification_' * (path.stem == 'quickstart')}{path.stem}"
    config = VanillaTransformerConfig.from_preset(model.pop("preset", "base"), **model)
    assert data.max_length <= config.max_position_embeddings


def test_quickstart_from_data_to_pipeline(recipe, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "model"
    few = dict(
        max_train_samples=9000, max_validation_samples=30, max_test_samples=20, max_tokenizer_samples=99
    )
    run(recipe, monkeypatch, QUICKSTART, **few, average_checkpoints=2, save_total_limit=2, output_dir=folder)

    results = json.loads((folder / "results.json").read_text())
    assert results["updates"] == 2
    assert 0 <= results["test_accuracy"] <= 1 and results["validation_loss"] > 0
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
    run(recipe, monkeypatch, QUICKSTART, **few, **go_on, output_dir=folder)
    assert json.loads((folder / "results.json").read_text())["updates"] == 3


def test_a_users_file_with_a_class_token_and_balanced_classes(recipe, monkeypatch, tmp_path):
    rows = [{"text": text, "label": "good"} for text in GOOD * 8] + [{"text": BAD[0], "label": "bad"}] * 8
    (tmp_path / "mine.csv").write_text(
        "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in rows)
    )
    mine = {"train_file": tmp_path / "mine.csv", "validation_share": 0.25, "balance_classes": True}
    folder = tmp_path / "model"
    run(recipe, monkeypatch, **mine, output_dir=folder, **{"model.pooling": "class_token"})
    classify = pipeline("sentiment-analysis", model=str(folder))
    assert classify.tokenizer("a joy")["input_ids"][0] == classify.tokenizer.bos_token_id
    assert classify("a joy")[0]["label"] in ("good", "bad")
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and {line["label"] for line in lines} == {"good", "bad"}
    assert classify([line["text"] for line in lines])[0]["label"] == lines[0]["predicted"]


def test_going_on_from_an_encoder(recipe, monkeypatch, tmp_path):
    """Its weights and its vocabulary are where training starts, with a new projection to the labels."""
    from vanilla_transformer import VanillaTransformerForMaskedLM

    tokenizer = VanillaTransformerTokenizer.train([GOOD + BAD], vocab_size=290, show_progress=False)
    sizes = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, encoder_layers=1)
    encoder = VanillaTransformerForMaskedLM(VanillaTransformerConfig(vocab_size=len(tokenizer), **sizes))
    for model in (encoder, tokenizer):
        model.save_pretrained(tmp_path / "encoder")
    file, folder = reviews(tmp_path / "train.jsonl"), tmp_path / "model"
    mine = {"train_file": file, "validation_file": file, "pretrained": tmp_path / "encoder"}
    rate = {"learning_rate": 1e-9, "lr_scheduler_type": "constant", "warmup_steps": 0}
    run(recipe, monkeypatch, **mine, **rate, output_dir=folder)
    model = VanillaTransformerForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(model.get_input_embeddings().weight, encoder.get_input_embeddings().weight)
    assert model.config.id2label == {0: "neg", 1: "pos"}
    stored = [json.loads((path / "tokenizer.json").read_text()) for path in (folder, tmp_path / "encoder")]
    assert stored[0]["model"] == stored[1]["model"]
    with pytest.raises(InputError, match="model.preset"):
        run(recipe, monkeypatch, **mine, output_dir=tmp_path / "two", **{"model.preset": "tiny"})
    tokenizer.save_pretrained(tmp_path / "pictures")
    VanillaTransformerVisionConfig().save_pretrained(tmp_path / "pictures")
    for wrong, message in (
        (tmp_path / "nowhere", "pretrained: .*nowhere: there is no such folder here"),
        ("outputs/nowhere", "pretrained: outputs/nowhere: there is no such folder here"),
        (tmp_path / "pictures", "pretrained: .*pictures has a vocabulary of 0 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            run(recipe, monkeypatch, **mine | {"pretrained": wrong}, output_dir=tmp_path / "three")


@pytest.mark.slow
def test_two_processes_score_every_text_once(tmp_path):
    file = reviews(tmp_path / "reviews.jsonl", copies=2)
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()[:11]]
    few = write(tmp_path / "few.jsonl", rows)
    settings = {**SMALL, "train_file": file, "validation_file": few, "per_device_eval_batch_size": 2}
    settings |= {"max_steps": 4, "save_steps": 2, "output_dir": tmp_path / "model"}
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [
            *words,
            "recipes/text_classification.py",
            *(f"--{name}={value}" for name, value in settings.items()),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in (tmp_path / "model" / "predictions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [row["text"] for row in rows]
    report = json.loads((tmp_path / "model" / "classes.json").read_text())
    assert {name: row["examples"] for name, row in report["classes"].items()} == {"neg": 5, "pos": 6}
    accuracy = json.loads((tmp_path / "model" / "results.json").read_text())["validation_accuracy"]
    assert accuracy == pytest.approx(np.mean([line["label"] == line["predicted"] for line in lines]))


def test_the_linear_baseline_reads_the_same_data(tmp_path):
    file = reviews(tmp_path / "train.jsonl", copies=3)
    words = [
        "benchmarks/baselines/tfidf.py",
        "--train_file",
        file,
        "--validation_file",
        file,
        "--test_file",
        file,
    ]
    done = subprocess.run(
        [sys.executable, *words, "--output_dir", str(tmp_path / "unused")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout)
    assert results["train_examples"] == 30
    assert results["test_accuracy"] == results["validation_accuracy"] == 1.0
