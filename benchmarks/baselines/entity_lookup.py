"""Scores a look-up of the training entities, as a baseline of named entities.

    python benchmarks/baselines/entity_lookup.py recipes/token_classification/quickstart.yaml

Takes the YAML and flags of the recipe. The longest text that was an entity in training is one, with the type
that it had most often.
"""

import json
from collections import Counter, defaultdict

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.tasks.entities import entity_scores, entity_texts, spans, tags_of
from vanilla_transformer.tasks.settings import parse
from vanilla_transformer.tasks.text import StartArguments
from vanilla_transformer.tasks.token_classification import TokenClassificationArguments, load_splits
from vanilla_transformer.training import VanillaTransformerTrainingArguments


def main():
    _, data, _, _ = parse(
        VanillaTransformerConfig,
        TokenClassificationArguments,
        StartArguments,
        VanillaTransformerTrainingArguments,
    )
    splits = load_splits(data)
    train, seen = splits["train"], entity_texts(splits["train"])
    counts = defaultdict(Counter)
    for words, tags in zip(train["words"], tags_of(train)):
        for kind, start, end in spans(tags):
            counts[tuple(words[start:end])][kind] += 1
    table = {text: kinds.most_common(1)[0][0] for text, kinds in counts.items()}
    results = {"data": data.described(), "train_examples": len(train)}
    for name in [name for name in ("validation", "test") if name in splits]:
        predicted = [look_up(words, table) for words in splits[name]["words"]]
        scores = entity_scores(predicted, tags_of(splits[name]), splits[name]["words"], seen)
        results |= {f"{name}_{key}": round(value, 4) for key, value in scores.items()}
    print(json.dumps(results, indent=2))


def look_up(words, table):
    """Return the IOB2 tag of each word: from left to right, the longest entity of the table."""
    tags, longest = [], max(map(len, table))
    while len(tags) < len(words):
        rest = words[len(tags) :]
        sizes = range(min(longest, len(rest)), 0, -1)
        size = next((size for size in sizes if tuple(rest[:size]) in table), 0)
        kind = table.get(tuple(rest[:size]))
        tags += [f"B-{kind}", *[f"I-{kind}"] * (size - 1)] if size else ["O"]
    return tags


if __name__ == "__main__":
    main()
