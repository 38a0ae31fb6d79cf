"""Precision, recall and F1 of named entities, computed by seqeval."""

import warnings
from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features, List, Value
from seqeval.metrics import accuracy_score, classification_report

from .offline import OfflineMetric

TAGS = List(Value("string"))


class SeqEval(OfflineMetric):
    """seqeval's scores of named entities: one is right if its type, its first and its last word are.

    Predictions and references are lists of tags for each sentence: `O`, or a prefix and a type (`B-PER`).
    `compute` returns precision, recall, f1 and number of each type. `overall_precision`, `overall_recall` and
    `overall_f1` count all entities together, and `overall_accuracy` counts tags. These are the keys of
    `evaluate`'s own module. As in CoNLL's program conlleval, an I- without a B- begins an entity.
    """

    name = "seqeval"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="Hiroki Nakayama, seqeval: A Python framework for sequence labeling evaluation, 2018",
            inputs_description="predictions, references: a list of tags for each sentence",
            features=Features({"predictions": TAGS, "references": TAGS}),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(
        self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
    ) -> dict[str, Any]:
        for index, (predicted, true) in enumerate(zip(predictions, references)):
            if len(predicted) != len(true):
                raise ValueError(
                    f"sentence {index} has {len(predicted)} predictions but {len(true)} references"
                )
        if not any(map(len, references)):
            raise ValueError("seqeval has nothing to score: no sentence has a word")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's and seqeval's, where there is no entity
            report = classification_report(references, predictions, output_dict=True, zero_division=0)
        rows = {kind: _row(row) for kind, row in report.items()}
        overall = rows["micro avg"]
        scores: dict[str, Any] = {kind: row for kind, row in rows.items() if not kind.endswith(" avg")}
        scores |= {f"overall_{name}": overall[name] for name in ("precision", "recall", "f1")}
        return scores | {"overall_accuracy": float(accuracy_score(references, predictions))}


def _row(row: dict[str, Any]) -> dict[str, float | int]:
    """Return a row of seqeval's report with `evaluate`'s keys and numbers of Python."""
    names = {"precision": "precision", "recall": "recall", "f1-score": "f1"}
    scores: dict[str, float | int] = {ours: float(row[theirs]) for theirs, ours in names.items()}
    return scores | {"number": int(row["support"])}
