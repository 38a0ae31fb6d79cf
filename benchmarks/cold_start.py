"""Compares the seconds from a new process to its first translation: this package, and MarianMT.

    python benchmarks/cold_start.py --rounds 5

Both import, load a saved model of the same size with the same weights, and translate one sentence with 4
beams into 20 tokens. Every start is a new process, in turn; the files are in the system's cache, and so is
compiled Python. Prints the medians of each part, and the median ratio of neighbouring starts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import json, sys, time
began = time.perf_counter()
{imports}
imported = time.perf_counter()
folder = sys.argv[1]
tokenizer = {tokenizer}.from_pretrained(folder)
model = {model}.from_pretrained(folder)
loaded = time.perf_counter()
inputs = tokenizer("the dog sleeps", return_tensors="pt")
inputs = {{name: inputs[name] for name in ("input_ids", "attention_mask")}}
ids = model.generate(**inputs, num_beams=4, min_new_tokens=20, max_new_tokens=20)
text = tokenizer.batch_decode(ids, skip_special_tokens=True)
done = time.perf_counter()
json.dump({{"import": imported - began, "load": loaded - imported, "translate": done - loaded}}, sys.stdout)
"""
SIDES = {
    "ours": dict(
        imports="import vanilla_transformer\nfrom transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        tokenizer="AutoTokenizer",
        model="AutoModelForSeq2SeqLM",
    ),
    "marian": dict(
        imports="from transformers import MarianMTModel, PreTrainedTokenizerFast",
        tokenizer="PreTrainedTokenizerFast",
        model="MarianMTModel",
    ),
}


def write_models(size_name: str, folder: Path) -> None:
    """Save both models below `folder`, with the same vocabulary."""
    from suite.weights import write
    from suite.work import SIZES
    from transformers import PreTrainedTokenizerFast

    from vanilla_transformer import VanillaTransformerTokenizer

    size = SIZES[size_name]
    write(size, "text", folder)
    tokenizer = VanillaTransformerTokenizer.train(
        [CHILD.splitlines()], vocab_size=400, min_frequency=1, show_progress=False
    )
    tokenizer.save_pretrained(folder / "ours")
    special = {name: getattr(tokenizer, name) for name in ("pad_token", "eos_token", "unk_token")}
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)
    plain.save_pretrained(folder / "marian")


def start(name: str, folder: Path) -> dict[str, float]:
    """Run one process to its end; its parts in seconds, and the whole with the interpreter's start."""
    began = time.perf_counter()
    code = CHILD.format(**SIDES[name])
    done = subprocess.run(
        [sys.executable, "-c", code, folder / name], stdout=subprocess.PIPE, text=True, check=True
    )
    return {**json.loads(done.stdout), "whole process": time.perf_counter() - began}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["tiny", "small", "base"], default="small", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each (%(default)s)")
    args = parser.parse_args()
    starts: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        write_models(args.size, Path(folder))
        for number in range(args.rounds + 1):
            for name, found in starts.items():
                taken = start(name, Path(folder))
                if number:  # the first fills the caches
                    found.append(taken)
    parts = list(starts["ours"][0])
    print(f"{'seconds':10}" + "".join(f"{part:>15}" for part in parts))
    for name, found in starts.items():
        print(
            f"{name:10}" + "".join(f"{statistics.median(one[part] for one in found):15.2f}" for part in parts)
        )
    ratios = [own[parts[-1]] / other[parts[-1]] for own, other in zip(starts["ours"], starts["marian"])]
    print(
        f"ours takes {statistics.median(ratios):.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
