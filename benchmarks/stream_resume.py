"""Measure how long a stream of text pairs takes to resume near its end, against reading it from the start.

    python benchmarks/stream_resume.py --pairs 1000000

Both ways give the same next batch. The pairs are generated: 5 to 30 words of a made-up vocabulary.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vanilla_transformer import VanillaTransformerTokenizer
from vanilla_transformer.tasks import seq2seq
from vanilla_transformer.training.streaming import StreamPosition, TokenBudgetIterable


def write_pairs(folder: Path, count: int) -> list[Path]:
    """Write `count` lines to train.en and train.es."""
    draw = np.random.default_rng(0)
    words = np.array(
        ["".join(draw.choice(list("abcdefghijklmnop"), draw.integers(2, 9))) for _ in range(5000)]
    )
    files = [folder / "train.en", folder / "train.es"]
    with open(files[0], "w", encoding="utf-8") as source, open(files[1], "w", encoding="utf-8") as target:
        for _ in range(count):
            sentence = words[draw.integers(5000, size=draw.integers(5, 31))]
            source.write(" ".join(sentence) + "\n")
            target.write(" ".join(sentence[::-1]) + "\n")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--at", type=float, default=0.95, help="where to resume, as a share of the epoch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        files = write_pairs(Path(place), options.pairs)
        with open(files[0], encoding="utf-8") as file:
            tokenizer = VanillaTransformerTokenizer.train(
                [list(islice(file, 20_000))], 4000, show_progress=False
            )

        def stream(start: StreamPosition | None = None) -> Iterator[Any]:
            data = seq2seq.Seq2SeqArguments(train_file=[str(file) for file in files], streaming=True)
            encoded = seq2seq.encode_splits(seq2seq.load_splits(data), tokenizer, data, longest=256)
            return iter(
                TokenBudgetIterable(
                    encoded["train"],
                    4096,
                    4096,
                    start=start,
                    with_positions=True,
                    gradient_accumulation_steps=8,
                    repeat=False,
                )
            )

        began, wanted = time.perf_counter(), None
        for batch, position in stream():
            where = json.loads(position)
            if where["examples"] > options.at * options.pairs and where["batch"] == 8:
                wanted = batch, StreamPosition.from_json(position)
                break
        replay = time.perf_counter() - began
        assert wanted is not None, "the stream has one block only: give more pairs"
        began = time.perf_counter()
        batch, _ = next(stream(wanted[1]))
        resumed = time.perf_counter() - began
        assert batch == wanted[0]
        print(f"{options.pairs:,} pairs, resumed after {wanted[1].examples:,}:")
        print(f"  from the start        {replay:8.1f} s")
        print(f"  from the position     {resumed:8.1f} s ({replay / resumed:.0f} times as fast)")


if __name__ == "__main__":
    main()
