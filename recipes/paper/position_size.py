"""Why are learned positions better in the grid? Train them from a table of sinusoids.

    python recipes/paper/position_size.py --train_file train.parquet --validation_file validation.parquet

Row E of the grid starts with random positions, an eighth as large as sinusoids. Here its table starts as
sinusoids of their usual size (scale 1), or as small as the random ones (scale 0.125). All else is as in row
E. A run takes about 5 minutes of one core. results/position_size.jsonl has a line for each run that is done,
and the same command does the others. Further flags go to recipes/seq2seq.py.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from grid import BASE, FOLDER, ON_HUB, RECIPE, as_flags, read_results, summary
from report import interval
from table3 import ROWS, SEEDS
from transformers import AutoModelForSeq2SeqLM

from vanilla_transformer.embeddings import sinusoids

SCALES = (1.0, 0.125)
FLAGS = as_flags(ROWS["E-learned-positions"].changes)


def train(data: list[str], seed: int, folder: Path, *flags: str) -> None:
    command = [
        sys.executable,
        str(RECIPE),
        str(BASE),
        *data,
        *FLAGS,
        f"--seed={seed}",
        f"--output_dir={folder}",
    ]
    subprocess.run([*command, *flags], check=True)


def start_from_sinusoids(folder: Path, scale: float) -> None:
    """Replace the tables of learned positions of a saved model."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    for stack in (model.model.encoder, model.model.decoder):
        table = stack.embed_positions.weight.data
        table.copy_(scale * sinusoids(torch.arange(len(table)), table.shape[1]))
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--train_file", help="a local file; if not given, bentrevett/multi30k of the Hub")
    parser.add_argument("--validation_file", help="a local file; every run is scored on it")
    parser.add_argument("--scales", nargs="+", type=float, default=SCALES, help="1 and 0.125 if not given")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=range(1, SEEDS + 1), help="1 2 3 if not given"
    )
    parser.add_argument("--results", type=Path, default=FOLDER / "results" / "position_size.jsonl")
    given, flags = parser.parse_known_args()
    if bool(given.train_file) != bool(given.validation_file):
        parser.error("give both --train_file and --validation_file, or neither")
    data = ON_HUB
    if given.train_file:
        data = ["--train_file", given.train_file, "--validation_file", given.validation_file]
    given.results.parent.mkdir(parents=True, exist_ok=True)
    done = {(run["scale"], run["seed"]) for run in read_results(given.results)}
    for seed in given.seeds:
        for scale in given.scales:
            if (scale, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as place:
                start, folder = Path(place, "start"), Path(place, "run")
                # This makes the tokenizer and the weights. The first update has the rate 0.
                train(data, seed, start, *flags, "--max_steps=1", "--max_validation_samples=8")
                start_from_sinusoids(start, scale)
                train(data, seed, folder, *flags, f"--pretrained={start}")
                scores = summary(json.loads((folder / "results.json").read_text(encoding="utf-8")))
            with open(given.results, "a", encoding="utf-8") as file:
                file.write(json.dumps({"scale": scale, "seed": seed, **scores}) + "\n")
    runs = read_results(given.results)
    for scale in sorted({run["scale"] for run in runs}):
        found = [run for run in runs if run["scale"] == scale]
        means = {name: interval([run[name] for run in found]) for name in ("perplexity", "bleu")}
        shown = ", ".join(f"{name} {mean.text('.2f')}" for name, mean in means.items())
        print(f"scale {scale}: {shown} ({len(found)} seeds)")


if __name__ == "__main__":
    main()
