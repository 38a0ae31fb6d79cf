"""What classification shares, be it of texts or of images: labels, the loss, the scores."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from torch.nn import functional as F

from ..losses import IGNORE_INDEX, count_items, r_drop_divergence
from .settings import InputError, nearest
from .sources import SourceArguments

logger = logging.getLogger(__name__)


@dataclass
class LabelArguments(SourceArguments):
    """What is a label, and what is made of the labels."""

    label_column: str = field(
        default="label",
        metadata={"help": "column of the label: class labels, text, whole numbers or truth values"},
    )
    validation_share: float = field(
        default=0.0,
        metadata={"help": "hold out this share of each class of train, where there is no validation split"},
    )
    balance_classes: bool = field(
        default=False, metadata={"help": "weight the loss so that every class counts alike"}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.validation_share < 1:
            raise InputError(f"validation_share={self.validation_share} is not in [0, 1)")


def class_names(rows: Dataset, column: str, where: str) -> list[str]:
    """The names of the classes, in the order of their ids.

    They are those that the data set declares, or else the values that occur: text, whole numbers or
    truth values, in their order.

    Raises:
        InputError: the column holds something else.
    """
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    names = set(_names(rows, column, where)) - {None}
    numbers = all(name.lstrip("-").isdecimal() for name in names)
    return sorted(names, key=int if numbers else None)


def class_ids(rows: Dataset, column: str, where: str, names: Sequence[str]) -> list[int]:
    """The id of each row's class among `names`, -100 where the row has no label.

    Raises:
        InputError: a label is none of `names`, which are those of the training data.
    """
    known = {name: index for index, name in enumerate(names)} | {None: IGNORE_INDEX}
    given = list(_names(rows, column, where))
    if strange := Counter(name for name in given if name not in known):
        name, count = strange.most_common(1)[0]
        others = f", and {len(strange) - 1} labels more" if len(strange) > 1 else ""
        raise InputError(
            f"{where}, row {given.index(name) + 1}: the label {name!r} ({count} rows{others}) is not in the "
            f"training data{nearest(name, names)}: it has {_listed(names)}. Add examples of it there, or "
            "leave these rows out"
        )
    return [known[name] for name in given]


def _names(rows: Dataset, column: str, where: str) -> Iterable[str | None]:
    """The labels as text; None where there is none, which class labels also say by -1."""
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        for value in rows[column]:
            yield None if value is None or value < 0 else feature.names[value]
        return
    for number, value in enumerate(rows[column], start=1):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # so a column of whole numbers is read where some are missing
        if not isinstance(value, str | int | None):
            kind = "a number for regression" if isinstance(value, float) else "no class"
            raise InputError(
                f"{where}, row {number}: label_column {column!r} holds {value!r}, {kind}: a label is text, a "
                "whole number or a truth value"
            )
        yield None if value is None else str(value).strip() or None


def check_classes(labels: Sequence[int], names: Sequence[str], where: str) -> np.ndarray:
    """Training examples of each class; warns of classes that have none.

    Raises:
        InputError: they all are of one class, so that there is nothing to learn.
    """
    counts = np.bincount(labels, minlength=len(names))
    if (counts > 0).sum() < 2:
        only = f"{names[counts.argmax()]!r} alone" if counts.any() else "no label"
        raise InputError(
            f"{where}: the {len(labels):,} training examples have {only}, and classification needs two "
            "classes or more. (max_train_samples takes the first rows; where they are sorted by class, "
            "shuffle them)"
        )
    if missing := [name for name, count in zip(names, counts) if not count]:
        logger.warning("%s: no training example of %s", where, _listed(missing))
    logger.info("classes: %s", _listed([f"{name} {count:,}" for name, count in zip(names, counts)]))
    return counts


def tell_skipped(where: str, skipped: dict[str, np.ndarray]):
    """Warns of the rows that are left out: of each reason, which rows, as truth values."""
    for why, rows in skipped.items():
        if count := int(rows.sum()):
            shown = ", ".join(str(row + 1) for row in np.flatnonzero(rows)[:5]) + ", ..." * (count > 5)
            logger.warning("%s: skipped %d of %d rows %s (rows %s)", where, count, len(rows), why, shown)


def hold_out(rows: Dataset, share: float, seed: int) -> dict[str, Dataset]:
    """`rows`, whose column `label` has class labels, as train and validation, with a share of each class.

    Raises:
        InputError: a class would have no example in one of them.
    """
    counts = np.bincount(rows["label"])
    held_out = round(share * len(rows))
    if counts[counts > 0].min() < 2 or held_out < (counts > 0).sum():
        raise InputError(f"validation_share={share} leaves no example of some class")
    parts = rows.train_test_split(held_out, seed=seed, stratify_by_column="label")
    return {"train": parts["train"], "validation": parts["test"]}


def class_weights(counts: Sequence[int]) -> list[float]:
    """Weights of the loss that make every class count alike; their mean over the examples is 1.

    Args:
        counts: training examples of each class; one that has none gets the weight 0.
    """
    counts = np.asarray(counts)
    weights = counts.sum() / ((counts > 0).sum() * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0).tolist()


def classification_loss(
    weights: Sequence[float] | None = None, smoothing: float = 0.0, r_drop: float = 0.0
) -> Callable[..., torch.Tensor]:
    """Return a `compute_loss_func` for the Trainer: smoothed cross-entropy, in nats per example.

    Labels are class ids `(batch,)`, where -100 is ignored, or shares of the classes `(batch, classes)`, as
    mixup makes them.

    Args:
        weights: factor of each class's loss, such as `class_weights` returns. The sum is divided by the
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
    """A `compute_metrics` for the Trainer: accuracy, and precision, recall and F1 as means over the classes.

    An example whose label is -100 is not counted. `class_report` tells of each class.
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
    metrics = {"accuracy": load_metric("accuracy")} | metrics

    def compute(prediction) -> dict[str, float]:
        given = _decisions(prediction.predictions, prediction.label_ids, label_names)
        return {name: metric.compute(**given)[metric.name] for name, metric in metrics.items()}

    return compute


def class_report(
    logits: np.ndarray, labels: np.ndarray, label_names: Sequence[str]
) -> dict[str, dict | list[list[int]]]:
    """Precision, recall, F1 and number of examples of each class; and how often one is taken for another.

    Args:
        logits: `(examples, classes)`.
        labels: `(examples,)`, -100 where there is none.

    Returns:
        `{"classes": {name: {"precision": …}}, "confusion_matrix": rows of the true classes}`.
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
    return {"classes": classes} | load_metric("confusion_matrix", labels=ids).compute(**given)


