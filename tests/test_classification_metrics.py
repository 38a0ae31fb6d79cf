"""The metrics of classification against scikit-learn and against counts by hand, offline."""

import evaluate
import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from transformers import EvalPrediction

from vanilla_transformer.metrics import load_metric
from vanilla_transformer.tasks.labels import classification_metrics

RANDOM = np.random.default_rng(0)
TRUTHS = RANDOM.integers(0, 4, 60)
GUESSES = np.where(RANDOM.random(60) < 0.6, TRUTHS, RANDOM.integers(0, 4, 60))
FUNCTIONS = {
    "precision": sklearn_metrics.precision_score,
    "recall": sklearn_metrics.recall_score,
    "f1": sklearn_metrics.f1_score,
}


@pytest.mark.parametrize("average", ["micro", "macro", "weighted", None])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_scores_are_scikit_learns(name, average):
    expected = FUNCTIONS[name](TRUTHS, GUESSES, average=average)
    got = load_metric(name, average=average).compute(predictions=GUESSES, references=TRUTHS)
    assert got == {name: np.asarray(expected).tolist()}
    assert load_metric(name).compute(predictions=GUESSES, references=TRUTHS, average=average) == got


def test_by_hand():
    guesses, truths = [0, 1, 1, 1, 0], [0, 1, 0, 1, 1]  # of class 1: 2 right, 1 wrongly said, 1 missed
    scores = {name: load_metric(name).compute(predictions=guesses, references=truths) for name in FUNCTIONS}
    assert scores == {name: {name: pytest.approx(2 / 3)} for name in FUNCTIONS}
    assert load_metric("accuracy").compute(predictions=guesses, references=truths) == {"accuracy": 3 / 5}
    matrix = load_metric("confusion_matrix").compute(predictions=guesses, references=truths)
    assert matrix == {"confusion_matrix": [[1, 1], [1, 2]]}
    f1 = load_metric("f1", pos_label=0).compute(predictions=guesses, references=truths)["f1"]
    assert f1 == pytest.approx(1 / 2)


def test_averages_hang_together():
    given = {"predictions": GUESSES, "references": TRUTHS}
    each = load_metric("f1", average=None).compute(**given)["f1"]
    counts = np.bincount(TRUTHS)
    assert load_metric("f1", average="macro").compute(**given)["f1"] == pytest.approx(np.mean(each))
    weighted = load_metric("f1", average="weighted").compute(**given)["f1"]
    assert weighted == pytest.approx(np.average(each, weights=counts))
    accuracy = load_metric("accuracy").compute(**given)["accuracy"]
    assert load_metric("f1", average="micro").compute(**given)["f1"] == pytest.approx(accuracy)
    matrix = np.array(load_metric("confusion_matrix").compute(**given)["confusion_matrix"])
    assert matrix.sum(1).tolist() == counts.tolist()
    assert matrix.trace() / matrix.sum() == pytest.approx(accuracy)
    recalls = load_metric("recall", average=None).compute(**given)["recall"]
    assert recalls == pytest.approx(matrix.diagonal() / matrix.sum(1))


def test_classes_that_do_not_occur_keep_their_column():
    given = {"predictions": [0, 2], "references": [0, 2]}
    assert load_metric("f1", average=None, labels=[0, 1, 2]).compute(**given)["f1"] == [1, 0, 1]
    matrix = load_metric("confusion_matrix", labels=[0, 1, 2], normalize="all").compute(**given)
    assert matrix["confusion_matrix"] == [[0.5, 0, 0], [0, 0, 0], [0, 0, 0.5]]


