"""Tags of named entities: one scheme for all, and the scores of entities.

A tag is `O`, or a prefix and a type such as `B-PER`. In IOB2 each entity begins with B-, and I- continues it.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from ..losses import IGNORE_INDEX
from .labels import write_predictions
from .settings import InputError

logger = logging.getLogger(__name__)

OUTSIDE = "O"
TAG = re.compile(r"[BIESLU]-.+")  # the prefixes of IOB1, IOB2, BIOES and BILOU
BEGINS, ENDS = "BSU", "ESLU"  # prefixes that only the first word of an entity has, or only the last

Tags = list[list[str]]  # of the words of each sentence
Span = tuple[str, int, int]  # type, first word, one past the last word


def checked_tags(words: Sequence[Sequence[str]], tags: Tags, where: str) -> Tags:
    """Return the tags in IOB2, and log what else they were.

    Raises:
        InputError: a sentence does not have one tag for each word, or a tag is neither O nor a prefix and a
            type.
    """
    for number, (sentence, its_tags) in enumerate(zip(words, tags), start=1):
        if len(sentence) != len(its_tags):
            raise InputError(f"{where}, row {number}: {len(sentence)} words, but {len(its_tags)} tags")
        for word, tag in zip(sentence, its_tags):
            if tag != OUTSIDE and not TAG.fullmatch(tag):
                raise InputError(
                    f"{where}, row {number}: the tag {tag!r} of {word!r} is neither {OUTSIDE} nor a prefix "
                    "(B-, I-, E-, S-, L- or U-) and the type of an entity, such as B-PER"
                )
    converted = [iob2(sentence) for sentence in tags]
    pairs = [pair for one, other in zip(tags, converted) for pair in zip(one, other)]
    if changed := sum(before != after for before, after in pairs):
        found = ", ".join(sorted({f"{before[0]}-" for before, _ in pairs if before != OUTSIDE}))
        scheme = "BIOES or BILOU" if set(found) & set("ESLU") else "IOB1"
        logger.warning(
            "%s: the tags have the prefixes %s, as in %s: changed %d of %d tags to IOB2",
            *(where, found, scheme, changed, len(pairs)),
        )
    return converted


def iob2(tags: Sequence[str]) -> list[str]:
    """Return the tags of a sentence in IOB2; they may be in IOB1, IOB2, BIOES or BILOU.

    An entity begins at B-, S- or U-, after the end of another entity, or where the type changes.
    """
    converted, before = [], OUTSIDE
    for tag in tags:
        begins = tag[0] in BEGINS or before == OUTSIDE or before[0] in ENDS or before[2:] != tag[2:]
        converted.append(OUTSIDE if tag == OUTSIDE else f"{'B' if begins else 'I'}-{tag[2:]}")
        before = tag
    return converted


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the entities of a sentence. As in conlleval, an I- without a B- begins an entity."""
    found: list[Span] = []
    for index, tag in enumerate(iob2(tags)):
        if tag[0] == "B":
            found.append((tag[2:], index, index + 1))
        elif tag[0] == "I":
            found[-1] = (*found[-1][:2], index + 1)
    return found


def tag_names(split: Dataset) -> list[str]:
    return split.features["tags"].feature.names


def tags_of(split: Dataset) -> Tags:
    """Return the tags of each sentence as text."""
    names = tag_names(split)
    return [[names[tag] for tag in tags] for tags in split["tags"]]


def entity_texts(split: Dataset) -> set[str]:
    """Return the texts of all entities, words with spaces between them."""
    return {
        " ".join(words[start:end])
        for words, tags in zip(split["words"], tags_of(split))
        for _, start, end in spans(tags)
    }


# Scores


