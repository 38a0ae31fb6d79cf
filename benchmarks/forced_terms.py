"""Forces words of the references into translations: do they appear, and what do BLEU and time become?

    python benchmarks/forced_terms.py outputs/multi30k_en_de_tiny data/multi30k/test2016.parquet en de

The model is any translation model of a recipe. A planted term is a word of a reference that the model's own
translation lacks, the hard case. A term needs a source; here it is the word of the source text at the same
relative position. Sentences get `--per_sentence` terms each until there are `--terms` of them. Prints, for
each beam, the share of terms that are in the output as whole words, and BLEU and seconds without and with
them. The terms are words of the references, so BLEU can rise.
"""

import argparse
import random
import re
import time

import torch
from datasets import load_dataset
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

import vanilla_transformer  # noqa: F401 - registers the model and the pipeline
from vanilla_transformer.metrics import load_metric


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text)


def plant(sources, references, translations, per_sentence: int, count: int) -> list[dict[str, str]]:
    """For each sentence its terms, `{source: target}`; some sentences have none."""
    choose, planted = random.Random(0), []
    for source, reference, translation in zip(sources, references, translations):
        found, known = words(source), set(words(translation.casefold()))
        missing = [
            (place, word)
            for place, word in enumerate(words(reference))
            if len(word) > 3 and word.casefold() not in known
        ]
        choose.shuffle(missing)
        terms: dict[str, str] = {}
        for place, word in missing:
            key = found[min(len(found) - 1, place * len(found) // max(1, len(words(reference))))]
            if len(terms) < per_sentence and sum(map(len, planted)) + len(terms) < count:
                terms.setdefault(key, word)
        planted.append(terms)
    return planted


def has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", text.casefold()) is not None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a translation model")
    parser.add_argument("test", help="a Parquet file")
    parser.add_argument("source", help="the column of source texts")
    parser.add_argument("target", help="the column of references")
    parser.add_argument("--terms", type=int, default=500, help="terms to plant (%(default)s)")
    parser.add_argument("--per_sentence", type=int, default=1, help="terms in a sentence (%(default)s)")
    parser.add_argument(
        "--beams", type=int, nargs="+", default=[5, 10, 20], help="beams to try (%(default)s)"
    )
    parser.add_argument("--lowercase", action="store_true", help="BLEU ignores case")
    args = parser.parse_args()

    rows = load_dataset("parquet", data_files=args.test)["train"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    translate = pipeline("translation", model=model, tokenizer=tokenizer, device=device)
    sacrebleu = load_metric("sacrebleu", lowercase=args.lowercase)

    def run(texts, **options) -> tuple[list[str], float]:
        began = time.perf_counter()
        outputs = [output["translation_text"] for output in translate(texts, **options)]
        return outputs, time.perf_counter() - began

    sources, references = list(rows[args.source]), list(rows[args.target])
    plain, _ = run(sources, num_beams=args.beams[0])
    planted = plant(sources, references, plain, args.per_sentence, args.terms)
    chosen = [index for index, terms in enumerate(planted) if terms]
    texts, gold, terms = ([column[i] for i in chosen] for column in (sources, references, planted))
    total = sum(map(len, terms))
    print(f"{total} terms in {len(texts)} of {len(sources)} sentences")
    print("| beam | terms appear | BLEU | seconds | with terms: appear | BLEU | seconds | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for beams in args.beams:
        before, seconds = run(texts, num_beams=beams)
        after, longer = run(texts, num_beams=beams, terms=terms)
        shares = [
            sum(has_word(text, word) for text, each in zip(outputs, terms) for word in each.values()) / total
            for outputs in (before, after)
        ]
        bleu = [sacrebleu.compute(predictions=o, references=gold)["score"] for o in (before, after)]
        print(
            f"| {beams} | {shares[0]:.1%} | {bleu[0]:.1f} | {seconds:.1f} | "
            f"{shares[1]:.1%} | {bleu[1]:.1f} | {longer:.1f} | {longer / seconds:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
