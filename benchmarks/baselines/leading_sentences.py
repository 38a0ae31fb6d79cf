"""Scores the ROUGE of each document's first sentences, as a baseline of summarization.

    python benchmarks/baselines/leading_sentences.py recipes/summarization/debian_synopsis.yaml
    python benchmarks/baselines/leading_sentences.py recipes/summarization/cnn_dailymail.yaml --sentences 3

Takes the YAML and flags of the recipe, and scores the same held-out splits in the same way. A sentence ends
at a full stop, an exclamation mark or a question mark before white space.
"""

import logging
import re
import sys
from dataclasses import dataclass, field

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.metrics import load_metric
from vanilla_transformer.tasks.seq2seq import DecodingArguments, Seq2SeqArguments, load_splits
from vanilla_transformer.tasks.settings import parse
from vanilla_transformer.tasks.text import StartArguments
from vanilla_transformer.training import VanillaTransformerTrainingArguments

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass
class BaselineArguments:
    """The summaries."""

    _argument_group_name = "baseline"

    sentences: int = field(default=1, metadata={"help": "number of sentences in a summary, one per line"})

    def __post_init__(self):
        if self.sentences < 1:
            raise ValueError(f"sentences={self.sentences} must be at least 1")


def leading_sentences(text: str, count: int) -> str:
    return "\n".join(SENTENCE_END.split(text.strip())[:count])


def main():
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _, data, _, baseline, _, _ = parse(
        VanillaTransformerConfig,
        Seq2SeqArguments,
        StartArguments,
        BaselineArguments,
        DecodingArguments,
        VanillaTransformerTrainingArguments,
    )
    rouge = load_metric("rouge")
    print("\n| split | ROUGE-1 | ROUGE-2 | ROUGE-L | ROUGE-Lsum |\n|---|---|---|---|---|")
    for name, rows in load_splits(data).items():
        if name != "train":
            summaries = [leading_sentences(text, baseline.sentences) for text in rows["source"]]
            scores = rouge.compute(predictions=summaries, references=list(rows["target"]))
            signature = scores.pop("signature")
            print(f"| {name} | {' | '.join(f'{100 * score:.1f}' for score in scores.values())} |")
            print(f"\n{signature}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # InputError among them
        sys.exit(f"error: {error}")