def decided(labels: Sequence[int], logits: np.ndarray, names: Sequence[str]) -> list[dict]:
    """Of each example, the names of its `label` and of the class `predicted`, and the `score`, from 0 to 1.

    Args:
        logits: `(examples, classes)`.
    """
    odds = np.exp(logits - logits.max(-1, keepdims=True).astype(np.float64))
    shares = odds / odds.sum(-1, keepdims=True)
    return [
        {"label": names[label], "predicted": names[share.argmax()], "score": round(float(share.max()), 4)}
        for label, share in zip(labels, shares)
    ]


def write_predictions(lines: Iterable[dict], output_dir: str):
    """predictions.jsonl, of one line for each example."""
    with open(Path(output_dir, "predictions.jsonl"), "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_class_report(report: dict, output_dir: str):
    """classes.json; on the screen the same as a table, where it is not too large for one."""
    Path(output_dir, "classes.json").write_text(
        json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    classes, width = report["classes"], max(map(len, report["classes"])) + 2
    if len(classes) > 30:
        print(f"\nThe scores of the {len(classes)} classes are in {output_dir}/classes.json")
        return
    numbers = [str(index) for index in range(1, len(classes) + 1)]
    print(f"\n{'class':{width + 4}}{'precision':>10}{'recall':>8}{'f1':>8}{'examples':>10}   taken for")
    print(" " * (width + 40) + "   " + "".join(f"{number:>6}" for number in numbers))
    for number, (name, row), taken in zip(numbers, classes.items(), report["confusion_matrix"]):
        scores = f"{row['precision']:10.3f}{row['recall']:8.3f}{row['f1']:8.3f}{row['examples']:10,}"
        print(f"{number:>3} {name:{width}}{scores}   " + "".join(f"{count:6}" for count in taken))


def _decisions(logits, labels, label_names: Sequence[str]) -> dict[str, np.ndarray]:
    """The most likely class, and the true one, of each example that has one."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    if logits.shape[-1] != len(label_names):
        raise ValueError(f"{len(label_names)} label_names, but the model has {logits.shape[-1]} outputs")
    known = labels != IGNORE_INDEX
    return {"predictions": logits.argmax(-1)[known], "references": labels[known]}


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
