"""Prints the BLEU of a run's checkpoints against minutes of training, with and without averaging.

    python benchmarks/checkpoint_scores.py outputs/multi30k_en_de_tiny data/multi30k/validation.parquet en de

Scores every `--every`-th checkpoint alone, and averaged with the `--average` - 1 before it, on a validation
split. (The recipe scores the test split, once, with the final model.) Minutes are wall-clock time: they
include evaluation and other work of the machine.
"""

import argparse
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from transformers.trainer_utils import sort_checkpoints

from vanilla_transformer.generation import paper_generation_config
from vanilla_transformer.metrics import load_metric
from vanilla_transformer.training import average_checkpoints


def minutes_of(checkpoints: list[Path]) -> list[float]:
    """Return the minutes of training up to each checkpoint, from the times of their files."""
    updates = [int(folder.name.rpartition("-")[2]) for folder in checkpoints]
    written = [(folder / "trainer_state.json").stat().st_mtime for folder in checkpoints]
    pace = (written[1] - written[0]) / (updates[1] - updates[0])
    return [(moment - written[0] + pace * updates[0]) / 60 for moment in written]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output_dir of the run")
    parser.add_argument("split", help="a Parquet file")
    parser.add_argument("source", help="the column of source texts")
    parser.add_argument("target", help="the column of references")
    parser.add_argument("--every", type=int, default=8, help="score one of so many checkpoints (%(default)s)")
    parser.add_argument("--average", type=int, default=10, help="checkpoints in an average (%(default)s)")
    parser.add_argument("--lowercase", action="store_true", help="ignore case")
    parser.add_argument("--batch_size", type=int, default=64, help="sentences per batch (%(default)s)")
    args = parser.parse_args()

    rows = load_dataset("parquet", data_files=args.split, split="train")
    tokenizer = AutoTokenizer.from_pretrained(args.run)
    checkpoints = [Path(folder) for folder in sort_checkpoints(args.run)]
    if len(checkpoints) < args.every:
        parser.error(f"{args.run} holds {len(checkpoints)} checkpoints, fewer than --every {args.every}")
    metric = load_metric("sacrebleu", lowercase=args.lowercase)

    def score(model) -> dict:
        model.generation_config = paper_generation_config(model.config)
        translate = pipeline("translation", model=model.eval(), tokenizer=tokenizer)
        outputs = translate(list(rows[args.source]), batch_size=args.batch_size)
        texts = [output["translation_text"] for output in outputs]
        return metric.compute(predictions=texts, references=rows[args.target])

    minutes = minutes_of(checkpoints)
    print("| updates | minutes | BLEU | BLEU of the average |\n|---|---|---|---|")
    for end in range(args.every, len(checkpoints) + 1, args.every):
        last = checkpoints[end - 1]
        model = AutoModelForSeq2SeqLM.from_pretrained(last)
        alone = score(model)
        model.load_state_dict(
            average_checkpoints(checkpoints[max(0, end - args.average) : end]), strict=False
        )
        averaged = score(model)
        updates = last.name.rpartition("-")[2]
        print(
            f"| {updates} | {minutes[end - 1]:.0f} | {alone['score']:.1f} | {averaged['score']:.1f} |",
            flush=True,
        )
    print(f"\n{alone['signature']}")


if __name__ == "__main__":
    main()
