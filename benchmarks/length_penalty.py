"""Chooses the length penalty of beam search on validation, then scores the test split with it, once.

    python benchmarks/length_penalty.py outputs/multi30k_en_de_tiny data/multi30k/validation.parquet \
        data/multi30k/test2016.parquet en de --lowercase --beams 5

The model is any translator that a recipe trained. Prints sacreBLEU on validation for each α of the penalty
((5 + length) / 6)^α; then, with the best of them, sacreBLEU on test and, as older papers have it, BLEU of
text that Moses cut into tokens (`pip install sacremoses`, or the extra [benchmarks]). Test decides nothing.
"""

import argparse

import torch
from checkpoint_scores import translate
from datasets import load_dataset
from sacremoses import MosesTokenizer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import vanilla_transformer  # noqa: F401 - registers the model
from vanilla_transformer.metrics import load_metric


def moses(texts: list[str], language: str) -> list[str]:
    """The texts in tokens as Moses cuts them, with spaces between."""
    tokenizer = MosesTokenizer(lang=language)
    return [tokenizer.tokenize(text, escape=False, return_str=True) for text in texts]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a trained translator")
    parser.add_argument("validation", help="a Parquet file")
    parser.add_argument("test", help="a Parquet file")
    parser.add_argument("source", help="their column with the source")
    parser.add_argument("target", help="their column with the references, named by its language")
    parser.add_argument(
        "--alphas", type=float, nargs="+", default=[0.6, 1.0, 1.4, 1.8], help="to choose from (%(default)s)"
    )
    parser.add_argument("--beams", type=int, default=4, help="hypotheses kept (%(default)s)")
    parser.add_argument("--lowercase", action="store_true", help="compare without regard to case")
    parser.add_argument("--batch_size", type=int, default=64, help="(%(default)s)")
    args = parser.parse_args()

    files = {"validation": args.validation, "test": args.test}
    rows = load_dataset("parquet", data_files=files)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    sacrebleu = load_metric("sacrebleu", lowercase=args.lowercase)

    def translations(split: str, alpha: float) -> list[str]:
        model.generation_config.update(num_beams=args.beams, length_penalty=alpha)
        return translate(model, tokenizer, rows[split][args.source], args.batch_size)

    scores = {}
    for alpha in args.alphas:
        found = sacrebleu.compute(
            predictions=translations("validation", alpha), references=rows["validation"][args.target]
        )
        scores[alpha] = found["score"]
        print(f"validation, α {alpha}: BLEU {scores[alpha]:.2f}", flush=True)
    best = max(scores, key=scores.get)
    hypotheses, references = translations("test", best), list(rows["test"][args.target])
    found = sacrebleu.compute(predictions=hypotheses, references=references)
    print(f"test, α {best}: BLEU {found['score']:.2f} ({found['signature']})")
    cut = {
        "predictions": moses(hypotheses, args.target),
        "references": moses(references, args.target),
    }
    tokenised = load_metric("sacrebleu", lowercase=args.lowercase, tokenize="none", force=True).compute(**cut)
    print(f"test, α {best}: BLEU {tokenised['score']:.2f}, tokenised ({tokenised['signature']})")


if __name__ == "__main__":
    main()
