"""Compares `pipeline("translation")` with transformers' `generate` in unsorted batches, on many lines.

    python benchmarks/translate_lines.py outputs/quickstart --lines 10000
    python benchmarks/translate_lines.py outputs/quickstart --file lines.txt --options '{"batch_size": 128}'

The model is any translation model of a recipe. The other side is MarianMTModel with the same weights; where
Marian has no such architecture, it is the same model under transformers' own search. Both tokenize, search
with as many beams, and write texts in the order of the lines. Prints seconds, lines per second, output tokens
and how many translations are equal. The searches end and rank outputs by different rules, so a few are not.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from suite.weights import as_marian, bart_sizes
from suite.work import Size
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel, pipeline

import vanilla_transformer  # noqa: F401 - registers the model and the pipeline
from vanilla_transformer.corpora import load_corpus


def as_peer(model):
    """MarianMTModel with these weights, or the model itself if Marian has no such architecture."""
    config = model.config
    plain = config.norm_position == "post" and config.activation == "relu" and config.tie_word_embeddings
    sinusoidal = config.position_embedding_type == "sinusoidal"
    heads_fit = {config.head_dim, config.value_dim} == {config.hidden_size // config.num_attention_heads}
    same_depth = config.encoder_layers == config.decoder_layers
    if not (plain and sinusoidal and heads_fit and same_depth):
        return model
    size = Size(
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.encoder_layers,
        config.vocab_size,
    )
    ids = {name: getattr(config, name) for name in ("bos_token_id", "pad_token_id", "eos_token_id")}
    ids["decoder_start_token_id"] = config.decoder_start_token_id
    marian = MarianMTModel(MarianConfig(**{**bart_sizes(size), **ids})).eval()
    marian.load_state_dict(as_marian(model), strict=False)
    return marian


@torch.no_grad()
def translate_in_batches(model, tokenizer, lines: list[str], batch_size: int, beams: int) -> list[str]:
    """What a user of `generate` writes: batches in the order of the lines."""
    own = {} if isinstance(model, MarianMTModel) else {"length_penalty_type": None}
    texts = []
    for start in range(0, len(lines), batch_size):
        batch = tokenizer(lines[start : start + batch_size], padding=True, return_tensors="pt")
        batch = batch.to(model.device)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        ids = model.generate(**inputs, num_beams=beams, max_new_tokens=256, **own)
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a translation model")
    parser.add_argument("--file", type=Path, help="one text per line; default: the shipped training split")
    parser.add_argument("--lines", type=int, default=10_000, help="so many lines (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="of the unsorted batches (%(default)s)")
    parser.add_argument("--beams", type=int, default=4, help="beams of both (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of both, in turn (%(default)s)")
    parser.add_argument(
        "--options",
        type=json.loads,
        default={},
        help="of the pipeline's call, as JSON (%(default)s)",
    )
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(args.model).to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(args.model)
    except (OSError, ValueError) as error:
        parser.error(f"{args.model} is no translation model with a tokenizer: {' '.join(str(error).split())}")
    peer = as_peer(model).to(device)
    if args.file is not None:
        if not args.file.is_file():
            parser.error(f"there is no file {args.file}")
        lines = args.file.read_text(encoding="utf-8").splitlines()
    else:
        lines = list(load_corpus("bible_en_es")["train"]["en"])
    lines = lines[: args.lines]
    translate = pipeline("translation", model=model, tokenizer=tokenizer, device=device)

    def ours(texts: list[str]) -> list[str]:
        outputs = translate(texts, num_beams=args.beams, **args.options)
        return [output["translation_text"] for output in outputs]

    def theirs(texts: list[str]) -> list[str]:
        return translate_in_batches(peer, tokenizer, texts, args.batch_size, args.beams)

    sides = {"the pipeline": ours, f"{type(peer).__name__}.generate": theirs}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    texts = {}
    for side in sides.values():
        side(lines[: args.batch_size])  # warms caches
    for _ in range(args.rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            texts[name] = side(lines)
            seconds[name].append(time.perf_counter() - began)
    for name, taken in seconds.items():
        tokens = sum(map(len, tokenizer(texts[name])["input_ids"]))
        middle = statistics.median(taken)
        print(f"{name:26} {middle:8.1f} s, {len(lines) / middle:8.1f} lines per second, {tokens:,} tokens")
    own, other = seconds.values()
    ratio = statistics.median(theirs / ours for ours, theirs in zip(own, other))
    equal = sum(one == two for one, two in zip(*texts.values()))
    print(f"the pipeline is {ratio:.2f} times as fast; {equal:,} of {len(lines):,} translations are equal")


if __name__ == "__main__":
    main()
