"""Compares an imported Marian model with MarianMTModel: speed, outputs, and its export to CTranslate2.

    python benchmarks/imported_marian.py Helsinki-NLP/opus-mt-en-de lines.txt
    python benchmarks/imported_marian.py opus-folder lines.txt --lines 200 --beams 1 4 --rounds 3

The file has a source on each line, with a tag such as >>deu<< if the model needs one. Both models get the
same batches, of lines sorted by length, and `generate` with the same settings, in turn. Prints lines per
second, their ratio, and how many outputs differ. Rounding decides between two equally good outputs, so a few
may. Then the imported model is exported to CTranslate2, which translates all lines in float32, greedy and
with 4 beams. Its outputs are compared with those of this package, token for token.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianMTModel

import vanilla_transformer  # noqa: F401 - registers the model
from vanilla_transformer.interop import ConversionError, import_model


@torch.no_grad()
def translate(model, batches, beams: int) -> list[list[int]]:
    """The ids of each output, without padding and special tokens."""
    config, rows = model.config, []
    special = {config.pad_token_id, config.eos_token_id, config.decoder_start_token_id}
    for batch in batches:
        ids = model.generate(**batch, num_beams=beams, do_sample=False)
        rows += [[id for id in row if id not in special] for row in ids.tolist()]
    return rows


def batches_of(tokenizer, lines: list[str], size: int) -> list:
    """Batches of similar length."""
    lines = sorted(lines, key=len)
    return [
        tokenizer(lines[start : start + size], padding=True, return_tensors="pt")
        for start in range(0, len(lines), size)
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder or Hub name of a MarianMTModel with its tokenizer")
    parser.add_argument("file", type=Path, help="a source on each line")
    parser.add_argument("--lines", type=int, default=1000, help="so many lines (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="lines in a batch (%(default)s)")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4], help="searches (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of both, in turn (%(default)s)")
    parser.add_argument("--export", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()

    lines = [line for line in args.file.read_text(encoding="utf-8").splitlines() if line.strip()]
    lines = lines[: args.lines]
    with tempfile.TemporaryDirectory() as folder:
        imported = Path(folder, "imported")
        print(import_model(args.model, imported, "marian").report)
        tokenizer = AutoTokenizer.from_pretrained(imported)
        models = {
            "imported": AutoModelForSeq2SeqLM.from_pretrained(imported).eval(),
            "MarianMTModel": MarianMTModel.from_pretrained(args.model, dtype=torch.float32).eval(),
        }
        batches = batches_of(tokenizer, lines, args.batch_size)
        for beams in args.beams:
            seconds: dict[str, list[float]] = {name: [] for name in models}
            outputs = {
                name: translate(model, batches[:1], beams) for name, model in models.items()
            }  # warms up
            for _ in range(args.rounds):
                for name, model in models.items():
                    began = time.perf_counter()
                    outputs[name] = translate(model, batches, beams)
                    seconds[name].append(time.perf_counter() - began)
            ratio = statistics.median(
                theirs / ours for ours, theirs in zip(seconds["imported"], seconds["MarianMTModel"])
            )
            differ = sum(ours != theirs for ours, theirs in zip(*outputs.values()))
            shown = ", ".join(
                f"{name} {len(lines) / statistics.median(taken):.1f}" for name, taken in seconds.items()
            )
            print(f"{beams} beams, lines per second: {shown}; the import is {ratio:.2f} times as fast")
            print(f"{beams} beams: {differ} of {len(lines)} outputs differ")
        if args.export:
            from vanilla_transformer.interop.exporting import export_ctranslate2

            print("CTranslate2 beside the import:")
            print(export_ctranslate2(imported, Path(folder, "ctranslate2"), sentences=lines))


if __name__ == "__main__":
    try:
        main()
    except (ConversionError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
