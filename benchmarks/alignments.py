"""Word alignments by Shift-Att, a diagonal and IBM Model 1: the alignment error rate on 50 sentences.

    python benchmarks/alignments.py outputs/multi30k_en_de_tiny data/multi30k

The model is the recipe multi30k_en_de_tiny; the folder has train.parquet and validation.parquet. The
reference is benchmarks/data/multi30k_en_de_alignments.txt, made by hand. The model aligns the given
translations in one forced pass, by the attention of each layer where a word is the input (Shift-Att) or
predicted. `choose_attention` chooses among these with 300 training pairs. IBM Model 1 (Brown et al. 1993) is
trained on all training pairs, five rounds, with an empty word.

AER = 1 - (|A ∩ S| + |A ∩ P|) / (|A| + |S|), with sure links S and possible links P, which include S.
"""

import argparse
import re
from pathlib import Path

import numpy as np
from datasets import load_dataset
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer import choose_attention, split_words, word_alignments

GOLD = Path(__file__).parent / "data" / "multi30k_en_de_alignments.txt"


def read_gold(path: Path = GOLD) -> dict[int, tuple[set, set]]:
    """For each row of the split, its sure and its possible links."""
    gold = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            row, links = line.split(": ")
            found = re.findall(r"(\d+)([-?])(\d+)", links)
            possible = {(int(source), int(target)) for source, _, target in found}
            sure = {(int(source), int(target)) for source, kind, target in found if kind == "-"}
            gold[int(row)] = sure, possible
    return gold


def alignment_error_rate(alignments: list[set], gold: list[tuple[set, set]]) -> float:
    hits = sum(len(a & sure) + len(a & possible) for a, (sure, possible) in zip(alignments, gold))
    return 1 - hits / sum(len(a) + len(sure) for a, (sure, _) in zip(alignments, gold))


def diagonal(source: list[str], target: list[str]) -> set:
    """Links each word of the target to that at the same relative position."""
    return {((2 * i + 1) * len(source) // (2 * len(target)), i) for i in range(len(target))}


class IBMModel1:
    """t(target word | source word) by expectation maximisation; a word that is not known has no link."""

    def __init__(self, pairs: list[tuple[list[str], list[str]]], rounds: int = 5):
        self.ids: tuple[dict, dict] = ({None: 0}, {})
        coded = [
            [[ids.setdefault(word, len(ids)) for word in words] for ids, words in zip(self.ids, pair)]
            for pair in pairs
        ]
        sources = [np.array([0, *source]) for source, _ in coded]  # 0 is the empty word
        targets = [np.array(target) for _, target in coded]
        size = len(self.ids[1])
        # One entry for each pair of words in a sentence; `place` is that of the target word in the corpus.
        starts = np.cumsum([0, *map(len, targets)])
        keys = np.concatenate([(s[None] * size + t[:, None]).ravel() for s, t in zip(sources, targets)])
        place = np.concatenate(
            [np.repeat(np.arange(len(t)) + a, len(s)) for s, t, a in zip(sources, targets, starts)]
        )
        self.keys, index = np.unique(keys, return_inverse=True)
        given, self.size = self.keys // size, size
        self.table = np.ones(len(self.keys))
        for _ in range(rounds):
            weights = self.table[index]
            weights /= np.bincount(place, weights)[place]
            counts = np.bincount(index, weights)
            self.table = counts / np.bincount(given, counts)[given]

    def probability(self, source: int, target: int) -> float:
        key = source * self.size + target
        found = np.searchsorted(self.keys, key)
        return self.table[found] if found < len(self.keys) and self.keys[found] == key else 0.0

    def align(self, source: list[str], target: list[str]) -> set:
        links = set()
        for i, word in enumerate(target):
            if word in self.ids[1]:
                given = [None, *source]
                scores = [
                    self.probability(self.ids[0][w], self.ids[1][word]) if w in self.ids[0] else 0.0
                    for w in given
                ]
                if best := int(np.argmax(scores)):
                    links.add((best - 1, i))
        return links


def links(pharaoh: str) -> set:
    return {tuple(map(int, link.split("-"))) for link in pharaoh.split()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("data", type=Path, help="folder of train.parquet and validation.parquet")
    args = parser.parse_args()

    files = {split: str(args.data / f"{split}.parquet") for split in ("train", "validation")}
    rows = load_dataset("parquet", data_files=files)
    gold = read_gold()
    chosen = rows["validation"].select(list(gold))
    source, target = ([text.lower() for text in chosen[language]] for language in ("en", "de"))
    pairs = [(split_words(s), split_words(t)) for s, t in zip(source, target)]
    reference = list(gold.values())
    train = [
        (split_words(s.lower()), split_words(t.lower()))
        for s, t in zip(*(rows["train"][x] for x in ("en", "de")))
    ]
    ibm = IBMModel1(train)
    found = {
        "diagonal": [diagonal(*pair) for pair in pairs],
        "IBM Model 1": [ibm.align(*pair) for pair in pairs],
    }
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    few = rows["train"].select(range(300))
    best = choose_attention(model, tokenizer, list(few["en"]), list(few["de"]))
    for layer in range(model.config.decoder_layers):
        for shift in (True, False):
            name = f"layer {layer}, {'input (Shift-Att)' if shift else 'predicted'}"
            name += ", chosen" * (best == (layer, shift))
            aligned = word_alignments(model, tokenizer, source, target, layer, shift)
            found[name] = [links(line) for line in aligned]
    print("| method | links | AER |\n|---|---|---|")
    for name, alignments in found.items():
        rate = alignment_error_rate(alignments, reference)
        print(f"| {name} | {sum(map(len, alignments))} | {rate:.1%} |")


if __name__ == "__main__":
    main()