def entity_metrics(
    names: Sequence[str], split: Dataset | None = None, seen: set[str] | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return a `compute_metrics` for the Trainer: precision, recall and F1 of entities, and F1 of each type.

    Args:
        names: the tags, in the order of their ids.
        split: a held-out split of `encode_splits`, to score all its words; one that was cut off counts as O.
            Without it, only words that have a token are scored.
        seen: the texts of the training entities. `f1_seen` is the F1 of entities with these texts, and
            `f1_unseen` that of the others. Needs `split`.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits: Any = prediction.predictions
        ids = (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)
        labels = np.asarray(prediction.label_ids)
        if split is None:
            predicted, truth = (
                [[names[id] for id in row[kept]] for row, kept in zip(side, labels != IGNORE_INDEX)]
                for side in (ids, labels)
            )
        else:
            predicted, truth = predicted_tags(split, ids, labels), tags_of(split)
        words = None if split is None or seen is None else split["words"]
        return entity_scores(predicted, truth, words, seen)

    return compute


def entity_scores(
    predicted: Tags,
    truth: Tags,
    words: Sequence[Sequence[str]] | None = None,
    seen: set[str] | None = None,
) -> dict[str, float]:
    """Return precision, recall and F1 of all entities, and F1 of each type.

    Args:
        words, seen: the words of each sentence, and the texts of the training entities, for `f1_seen` and
            `f1_unseen`.
    """
    from ..metrics import load_metric

    report = load_metric("seqeval").compute(predictions=predicted, references=truth)
    scores = {name: report.pop(f"overall_{name}") for name in ("precision", "recall", "f1")}
    del report["overall_accuracy"]  # the Trainer's token_accuracy
    if words is not None and seen is not None:
        scores |= _f1_by_text(words, predicted, truth, seen)
    return scores | {f"f1_{kind}": row["f1"] for kind, row in report.items()}


def predicted_tags(split: Dataset, ids: np.ndarray, labels: np.ndarray) -> Tags:
    """Return the predicted tag of every word, O for a word without a token.

    Args:
        split: a held-out split of `encode_splits`.
        ids: the most likely class of each token, `(rows of split, length)`.
        labels: of the same shape, -100 except at the first token of a word.
    """
    names = tag_names(split)
    predicted = [[OUTSIDE] * len(words) for words in split["words"]]
    for tags, placed, row, kept in zip(predicted, split["placed"], ids, labels != IGNORE_INDEX):
        for word, id in zip(placed, row[kept]):
            tags[word] = names[id]
    return predicted


def _f1_by_text(
    words: Sequence[Sequence[str]], predicted: Tags, truth: Tags, seen: set[str]
) -> dict[str, float]:
    """Return `f1_seen` and `f1_unseen`, or one of them if the references have no entity of the other kind."""
    counts: dict[str, Counter[str]] = {"f1_seen": Counter(), "f1_unseen": Counter()}
    for sentence, *both in zip(words, predicted, truth):
        guessed, right = map(set, map(spans, both))
        for side, found in (("guessed", guessed), ("true", right), ("right", guessed & right)):
            for _, start, end in found:
                known = " ".join(sentence[start:end]) in seen
                counts["f1_seen" if known else "f1_unseen"][side] += 1
    return {
        name: 2 * count["right"] / (count["guessed"] + count["true"])
        for name, count in counts.items()
        if count["true"]
    }


def report_entities(split: Dataset, logits: np.ndarray, labels: np.ndarray, output_dir: str) -> None:
    """Write predictions.jsonl in the order of the data and entities.json, and print the scores of each type.

    Args:
        split: a held-out split of `encode_splits`.
        logits: `(rows of split, length, classes)`.
        labels: `(rows of split, length)`, -100 except at the first token of a word.
    """
    from ..metrics import load_metric

    predicted, truth = predicted_tags(split, logits.argmax(-1), labels), tags_of(split)
    lines = [
        {"words": words, "labels": true, "predicted": guessed}
        for words, true, guessed in zip(split["words"], truth, predicted)
    ]
    write_predictions((lines[index] for index in np.argsort(split["row"])), output_dir)
    report = load_metric("seqeval").compute(predictions=predicted, references=truth)
    types = {kind: row for kind, row in report.items() if isinstance(row, dict)}
    text = json.dumps(types, indent=2, ensure_ascii=False)
    Path(output_dir, "entities.json").write_text(text + "\n", encoding="utf-8")
    width = max(map(len, types), default=0) + 2
    print(f"\n{'type':{width}}{'precision':>10}{'recall':>8}{'f1':>8}{'entities':>10}")
    for kind, row in types.items():
        scores = f"{row['precision']:10.3f}{row['recall']:8.3f}{row['f1']:8.3f}{row['number']:10,}"
        print(f"{kind:{width}}{scores}")
