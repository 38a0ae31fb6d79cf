"""What diverse beam search, minimum Bayes risk and ensembles change: BLEU, chrF, variety and time.

    python benchmarks/candidates.py outputs/multi30k_en_de_tiny data/multi30k/validation.parquet en de \\
        --ensemble outputs/multi30k_en_de_tiny/checkpoint-2750 --rows 200

The model is any translation model of a recipe. Each line of the table is a setting of the pipeline. It runs
twice between three runs of plain beam search, and `time` is the ratio of the means. `distinct` is the share
of different pairs of neighbouring words in the n-best list of a text, the mean over texts. `oracle` is the
chrF of the best candidates, if one knew the references.
"""

import argparse
import time

import torch
from datasets import load_dataset
from sacrebleu.metrics import CHRF
from transformers import pipeline

import vanilla_transformer  # noqa: F401 - registers the model and the pipeline
from vanilla_transformer.metrics import load_metric


def distinct(texts: list[str]) -> float:
    """The share of different pairs of neighbouring words among all of them."""
    pairs = [pair for text in texts for pair in zip(text.split(), text.split()[1:])]
    return len(set(pairs)) / max(1, len(pairs))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a translation model")
    parser.add_argument("test", help="a Parquet file")
    parser.add_argument("source", help="the column of source texts")
    parser.add_argument("target", help="the column of references")
    parser.add_argument("--ensemble", nargs="*", default=[], help="folders with the same vocabulary")
    parser.add_argument("--beams", type=int, default=6, help="beams and candidates (%(default)s)")
    parser.add_argument("--samples", type=int, nargs="+", default=[8], help="samples (%(default)s)")
    parser.add_argument("--rows", type=int, help="the first rows only")
    parser.add_argument("--only", default="", help="only lines whose name contains this")
    parser.add_argument("--lowercase", action="store_true", help="BLEU and chrF ignore case")
    args = parser.parse_args()

    rows = load_dataset("parquet", data_files=args.test)["train"]
    rows = rows.select(range(min(args.rows or len(rows), len(rows))))
    texts, references = list(rows[args.source]), list(rows[args.target])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    alone = pipeline("translation", model=args.model, device=device)
    metrics = {name: load_metric(name, lowercase=args.lowercase) for name in ("sacrebleu", "chrf")}
    chrf = CHRF(lowercase=args.lowercase)

    def timed(pipe, **options):
        torch.manual_seed(0)
        began = time.perf_counter()
        return pipe(texts, batch_size=32, **options), time.perf_counter() - began

    n = args.beams
    best = {"num_beams": n, "num_return_sequences": n}
    settings: dict[str, tuple] = {"beam search": (alone, {"num_beams": n}), f"{n}-best": (alone, best)}
    for groups in sorted({3, n}):
        for penalty in (0.2, 0.5, 1.0):
            diverse = {**best, "num_beam_groups": groups, "diversity_penalty": penalty}
            settings[f"{n}-best, {groups} groups, penalty {penalty}"] = (alone, diverse)
    settings[f"MBR, {n}-best"] = (alone, {**best, "mbr": True})
    settings[f"MBR, {n}-best of {n} groups, penalty 0.5"] = (
        alone,
        {**best, "num_beam_groups": n, "diversity_penalty": 0.5, "mbr": True},
    )
    for samples in args.samples:
        for top_p in (1.0, 0.9):
            options = {"do_sample": True, "num_beams": 1, "top_k": 0, "top_p": top_p, "mbr": True}
            settings[f"MBR, {samples} samples, top_p {top_p}"] = (
                alone,
                {**options, "num_return_sequences": samples},
            )
    for folder in args.ensemble:
        settings[f"beam search of {folder.rstrip('/').split('/')[-1]}"] = (
            pipeline("translation", model=folder, device=device),
            {"num_beams": n},
        )
    if args.ensemble:
        together = pipeline("translation", model=args.model, ensemble=args.ensemble, device=device)
        settings["ensemble of all"] = (together, {"num_beams": n})
        if len(args.ensemble) > 1:
            first, *others = args.ensemble
            pair = pipeline("translation", model=first, ensemble=others, device=device)
            settings["ensemble of the others"] = (pair, {"num_beams": n})

    print(f"{len(texts)} texts\n\n| | BLEU | chrF | distinct | oracle | time |\n|---|---|---|---|---|---|")
    timed(alone, num_beams=n)
    for name, (pipe, options) in settings.items():
        if args.only not in name:
            continue
        seconds, plain = [], []
        for _ in range(2):
            plain.append(timed(alone, num_beams=n)[1])
            outputs, took = timed(pipe, **options)
            seconds.append(took)
        plain.append(timed(alone, num_beams=n)[1])
        ratio = sum(seconds) / 2 / (sum(plain) / 3)
        lists = [each if isinstance(each, list) else [each] for each in outputs]
        candidates = [[each["translation_text"] for each in of_text] for of_text in lists]
        firsts = [of_text[0] for of_text in candidates]
        scores = [
            metric.compute(predictions=firsts, references=references)["score"] for metric in metrics.values()
        ]
        variety = oracle = ""
        if len(candidates[0]) > 1:
            variety = f"{sum(map(distinct, candidates)) / len(texts):.3f}"
            picked = [
                max(each, key=lambda text, gold=gold: chrf.sentence_score(text, [gold]).score)
                for each, gold in zip(candidates, references)
            ]
            oracle = f"{metrics['chrf'].compute(predictions=picked, references=references)['score']:.1f}"
        print(
            f"| {name} | {scores[0]:.1f} | {scores[1]:.1f} | {variety} | {oracle} | {ratio:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