def test_several_classes_for_each_example():
    guesses, truths = [[0, 1, 1], [1, 0, 0], [0, 0, 0]], [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    given = {"predictions": guesses, "references": truths}
    assert load_metric("accuracy").compute(**given)["accuracy"] == 1 / 3
    assert load_metric("f1", average="micro").compute(**given)["f1"] == pytest.approx(2 / 3)
    expected = sklearn_metrics.f1_score(truths, guesses, average="samples", zero_division=0)
    assert load_metric("f1", average="samples").compute(**given)["f1"] == expected


@pytest.mark.parametrize("form", [list, np.array, torch.tensor], ids=["list", "numpy", "torch"])
def test_batches_and_kinds_of_arrays(form):
    whole = load_metric("f1", average="macro").compute(predictions=GUESSES, references=TRUTHS)
    metric = load_metric("f1", average="macro")
    for part in np.split(np.arange(60), [7, 30]):
        metric.add_batch(predictions=form(GUESSES[part].tolist()), references=form(TRUTHS[part].tolist()))
    assert metric.compute() == whole


def test_combined():
    several = evaluate.combine(
        {
            "accuracy": load_metric("accuracy"),
            "macro": load_metric("f1", average="macro"),
            "each": load_metric("f1", average=None),
            "confusion_matrix": load_metric("confusion_matrix"),
        }
    )
    several.add_batch(predictions=GUESSES[:20], references=TRUTHS[:20])
    several.add_batch(predictions=GUESSES[20:], references=TRUTHS[20:])
    got = several.compute()
    assert got["accuracy"] == (GUESSES == TRUTHS).mean()
    assert got["macro_f1"] == pytest.approx(np.mean(got["each_f1"]))
    assert got["confusion_matrix"] == sklearn_metrics.confusion_matrix(TRUTHS, GUESSES).tolist()


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: load_metric("f1", average="mean"), "average='mean' is unknown; use one of .*macro"),
        (lambda: load_metric("f1").compute(predictions=[0, 1, 2], references=[0, 1, 2]), "multiclass"),
        (lambda: load_metric("accuracy").compute(), "accuracy has nothing to score"),
        (lambda: load_metric("f1", avarage="macro"), "no option.*avarage"),
        (lambda: load_metric("f1").compute(predictions=[1], references=[1], avg="macro"), "no option.*avg"),
        (lambda: load_metric("acuracy"), "did you mean 'accuracy'"),
        (lambda: load_metric("f1").compute(predictions=[[0.3, 0.7]], references=[1]), "expected format"),
        (
            lambda: load_metric("confusion_matrix").compute(predictions=[[1, 0]], references=[[1, 0]]),
            "one class for each",
        ),
    ],
)
def test_errors_say_what_was_wrong(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        wrong()


def test_balanced_accuracy_and_the_area_under_the_curve_are_those_of_their_definitions():
    random = np.random.default_rng(0)
    truth, guesses = random.integers(0, 3, 200), random.integers(0, 4, 200)
    recalls = [(guesses[truth == label] == label).mean() for label in range(3)]
    found = load_metric("balanced_accuracy").compute(predictions=guesses, references=truth)
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))

    truth, scores = random.integers(0, 2, 200), random.normal(size=200).round(1)
    higher = np.sign(scores[truth == 1][:, None] - scores[truth == 0])
    found = load_metric("roc_auc").compute(predictions=scores, references=truth)
    assert found["roc_auc"] == pytest.approx(((higher + 1) / 2).mean())
    assert np.isnan(load_metric("roc_auc").compute(predictions=[0.5], references=[1])["roc_auc"])


def test_each_score_of_the_recipes_has_the_average_of_its_name():
    """On classes of uneven size, where no two averages are equal."""
    truths, guesses = np.array([0] * 6 + [1] * 3 + [2]), np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 2])
    given = EvalPrediction(predictions=np.eye(3)[guesses], label_ids=truths)
    scores = classification_metrics(["a", "b", "c"])(given)
    expected = {
        f"{name}_{average}": getattr(sklearn_metrics, f"{name}_score")(
            truths, guesses, average=average, zero_division=0
        )
        for name, average in (
            ("precision", "macro"),
            ("recall", "macro"),
            ("f1", "macro"),
            ("f1", "weighted"),
        )
    }
    expected["accuracy"] = 0.7
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert len({round(score, 3) for score in expected.values()}) == 5
