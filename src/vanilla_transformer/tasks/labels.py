"""Classification of texts and of images: labels, the loss, the scores."""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from torch.nn import functional as F
from transformers import EvalPrediction

from ..losses import IGNORE_INDEX, count_items, r_drop_divergence
from .settings import InputError, nearest
from .sources import SourceArguments

logger = logging.getLogger(__name__)

LARGE_SHARE = 0.8  # of one class in the training examples, above which accuracy says little
MATRIX_ROWS = "true class, in the order of classes"  # of the confusion matrix
MATRIX_COLUMNS = "predicted class, in the order of classes"


@dataclass
class LabelArguments(SourceArguments):
    """The column of the labels, and how training uses them."""

    label_column: str = field(
        default="label",
        metadata={"help": "column of the label: class labels, text, whole numbers or booleans"},
    )
    validation_share: float = field(
        default=0.0,
        metadata={"help": "share of each class to hold out from train, if there is no validation split"},
    )
    balance_classes: bool = field(
        default=False, metadata={"help": "weight the loss so that every class counts the same"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.validation_share < 1:
            raise InputError(f"validation_share={self.validation_share} is not in [0, 1)")


def class_names(rows: Dataset, column: str, where: str) -> list[str]:
    """Return the names of the classes in the order of their ids.

    These are the names that the data set declares, or the sorted values: text, whole numbers or booleans.

    Raises:
        InputError: the column holds something else.
    """
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    names = {name for name in _names(rows, column, where) if name is not None}
    numbers = all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
    # The text decides between 7 and 07, so that all processes have the same order.
    return sorted(names, key=lambda name: (int(name), name)) if numbers else sorted(names)


def class_ids(rows: Dataset, column: str, where: str, names: Sequence[str]) -> list[int]:
    """Return the id of each row's class among `names`, -100 for a row without a label.

    Raises:
        InputError: a label is not among `names`, the classes of the training data.
    """
    known: dict[str | None, int] = {name: index for index, name in enumerate(names)}
    known[None] = IGNORE_INDEX
    given = list(_names(rows, column, where))
    if strange := Counter(name for name in given if name not in known):
        name, count = strange.most_common(1)[0]
        others = f", and {len(strange) - 1} more labels" if len(strange) > 1 else ""
        raise InputError(
            f"{where}, row {given.index(name) + 1}: the label {name!r} ({count} rows{others}) is not in the "
            f"training data{nearest(str(name), names)}: it has {_listed(names)}. Add examples of it, or "
            "remove these rows"
        )
    return [known[name] for name in given]


def _names(rows: Dataset, column: str, where: str) -> Iterable[str | None]:
    """Yield the labels as text, and None for a missing label or a class label of -1."""
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        for value in rows[column]:
            yield None if value is None or value < 0 else feature.names[value]
        return
    for number, value in enumerate(rows[column], start=1):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # a column of whole numbers is one of floats if some are missing
        if not isinstance(value, str | int | None):
            kind = "a number for regression" if isinstance(value, float) else "no class"
            raise InputError(
                f"{where}, row {number}: label_column {column!r} holds {value!r}, {kind}: a label is text, a "
                "whole number or a boolean"
            )
        yield None if value is None else str(value).strip() or None


def check_classes(
    labels: Sequence[int] | np.ndarray, names: Sequence[str], where: str, balanced: bool = False
) -> np.ndarray:
    """Return the number of training examples of each class, and warn about classes without examples.

    It also warns if most examples are of one class, unless the loss is `balanced`.

    Raises:
        InputError: all examples have the same class.
    """
    counts = np.bincount(labels, minlength=len(names))
    if (counts > 0).sum() < 2:
        only = f"only the label {names[int(counts.argmax())]!r}" if counts.any() else "no label"
        raise InputError(
            f"{where}: the {len(labels):,} training examples have {only}, and classification needs two "
            "or more classes. (max_train_samples takes the first rows: if the rows are sorted by class, "
            "shuffle them)"
        )
    if missing := [name for name, count in zip(names, counts) if not count]:
        logger.warning("%s: no training example of %s", where, _listed(missing))
    share, largest = counts.max() / counts.sum(), names[int(counts.argmax())]
    if share > LARGE_SHARE and not balanced:
        logger.warning(
            "%s: %.0f%% of the training examples are %r, so always predicting it has that accuracy; look at "
            "balanced_accuracy, or set balance_classes to true",
            where,
            100 * share,
            largest,
        )
    logger.info("classes: %s", _listed([f"{name} {count:,}" for name, count in zip(names, counts)]))
    return counts


def warn_skipped(where: str, skipped: Mapping[str, np.ndarray]) -> None:
    """Log the skipped rows. `skipped` has a boolean array (rows,) for each reason."""
    for why, rows in skipped.items():
        if count := int(rows.sum()):
            shown = ", ".join(str(row + 1) for row in np.flatnonzero(rows)[:5]) + ", ..." * (count > 5)
            logger.warning("%s: skipped %d of %d rows %s (rows %s)", where, count, len(rows), why, shown)


def hold_out(rows: Dataset, share: float, seed: int) -> dict[str, Dataset]:
    """Split rows with class labels in `label` into train and validation, with the same share of each class.

    Raises:
        InputError: a class would have no example in one of them.
    """
    counts = np.bincount(rows["label"])
    held_out = round(share * len(rows))
    if counts[counts > 0].min() < 2 or held_out < (counts > 0).sum():
        rare = rows.features["label"].names[int(np.where(counts > 0, counts, counts.max()).argmin())]
        raise InputError(
            f"validation_share={share} of {len(rows)} leaves no example of some class on one side (the "
            f"rarest, {rare!r}, has {counts[counts > 0].min()}): raise it, or give a validation file"
        )
    parts = rows.train_test_split(held_out, seed=seed, stratify_by_column="label")
    return {"train": parts["train"], "validation": parts["test"]}


def class_weights(counts: Sequence[int]) -> list[float]:
    """Return weights of the loss with which every class counts the same; their mean over the examples is 1.

    Args:
        counts: training examples of each class; a class without examples gets the weight 0.
    """
    examples = np.asarray(counts)
    weights = examples.sum() / ((examples > 0).sum() * np.maximum(examples, 1))
    return np.where(examples > 0, weights, 0.0).tolist()


def classification_loss(
    weights: Sequence[float] | None = None, smoothing: float = 0.0, r_drop: float = 0.0
) -> Callable[..., torch.Tensor]:
    """Return a `compute_loss_func` for the Trainer: smoothed cross-entropy, in nats per example.

    Labels are class ids `(batch,)`, where -100 is ignored, or class probabilities `(batch, classes)`,
    which mixup produces.

    Args:
        weights: the weight of each class's loss, such as `class_weights` returns. The sum is divided by the
            number of examples, so accumulated batches add up to the large one.
        smoothing: ε of the target (1 - ε) · label + ε / classes (section 5.4).
        r_drop: α of R-Drop; the Trainer then passes each training batch twice.
    """
    factors = None if weights is None else torch.tensor(weights, dtype=torch.float32)

    def loss(
        outputs: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        logits = outputs["logits"].float()  # (batch, classes)
        shares = labels.shape[1] if labels.ndim > 1 else 1  # the Trainer counts every share as an item
        doubled = r_drop > 0 and torch.is_grad_enabled()
        total = F.cross_entropy(
            logits,
            labels,
            weight=None if factors is None else factors.to(logits.device),
            ignore_index=IGNORE_INDEX,
            label_smoothing=smoothing,
            reduction="sum",
        )
        mean = total * shares / count_items(labels, num_items_in_batch, doubled)
        if doubled:
            mean = mean + r_drop * r_drop_divergence(logits, labels, num_items_in_batch)
        return mean

    return loss


def classification_metrics(label_names: Sequence[str]) -> Callable[..., dict[str, float]]:
    """Return a `compute_metrics` for the Trainer: accuracy, and precision, recall and F1 over the classes.

    Balanced accuracy counts every class the same. Two classes have the area under the ROC curve of the
    second class too, if both occur. It ignores examples with the label -100, and warns if one class is
    predicted for everything. `class_report` scores each class.
    """
    from ..metrics import load_metric

    metrics = {
        f"{name}_{average}": load_metric(name, average=average)
        for average, name in (
            ("macro", "precision"),
            ("macro", "recall"),
            ("macro", "f1"),
            ("weighted", "f1"),
        )
    }
    metrics = {name: load_metric(name) for name in ("accuracy", "balanced_accuracy")} | metrics
    roc_auc = load_metric("roc_auc") if len(label_names) == 2 else None

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        given = _decisions(prediction.predictions, prediction.label_ids, label_names)
        if not len(given["references"]):
            return {}
        scores = {name: metric.compute(**given)[metric.name] for name, metric in metrics.items()}
        warn_one_class(given["predictions"], given["references"], label_names)
        if roc_auc is not None and len(np.unique(given["references"])) == 2:
            margins = _margins(prediction.predictions, prediction.label_ids)
            scores |= roc_auc.compute(predictions=margins, references=given["references"])
        return scores

    return compute


def warn_one_class(predictions: np.ndarray, references: np.ndarray, names: Sequence[str]) -> None:
    """Warn if every example is predicted to be of one class, and the examples are of several."""
    if len(np.unique(predictions)) == 1 and len(np.unique(references)) > 1:
        counts = np.bincount(references, minlength=len(names))
        logger.warning(
            "the model predicts %r for all %d examples, of which %.0f%% are %r; train longer, check the "
            "learning rate, or set balance_classes if the classes differ in size",
            names[predictions[0]],
            len(predictions),
            100 * counts.max() / counts.sum(),
            names[int(counts.argmax())],
        )


def class_report(
    logits: np.ndarray, labels: np.ndarray, label_names: Sequence[str]
) -> dict[str, dict | list[list[int]]]:
    """Return precision, recall, F1 and number of examples of each class, and the confusion matrix.

    Args:
        logits: `(examples, classes)`.
        labels: `(examples,)`; -100 is ignored.

    Returns:
        `{"classes": {name: {"precision": …}}, "confusion_matrix": rows of the true classes}`, and what the
        rows and columns of the matrix are.
    """
    from ..metrics import load_metric

    given, ids = _decisions(logits, labels, label_names), list(range(len(label_names)))
    columns = {
        name: load_metric(name, average=None, labels=ids).compute(**given)[name]
        for name in ("precision", "recall", "f1")
    }
    columns["examples"] = np.bincount(given["references"], minlength=len(ids)).tolist()
    classes = {
        name: {key: column[id] for key, column in columns.items()} for id, name in enumerate(label_names)
    }
    matrix = load_metric("confusion_matrix", labels=ids).compute(**given)
    return {"classes": classes, "rows": MATRIX_ROWS, "columns": MATRIX_COLUMNS} | matrix


def predicted_labels(labels: Sequence[int], logits: np.ndarray, names: Sequence[str]) -> list[dict]:
    """Return the name of the `label`, the class `predicted` and its `score` (0 to 1) for each example.

    Args:
        logits: `(examples, classes)`.
    """
    odds = np.exp(logits - logits.max(-1, keepdims=True).astype(np.float64))
    shares = odds / odds.sum(-1, keepdims=True)
    return [
        {"label": names[label], "predicted": names[share.argmax()], "score": round(float(share.max()), 4)}
        for label, share in zip(labels, shares)
    ]


def write_predictions(lines: Iterable[dict], output_dir: str) -> None:
    """Write predictions.jsonl, one line for each example."""
    with open(Path(output_dir, "predictions.jsonl"), "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_class_report(report: dict, output_dir: str | Path) -> None:
    """Write classes.json, and print it as a table if it has at most 30 classes."""
    Path(output_dir, "classes.json").write_text(
        json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    classes, width = report["classes"], max(map(len, report["classes"])) + 2
    if len(classes) > 30:
        print(f"\nThe scores of the {len(classes)} classes are in {output_dir}/classes.json")
        return
    numbers = [str(index) for index in range(1, len(classes) + 1)]
    print(f"\n{'class':{width + 4}}{'precision':>10}{'recall':>8}{'f1':>8}{'examples':>10}   predicted as")
    print(" " * (width + 40) + "   " + "".join(f"{number:>6}" for number in numbers))
    for number, (name, row), taken in zip(numbers, classes.items(), report["confusion_matrix"]):
        scores = f"{row['precision']:10.3f}{row['recall']:8.3f}{row['f1']:8.3f}{row['examples']:10,}"
        print(f"{number:>3} {name:{width}}{scores}   " + "".join(f"{count:6}" for count in taken))


def _decisions(logits: Any, labels: Any, label_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the most likely and the true class of each example that has a label."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    if logits.shape[-1] != len(label_names):
        raise ValueError(f"{len(label_names)} label_names, but the model has {logits.shape[-1]} outputs")
    known = labels != IGNORE_INDEX
    return {"predictions": logits.argmax(-1)[known], "references": labels[known]}


def _margins(logits: Any, labels: Any) -> np.ndarray:
    """Return by how much the second of two classes is more likely, as a difference of logits."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return (logits[:, 1].astype(np.float64) - logits[:, 0])[labels != IGNORE_INDEX]


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
