"""Classification of texts: labels from data, the loss, the scores, the recipe from files to pipeline()."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from torch.nn import functional as F
from transformers import EvalPrediction

from vanilla_transformer import (
    ToolkitTokenizer,
    VanillaTransformerConfig,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerTokenizer,
)
from vanilla_transformer.tasks.labels import (
    class_ids,
    class_names,
    class_report,
    class_weights,
    classification_loss,
    classification_metrics,
)
from vanilla_transformer.tasks.settings import InputError
from vanilla_transformer.tasks.text_classification import (
    TextClassificationArguments,
    encode_splits,
    load_splits,
)

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


def test_labels_that_are_one_number_have_a_fixed_order(tmp_path):
    """The order of a set of texts differs from process to process."""
    given = [f"{zeros}{number}" for number in range(12) for zeros in ("", "0", "00", "000")]
    rows = Dataset.from_dict({"label": given})
    expected = sorted(given, key=lambda name: (int(name), name))
    assert class_names(rows, "label", "rows") == expected


def test_labels_that_only_look_like_numbers_are_text():
    for given in (["--5", "3"], ["-", "1"], ["9" * 5000, "1"], ["1.5", "2"]):
        assert class_names(Dataset.from_dict({"label": given}), "label", "rows") == sorted(given)


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
        ([("a", "x"), ("b", "x")], None, {}, "only the label 'x'.*two or more classes"),
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
def test_bad_data_and_settings_are_errors(train, validation, settings, message, tmp_path):
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
    assert list(splits) == ["train"] and "no rows are left to score" in caplog.text


def test_a_declared_class_without_examples_is_a_warning(tmp_path, caplog):
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


def test_a_tokenizer_without_the_tokenizers_library_cuts_and_counts(tmp_path, caplog):
    words = ["<unk>", "<pad>", "</s>", *{word for text in GOOD for word in text.split()}]
    (tmp_path / "vocab.json").write_text(json.dumps({word: id for id, word in enumerate(words)}))
    file = write(tmp_path / "train.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(GOOD)])
    data = arguments(file, file, max_length=4)
    tokenizer = ToolkitTokenizer(str(tmp_path / "vocab.json"))
    encoded = encode_splits(load_splits(data), tokenizer, data, longest=1000)["train"]
    longer = sum(len(text.split()) + 1 > 4 for text in GOOD)  # with </s>
    assert max(map(len, encoded["input_ids"])) == 4
    assert f"train: cut {longer} of 5 texts to 4 tokens" in caplog.text and 0 < longer < 5


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


def test_weights_make_classes_count_the_same():
    counts = np.array([90, 9, 0, 1])
    weights = np.array(class_weights(counts))
    assert (weights * counts)[[0, 1, 3]] == pytest.approx([100 / 3] * 3)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert weights[2] == 0
    logits = torch.zeros(100, 4)
    labels = torch.tensor(np.repeat(np.arange(4), counts))
    loss = classification_loss(weights.tolist())({"logits": logits}, labels)
    assert loss.item() == pytest.approx(np.log(4))


# The scores


def test_scores_ignore_examples_without_a_label():
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
    assert report["rows"].startswith("true class") and report["columns"].startswith("predicted class")
    with pytest.raises(ValueError, match="2 label_names, but the model has 3 outputs"):
        class_report(prediction.predictions, prediction.label_ids, ["a", "b"])


def test_unbalanced_classes_have_scores_that_show_it(caplog):
    truth = np.array([0] * 18 + [1, 1, -100])
    for odds in (0.0, 5.0):  # of the second class, in its own examples; the first class is always predicted
        logits = np.where(truth[:, None] == 1, [9.0, odds], [9.0, -1.0])
        scores = classification_metrics(["a", "b"])(EvalPrediction(predictions=logits, label_ids=truth))
        assert scores["accuracy"] == 0.9 and scores["balanced_accuracy"] == 0.5 and scores["roc_auc"] == 1
    assert "predicts 'a' for all 20 examples, of which 90% are 'a'" in caplog.text
    caplog.clear()
    right = np.eye(2)[truth.clip(0)]
    scores = classification_metrics(["a", "b"])(EvalPrediction(predictions=right, label_ids=truth))
    assert scores["balanced_accuracy"] == scores["roc_auc"] == 1 and "for all" not in caplog.text
    one = classification_metrics(["a", "b"])(EvalPrediction(predictions=right[:18], label_ids=truth[:18]))
    assert "roc_auc" not in one and one["balanced_accuracy"] == 1
    assert "roc_auc" not in classification_metrics(["a", "b", "c"])(
        EvalPrediction(predictions=np.eye(3), label_ids=np.arange(3))
    )


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("large, warned", [(81, True), (79, False)])
def test_one_large_class_is_a_warning(tmp_path, balance, large, warned, caplog):
    path = tmp_path / "train.jsonl"
    write(path, [{"text": "x", "label": "often" if n < large else "rare"} for n in range(100)])
    load_splits(TextClassificationArguments(train_file=[str(path)], balance_classes=balance))
    assert (f"{large}% of the training examples are 'often'" in caplog.text) == (warned and not balance)


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


def test_only_the_class_token_is_read():
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


def test_a_hidden_word_changes_nothing():
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


def test_word_dropout_of_all_words_is_an_error():
    with pytest.raises(Exception, match="word_dropout=1.0"):
        VanillaTransformerConfig(word_dropout=1.0)
    with pytest.raises(Exception, match="pair_rows=-1"):
        VanillaTransformerConfig(pair_rows=-1)


@pytest.mark.parametrize("examples", [None, 12], ids=["alone", "accumulated"])
def test_the_loss_with_r_drop_is_the_mean_of_two_passes_and_half_their_divergence(examples):
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 3), torch.tensor([0, 2, 1, 1])
    compute = classification_loss(smoothing=0.1, r_drop=3.0)
    loss = compute({"logits": logits.requires_grad_()}, labels.repeat(2), examples)
    first, second = logits.log_softmax(-1).chunk(2)
    expected = 0.0
    for p, q, label in zip(first, second, labels):
        target = 0.9 * torch.eye(3)[label] + 0.1 / 3
        expected -= (target * (p + q)).sum() / 2
        expected += 3 / 4 * ((p.exp() - q.exp()) * (p - q)).sum()
    torch.testing.assert_close(loss, expected / (examples or 4))
