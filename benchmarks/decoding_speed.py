"""Beam search of this package beside transformers' own, with the same model and sentences, A B A B.

    python benchmarks/decoding_speed.py outputs/quickstart --sentences 128 --rounds 3

The model is any translator that a recipe trained; the sentences are the first of the shipped test split
unless --file names others, one a line. Ours searches with the length penalty of Wu et al. 2016 and ends a
sentence when no open hypothesis can win; transformers divides by length^α, and is as strict about the end
with early_stopping="never", while False is its usual heuristic. Prints sentences per second and the median
ratio of neighbouring rounds: only the ratio means anything on a machine that others use too.
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
    """Seconds that the whole takes."""
    began = time.perf_counter()
    for batch in batches:
        model.generate(**batch, **search)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a trained translator")
    parser.add_argument("--file", help="sentences to translate, one a line")
    parser.add_argument("--sentences", type=int, default=128, help="how many (default: 128)")
    parser.add_argument("--batch", type=int, default=32, help="sentences in a batch (default: 32)")
    parser.add_argument("--beams", type=int, default=4, help="hypotheses kept (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured (default: 3)")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForSeq2SeqLM.from_pretrained(options.model).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    texts = (
        Path(options.file).read_text(encoding="utf-8").splitlines()
        if options.file
        else load_corpus("bible_en_es")["test"]["en"]
    )
    texts = sorted(texts[: options.sentences], key=len)  # like with like, as a pipeline would
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
