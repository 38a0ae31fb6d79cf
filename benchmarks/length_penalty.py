"""Chooses the length penalty of beam search on validation, then scores the test split once with it.

    python benchmarks/length_penalty.py outputs/multi30k_en_de_tiny data/multi30k/validation.parquet \
        data/multi30k/test2016.parquet en de --lowercase --beams 5

The model is any translation model of a recipe. Prints sacreBLEU on validation for each α of the penalty ((5 +
length) / 6)^α. With the best α it then prints sacreBLEU on test, and BLEU of text tokenised by Moses, as in
older papers (needs the extra [benchmarks]). The test split does not influence the choice.
"""

import argparse

import torch
from datasets import load_dataset
from sacremoses import MosesTokenizer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

import vanilla_transformer  # noqa: F401 - registers the model and the pipeline
from vanilla_transformer.metrics import load_metric


def moses(texts: list[str], language: str) -> list[str]:
    """Return the texts tokenised by Moses, with spaces between the tokens."""
    tokenizer = MosesTokenizer(lang=language)
    return [tokenizer.tokenize(text, escape=False, return_str=True) for text in texts]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a translation model")
    parser.add_argument("validation", help="a Parquet file")
    parser.add_argument("test", help="a Parquet file")
    parser.add_argument("source", help="the column of source texts")
    parser.add_argument("target", help="the column of references, named by its language code")
    parser.add_argument(
        "--alphas",
        type=float,
        nargs="+",
        default=[0.6, 1.0, 1.4, 1.8],
        help="values to try (%(default)s)",
    )
    parser.add_argument("--beams", type=int, default=4, help="beams of the search (%(default)s)")
    parser.add_argument("--lowercase", action="store_true", help="ignore case")
    parser.add_argument("--batch_size", type=int, default=64, help="sentences per batch (%(default)s)")
    args = parser.parse_args()

    files = {"validation": args.validation, "test": args.test}
    rows = load_dataset("parquet", data_files=files)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    translate = pipeline("translation", model=model, tokenizer=tokenizer)
    sacrebleu = load_metric("sacrebleu", lowercase=args.lowercase)

    def translations(split: str, alpha: float) -> list[str]:
        model.generation_config.update(num_beams=args.beams, length_penalty=alpha)
        outputs = translate(list(rows[split][args.source]), batch_size=args.batch_size)
        return [output["translation_text"] for output in outputs]

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
    tokenised = {
        "predictions": moses(hypotheses, args.target),
        "references": moses(references, args.target),
    }
    plain_bleu = load_metric("sacrebleu", lowercase=args.lowercase, tokenize="none", force=True)
    score = plain_bleu.compute(**tokenised)
    print(f"test, α {best}: BLEU {score['score']:.2f}, tokenised ({score['signature']})")


if __name__ == "__main__":
    main()
