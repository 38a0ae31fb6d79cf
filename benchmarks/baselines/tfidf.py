"""Scores logistic regression on TF-IDF of words and pairs of words, as a baseline of classification.

    python benchmarks/baselines/tfidf.py recipes/text_classification/rotten_tomatoes.yaml

Takes the YAML and flags of the recipe. Chooses the strength of the regularisation on validation, then scores
the test split once, if there is one.
"""

import json
import logging
import sys
import time
from dataclasses import dataclass, field

from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.tasks.settings import parse
from vanilla_transformer.tasks.text import StartArguments
from vanilla_transformer.tasks.text_classification import TextClassificationArguments, load_splits
from vanilla_transformer.training import VanillaTransformerTrainingArguments


@dataclass
class BaselineArguments:
    """The linear model."""

    _argument_group_name = "baseline"

    longest_phrase: int = field(default=2, metadata={"help": "words in the longest phrase to count"})
    min_rows: int = field(default=2, metadata={"help": "ignore phrases that occur in fewer rows"})
    strengths: list[float] = field(
        default_factory=lambda: [0.3, 1, 3, 10, 30],
        metadata={"help": "inverse strengths of the regularisation (C) to try"},
    )


def main():
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _, data, _, baseline, args = parse(
        VanillaTransformerConfig,
        TextClassificationArguments,
        StartArguments,
        BaselineArguments,
        VanillaTransformerTrainingArguments,
    )
    splits = load_splits(data, seed=args.seed)
    if "validation" not in splits:
        raise ValueError("a validation split is missing: set validation_file or validation_share")
    began = time.perf_counter()
    phrases = TfidfVectorizer(
        ngram_range=(1, baseline.longest_phrase), sublinear_tf=True, min_df=baseline.min_rows
    )
    features = {"train": phrases.fit_transform(texts(splits["train"], data))}
    features |= {
        name: phrases.transform(texts(rows, data)) for name, rows in splits.items() if name != "train"
    }
    best, chosen = 0.0, None
    for strength in baseline.strengths:
        model = LogisticRegression(
            C=strength, max_iter=1000, class_weight="balanced" if data.balance_classes else None
        ).fit(features["train"], splits["train"]["label"])
        accuracy = accuracy_score(splits["validation"]["label"], model.predict(features["validation"]))
        print(f"C={strength:<6g} validation accuracy {accuracy:.4f}", file=sys.stderr)
        if accuracy > best:
            best, chosen = accuracy, model
    results = {"data": data.described(), "train_examples": len(splits["train"]), "C": chosen.C}
    results["features"] = features["train"].shape[1]
    for name in features.keys() - {"train"}:
        guesses, labels = chosen.predict(features[name]), splits[name]["label"]
        results[f"{name}_accuracy"] = accuracy_score(labels, guesses)
        results[f"{name}_f1_macro"] = f1_score(labels, guesses, average="macro")
    results["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(results, indent=2))


def texts(rows: Dataset, data: TextClassificationArguments) -> list[str]:
    return [" ".join(row) for row in zip(*(rows[column] for column in data.text_column))]


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
