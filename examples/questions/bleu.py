"""Question 5: what does BLEU measure, and what does it miss?

    python examples/questions/bleu.py

First, the Spanish sentences of the shipped Bible are damaged more and more, and BLEU and chrF compare them
with the whole ones. Then a few cases in which a person can see that BLEU is wrong.
"""

import argparse
import random
import time
from collections.abc import Callable

import study
from sacrebleu.metrics import BLEU, CHRF

from vanilla_transformer import load_corpus

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
# a reference, a translation of it, and what a person says
CASES = (
    ("The medicine is not safe for small children.", "The medicine is safe for small children.", "dangerous"),
    ("The train leaves at 8:15 from platform 9.", "The train leaves at 8:50 from platform 9.", "wrong"),
    ("The dog bit the man in the park.", "The man bit the dog in the park.", "wrong"),
    ("He died yesterday evening.", "Last night he passed away.", "right"),
    ("The committee approved the plan at once.", "The plan was immediately approved by the board.", "right"),
    ("The colour of the twelve grey lorries faded.", "The color of the 12 gray trucks faded.", "right"),
    (
        "She organised the children's birthday parties.",
        "She organises the child's birthday party.",
        "nearly right",
    ),
    ("We will meet in the morning.", "we will meet in the morning", "right"),
)


def words_replaced(words: list[str], share: float, others: list[str], generator: random.Random) -> list[str]:
    return [generator.choice(others) if generator.random() < share else word for word in words]


def words_left_out(words: list[str], share: float, others: list[str], generator: random.Random) -> list[str]:
    return [word for word in words if generator.random() >= share]


def neighbours_swapped(
    words: list[str], share: float, others: list[str], generator: random.Random
) -> list[str]:
    words = list(words)
    for place in range(len(words) - 1):
        if generator.random() < share / 2:  # each swap moves two words
            words[place], words[place + 1] = words[place + 1], words[place]
    return words


def endings_changed(words: list[str], share: float, others: list[str], generator: random.Random) -> list[str]:
    """The last letter of a word becomes another vowel: a wrong gender, number or person in Spanish."""
    return [word[:-1] + generator.choice("aeo") if generator.random() < share else word for word in words]


DAMAGES: dict[str, Callable] = {
    "words replaced": words_replaced,
    "words left out": words_left_out,
    "neighbours swapped": neighbours_swapped,
    "endings changed": endings_changed,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the damages (default: %(default)s)")
    study.add_output_options(parser)
    options = parser.parse_args()
    started = time.monotonic()

    references = load_corpus("bible_en_es")["test"]["es"]
    others = [word for sentence in references for word in sentence.split()]
    figure, axes = study.new_axes(2)
    rows = []
    for index, (name, damage) in enumerate(DAMAGES.items()):
        scores = []
        for share in SHARES:
            generator = random.Random(options.seed)
            damaged = [" ".join(damage(line.split(), share, others, generator)) for line in references]
            scores.append([metric.corpus_score(damaged, [references]).score for metric in (BLEU(), CHRF())])
        for axis, column in zip(axes, zip(*scores)):
            axis.plot([100 * share for share in SHARES], column, label=name, **study.style(index))
        rows.append([name, *[f"{bleu:.0f} / {chrf:.0f}" for bleu, chrf in scores]])
    for axis, metric in zip(axes, ("BLEU", "chrF")):
        axis.set(title=metric, xlabel="% of the words damaged", ylabel=metric, ylim=(0, 103))
    axes[0].legend(frameon=False)
    damages = study.table(["BLEU / chrF", *[f"{100 * share:.0f}%" for share in SHARES]], rows)

    bleu, chrf = BLEU(effective_order=True), CHRF()
    cases = study.table(
        ["reference", "translation", "a person", "BLEU", "chrF"],
        [
            [
                reference,
                translation,
                verdict,
                f"{bleu.sentence_score(translation, [reference]).score:.0f}",
                f"{chrf.sentence_score(translation, [reference]).score:.0f}",
            ]
            for reference, translation, verdict in CASES
        ],
    )
    study.show("bleu", f"{damages}\n\n{cases}", figure, options, started)


if __name__ == "__main__":
    main()
