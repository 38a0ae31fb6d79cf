"""Compares the speed of this package's beam search with transformers' own, in alternating rounds.

    python benchmarks/decoding_speed.py outputs/quickstart --sentences 128 --rounds 3

Both use the same model, any translation model of a recipe, and the same sentences: the first of the shipped
test split, or the lines of --file. Ours uses the length penalty of Wu et al. 2016 and ends a sentence when no
open hypothesis can win. transformers divides by length^α. Its early_stopping="never" is equally strict about
the end; False, its default, is a heuristic. Prints sentences per second, and the median ratio of neighbouring
rounds. On a shared machine only the ratio is reliable.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import vanilla_transformer  # noqa: F401 - registers the model
from vanilla_transformer.corpora import load_corpus

SEARCHES = {
    "ours": {},
    "transformers": {"length_penalty_type": None, "early_stopping": False},
    "transformers, never early": {"length_penalty_type": None, "early_stopping": "never"},
}


@torch.no_grad()
def decode(model, batches, **search) -> float:
    """Return the seconds to decode all batches."""
    began = time.perf_counter()
    for batch in batches:
        model.generate(**batch, **search)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a translation model")
    parser.add_argument("--file", help="sentences to translate, one per line")
    parser.add_argument("--sentences", type=int, default=128, help="number of sentences (default: 128)")
    parser.add_argument("--batch", type=int, default=32, help="sentences per batch (default: 32)")
    parser.add_argument("--beams", type=int, default=4, help="beams of the search (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each search (default: 3)")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForSeq2SeqLM.from_pretrained(options.model).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    texts = (
        Path(options.file).read_text(encoding="utf-8").splitlines()
        if options.file
        else load_corpus("bible_en_es")["test"]["en"]
    )
    texts = sorted(texts[: options.sentences], key=len)  # sentences of similar length share a batch
    batches = [
        tokenizer(texts[start : start + options.batch], padding=True, return_tensors="pt").to(device)
        for start in range(0, len(texts), options.batch)
    ]
    seconds = {name: [] for name in SEARCHES}
    for _ in range(options.rounds):
        for name, search in SEARCHES.items():
            seconds[name].append(decode(model, batches, num_beams=options.beams, **search))
    for name, taken in seconds.items():
        ratio = statistics.median(other / ours for ours, other in zip(seconds["ours"], taken))
        speed = len(texts) / statistics.median(taken)
        print(f"{name:26} {speed:8.1f} sentences per second, {ratio:.2f} times the time of ours")


if __name__ == "__main__":
    main()
