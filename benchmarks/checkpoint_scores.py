"""BLEU against minutes, with and without averaging: scores the checkpoints that a recipe left.

    python benchmarks/checkpoint_scores.py outputs/multi30k_en_de_tiny data/multi30k/validation.parquet en de

Every `--every`-th checkpoint is scored alone and as the average with the `--average` - 1 before it, on the
validation split that is given (score the test split once, with the final model, which is the recipe's work).
Minutes are the clock's, evaluations and whatever else the machine did included.
"""

import argparse
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.trainer_utils import sort_checkpoints

from vanilla_transformer.generation import paper_generation_config
from vanilla_transformer.metrics import load_metric
from vanilla_transformer.training import average_checkpoints


def translate(model, tokenizer, texts: list[str], batch_size: int) -> list[str]:
    """The texts' translations in their order, translated in order of length."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    translations = [""] * len(texts)
    for start in range(0, len(texts), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt").to(model.device)
        for row, ids in zip(rows, model.generate(**batch)):
            translations[row] = tokenizer.decode(ids, skip_special_tokens=True)
    return translations


def minutes_of(checkpoints: list[Path]) -> list[float]:
    """Minutes of training up to each checkpoint, by when they were written and the pace of the first two."""
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
    parser.add_argument("source", help="its column with the source")
    parser.add_argument("target", help="its column with the references")
    parser.add_argument("--every", type=int, default=8, help="score each so many checkpoints (%(default)s)")
    parser.add_argument("--average", type=int, default=10, help="checkpoints in an average (%(default)s)")
    parser.add_argument("--lowercase", action="store_true", help="compare without regard to case")
    parser.add_argument("--batch_size", type=int, default=64, help="(%(default)s)")
    args = parser.parse_args()

    rows = load_dataset("parquet", data_files=args.split, split="train")
    tokenizer = AutoTokenizer.from_pretrained(args.run)
    checkpoints = [Path(folder) for folder in sort_checkpoints(args.run)]
    if len(checkpoints) < args.every:
        parser.error(f"{args.run} holds {len(checkpoints)} checkpoints, fewer than --every {args.every}")
    metric = load_metric("sacrebleu", lowercase=args.lowercase)

    def score(model) -> dict:
        model.generation_config = paper_generation_config(model.config)
        texts = translate(model.eval(), tokenizer, rows[args.source], args.batch_size)
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
