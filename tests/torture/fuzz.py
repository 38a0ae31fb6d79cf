"""Random and damaged inputs at every entry point: no uncaught exception, no hang, no death, clear errors.

    python tests/torture/fuzz.py --inputs 10000            # each entry point, two at a time
    python tests/torture/fuzz.py --only "COCO" --inputs 500

Hypothesis draws the inputs. A row of the table counts, for one entry point: the inputs, clear errors, other
exceptions, inputs that took over 20 seconds, and errors that name no file, line or key.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import torch
import transformers
from harness import Trial
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerTokenizer,
    VanillaTransformerVisionConfig,
)
from vanilla_transformer.image_processing_vanilla_transformer import to_rgb
from vanilla_transformer.tasks import (
    InputError,
    boxes,
    image_classification,
    images,
    language_modeling,
    object_detection,
    parse,
    seq2seq,
    text_classification,
    token_classification,
)
from vanilla_transformer.training import VanillaTransformerTrainingArguments

LONGEST = 20  # seconds for one input

# Inputs

CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("\n\r\t ,;\"'\\\0\ufeff\u2028\u2029\x85\x1c{}[]:*&!|>%@`-0.9eE"),
)
TEXT = st.text(CHARACTERS, max_size=40)
BROKEN_TEXT = st.text(st.one_of(CHARACTERS, st.characters(categories=["Cs"])), max_size=40)
NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from(
        [10**9, -(10**9), 2**31, 2**63, 10**30, 0.5, -0.0, 1e300, float("inf"), float("-inf"), float("nan")]
    ),
    st.floats(),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def damaged(draw: Any, valid: st.SearchStrategy[bytes]) -> bytes:
    """Valid bytes with a few of them deleted, inserted, changed or cut off."""
    content = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["delete", "insert", "change", "cut", "repeat"]))
        if kind == "delete":
            del content[place : place + draw(st.integers(1, 9))]
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=6))
        elif kind == "change":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "repeat":
            content[place:place] = content[place : place + 20] * 3
        else:
            del content[place:]
    return bytes(content)


@st.composite
def replaced(draw: Any, valid: Any) -> Any:
    """A valid JSON value with a few parts replaced by others, or removed."""
    whole = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(0, 3))):
        spot: Any = whole
        while True:
            keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(spot[key], dict | list) and draw(st.booleans()):
                spot = spot[key]
                continue
            if draw(st.integers(0, 4)) == 0:
                del spot[key]
            else:
                spot[key] = draw(JSON)
            break
    return whole if draw(st.integers(0, 30)) else draw(JSON)


def encoded(lines: list[str], ends: str, encoding: str) -> bytes:
    return ends.join(lines).encode(encoding, errors="replace")


FILES = st.one_of(
    st.binary(max_size=120),
    st.builds(
        encoded,
        st.lists(TEXT, max_size=6),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16"]),
    ),
)


def json_lines(rows: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    def write(values: list[Any]) -> bytes:
        return b"".join(json.dumps(value).encode() + b"\n" for value in values)

    whole = st.lists(rows, min_size=1, max_size=6).map(write)
    return st.one_of(whole, whole, damaged(whole), st.lists(JSON, max_size=4).map(write), FILES)


def table(columns: list[str], separator: str) -> st.SearchStrategy[bytes]:
    cell = st.one_of(TEXT, st.sampled_from(['"', 'a "b" c', '"a', 'b"', "07", "1.10", "NA", "true", ""]))

    def write(rows: list[list[str]]) -> bytes:
        lines = [separator.join(columns), *(separator.join(row) for row in rows)]
        return "\n".join(lines).encode()

    whole = st.lists(st.lists(cell, min_size=2, max_size=2), min_size=1, max_size=6).map(write)
    ragged = st.lists(st.lists(cell, min_size=1, max_size=3), max_size=6).map(write)
    return st.one_of(whole, ragged, damaged(whole), FILES)


# Entry points: a strategy, and what is done with an input in a folder

Door = tuple[st.SearchStrategy[Any], Callable[[Any, Path], object]]


def pairs_of_text() -> Door:
    def read(content: tuple[bytes, bytes], place: Path) -> None:
        paths = [place / "a.en", place / "b.es"]
        for path, half in zip(paths, content):
            path.write_bytes(half)
        seq2seq.load_splits(seq2seq.Seq2SeqArguments(train_file=[str(path) for path in paths]))

    return st.tuples(FILES, FILES), read


def pairs(suffix: str, content: st.SearchStrategy[bytes]) -> Door:
    def read(content: bytes, place: Path) -> None:
        path = place / f"pairs{suffix}"
        path.write_bytes(content)
        data = seq2seq.Seq2SeqArguments(train_file=[str(path)], source_column="en", target_column="es")
        seq2seq.load_splits(data)

    return content, read


def gzipped() -> Door:
    import gzip

    rows = st.lists(PAIR, min_size=1, max_size=4).map(
        lambda values: b"".join(json.dumps(value).encode() + b"\n" for value in values)
    )
    return pairs(
        ".jsonl.gz", st.one_of(damaged(rows.map(gzip.compress)), json_lines(PAIR).map(gzip.compress), FILES)
    )


def streamed() -> Door:
    def read(content: bytes, place: Path) -> None:
        path = place / "pairs.jsonl"
        path.write_bytes(content)
        data = seq2seq.Seq2SeqArguments(
            train_file=[str(path)], source_column="en", target_column="es", streaming=True
        )
        list(seq2seq.load_splits(data)["train"])

    return json_lines(st.fixed_dictionaries({"en": TEXT, "es": TEXT})), read


def labelled_texts() -> Door:
    def read(content: bytes, place: Path) -> None:
        path = place / "labels.jsonl"
        path.write_bytes(content)
        text_classification.load_splits(
            text_classification.TextClassificationArguments(train_file=[str(path)])
        )

    right = st.fixed_dictionaries({"text": TEXT.map("a {}".format), "label": st.sampled_from(["a", "b"])})
    wrong = st.fixed_dictionaries({"text": st.one_of(TEXT, JSON), "label": JSON})
    return st.one_of(json_lines(right), json_lines(st.one_of(right, right, wrong))), read


def labelled_table() -> Door:
    def read(content: bytes, place: Path) -> None:
        path = place / "labels.csv"
        path.write_bytes(content)
        text_classification.load_splits(
            text_classification.TextClassificationArguments(train_file=[str(path)])
        )

    return table(["text", "label"], ","), read


def tagged_words() -> Door:
    def read(content: bytes, place: Path) -> None:
        path = place / "tags.conll"
        path.write_bytes(content)
        data = token_classification.TokenClassificationArguments(train_file=[str(path)])
        token_classification.load_splits(data)

    right = st.sampled_from(["Mary B-PER", "went O", "to O", "Mount B-LOC", "Sinai I-LOC", ""])
    tags = st.sampled_from(["O", "B-PER", "I-PER", "I-LOC", "X", "", "B-"])
    line = st.one_of(*[right] * 9, st.tuples(TEXT, tags).map(" ".join))
    return damaged(st.lists(line, max_size=8).map(lambda lines: "\n".join(lines).encode())) | FILES, read


def documents() -> Door:
    def read(content: bytes, place: Path) -> None:
        path = place / "book.txt"
        path.write_bytes(content)
        language_modeling.load_texts(language_modeling.LanguageModelingArguments(train_file=[str(path)]))

    return FILES, read


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0},
        {
            "id": 2,
            "image_id": 2,
            "category_id": 4,
            "bbox": [0, 0, 2, 2],
            "segmentation": [[0, 0, 2, 0, 2, 2]],
        },
    ],
}


def coco() -> Door:
    def read(content: bytes, place: Path) -> None:
        for name in ("a.png", "b.png"):
            if not (place / name).exists():
                Image.new("RGB", (8, 6)).save(place / name)
        path = place / "boxes.json"
        path.write_bytes(content)
        object_detection.load_splits(boxes.DetectionArguments(train_file=[str(path)]))

    valid = replaced(COCO).map(lambda value: json.dumps(value).encode())
    return st.one_of(valid, damaged(st.just(json.dumps(COCO).encode()))), read


def table_of_objects() -> Door:
    rows = [{"image": "a.png", "objects": [{"bbox": [1, 1, 3, 3], "category": "cat"}]}] * 2

    def read(content: bytes, place: Path) -> None:
        if not (place / "a.png").exists():
            Image.new("RGB", (8, 6)).save(place / "a.png")
        path = place / "objects.jsonl"
        path.write_bytes(content)
        object_detection.load_splits(boxes.DetectionArguments(train_file=[str(path)]))

    def write(values: Any) -> bytes:
        values = values if isinstance(values, list) else [values]
        return b"".join(json.dumps(value).encode() + b"\n" for value in values)

    return replaced(rows).map(write), read


def pictures() -> Door:
    def made(mode: str, kind: str, size: tuple[int, int]) -> bytes:
        buffer = io.BytesIO()
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8))
        with contextlib.suppress(OSError, ValueError):
            image.convert(mode).save(buffer, kind)
        return buffer.getvalue() or b"x"

    valid = st.builds(
        made,
        st.sampled_from(["RGB", "L", "P", "RGBA", "1", "I", "F", "CMYK"]),
        st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]),
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
    )

    def read(content: bytes, place: Path) -> None:
        path = place / "picture"
        path.write_bytes(content)
        with contextlib.suppress(*images.UNREADABLE):
            assert to_rgb(images.open_image(path)).mode == "RGB"
        image_classification._opened(path)

    return damaged(valid), read


KEYS = [
    *(
        "output_dir",
        "seed",
        "max_steps",
        "learning_rate",
        "warmup_steps",
        "lr_scheduler_type",
        "optim",
        "bf16",
    ),
    *(
        "train_file",
        "dataset",
        "source_lang",
        "max_source_length",
        "num_beams",
        "alpha",
        "vocab_size",
        "model",
    ),
    *(
        "per_device_train_batch_size",
        "save_strategy",
        "eval_strategy",
        "report_to",
        "hub_token",
        "lr_scheduler_kwargs",
    ),
    *("max_target_tokens", "tokens_per_update", "average_checkpoints", "early_stopping_patience", "do_train"),
    *("model.preset", "model.hidden_size", "model.dropout", "model.num_attention_heads", "model.norm_first"),
]
WORDS = st.one_of(
    TEXT,
    NUMBERS.map(str),
    st.sampled_from(
        [
            "true",
            "no",
            "null",
            "~",
            "1e-4",
            "0x10",
            "[a, b]",
            "{a: 1}",
            "*x",
            "&x y",
            "!!python/name:os",
            "tiny",
        ]
    ),
)
RIGHT = {
    "source_lang": "en",
    "target_lang": "es",
    "seed": "7",
    "max_steps": "30",
    "warmup_steps": "10",
    "optim": "adam",
    "vocab_size": "900",
    "num_beams": "2",
    "model.preset": "tiny",
    "model.dropout": "0.2",
    "save_strategy": "no",
    "max_target_tokens": "2000",
}
PARSED = (
    VanillaTransformerConfig,
    seq2seq.Seq2SeqArguments,
    seq2seq.DecodingArguments,
    VanillaTransformerTrainingArguments,
)


def yaml_files() -> Door:
    right = st.sampled_from([f"{key}: {value}" for key, value in RIGHT.items()])
    line = st.tuples(st.one_of(st.sampled_from(KEYS), TEXT), WORDS).map(lambda pair: f"{pair[0]}: {pair[1]}")
    nested = st.integers(1, 3000).map(lambda depth: "model: " + "[" * depth)
    wrong = st.one_of(line, line.map(lambda text: f"  {text}"), nested)
    blocks = st.tuples(st.lists(right, max_size=6, unique=True), st.lists(wrong, max_size=2)).map(
        lambda parts: ["dataset: bible_en_es", *parts[0], *parts[1]]
    )

    def read(content: bytes, place: Path) -> None:
        path = place / "recipe.yaml"
        path.write_bytes(content)
        parse(*PARSED, argv=[str(path), "--output_dir", str(place / "run"), "--report_to", "none"])

    return st.one_of(damaged(blocks.map(lambda lines: "\n".join(lines).encode())), FILES), read


def flags() -> Door:
    words = st.tuples(st.sampled_from(KEYS), WORDS, st.booleans())
    wrong = words.map(lambda one: [f"--{one[0]}={one[1]}"] if one[2] else [f"--{one[0]}", one[1]])
    right = st.sampled_from([[f"--{key}", value] for key, value in RIGHT.items()])
    given_flags = st.one_of(right, right, right, wrong)

    def read(groups: list[list[str]], place: Path) -> None:
        flat = [word for group in groups for word in group]
        parse(*PARSED, argv=["--output_dir", str(place / "run"), "--report_to", "none", *always, *flat])

    always = ["--dataset", "bible_en_es", "--source_lang", "en", "--target_lang", "es"]
    stray = st.one_of(*[given_flags] * 9, TEXT.map(lambda text: [text]))
    return st.lists(stray, max_size=5), read


def tokenizer() -> VanillaTransformerTokenizer:
    texts = [["a dog runs over the field", "un perro corre por el campo", "Ω≈ 日本 🐕 <pad> </s>"]]
    return VanillaTransformerTokenizer.train(
        texts, 300, language_tags=["es"], min_frequency=1, show_progress=False
    )


def texts_to_tokens() -> Door:
    made = tokenizer()

    def encode(text: str, place: Path) -> None:
        ids = made(text)["input_ids"]
        clean = re.sub("[\ud800-\udfff]", "\ufffd", text)
        assert made.decode(ids, skip_special_tokens=True) == clean, "the round trip is not exact"

    return BROKEN_TEXT, encode


def tiny_model(made: VanillaTransformerTokenizer) -> VanillaTransformerForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = VanillaTransformerConfig(
        **sizes, vocab_size=len(made), encoder_layers=1, decoder_layers=1, max_position_embeddings=64
    )
    return VanillaTransformerForConditionalGeneration(config).eval()


def pipeline_inputs() -> Door:
    made = tokenizer()
    made.target_language = "es"
    pipe = transformers.pipeline("translation", model=tiny_model(made), tokenizer=made)

    def use(inputs: Any, place: Path) -> None:
        pipe(inputs, max_new_tokens=2, num_beams=1)

    return st.one_of(BROKEN_TEXT, st.lists(BROKEN_TEXT, max_size=3), JSON, st.binary(max_size=5)), use


def generation_settings() -> Door:
    made = tokenizer()
    model = tiny_model(made)
    ids = torch.tensor([[5, 6, 7, 2]])
    names = [
        *("num_beams", "length_penalty", "max_length", "max_new_tokens", "min_length", "min_new_tokens"),
        *(
            "max_extra_tokens",
            "coverage_penalty",
            "length_penalty_type",
            "num_return_sequences",
            "early_stopping",
        ),
        *(
            "no_repeat_ngram_size",
            "repetition_penalty",
            "temperature",
            "top_k",
            "top_p",
            "do_sample",
            "use_cache",
        ),
    ]
    value = st.one_of(NUMBERS, st.none(), st.booleans(), TEXT, st.lists(NUMBERS, max_size=2))

    def use(chosen: dict[str, Any], place: Path) -> None:
        model.generate(ids, **{"max_new_tokens": 3, **chosen})

    return st.dictionaries(st.sampled_from(names), value, max_size=3), use


def configurations() -> Door:
    classes = [VanillaTransformerConfig, VanillaTransformerVisionConfig, VanillaTransformerDetectionConfig]
    names = {name for one in classes for name in one.__dataclass_fields__ if not name.startswith("_")}
    names -= {"attribute_map"}  # of the class
    value = st.one_of(NUMBERS, JSON)

    def use(chosen: tuple[Any, dict[str, Any]], place: Path) -> None:
        chosen[0](**chosen[1])

    settings_of = st.dictionaries(st.sampled_from(sorted(names)), value, max_size=3)
    return st.tuples(st.sampled_from(classes), settings_of), use


PAIR = st.fixed_dictionaries({"en": TEXT, "es": TEXT})
DOORS: dict[str, Callable[[], Door]] = {
    "text files, a pair": pairs_of_text,
    "JSON lines": lambda: pairs(".jsonl", json_lines(PAIR)),
    "JSON lines, gzipped": gzipped,
    "JSON lines, streamed": streamed,
    "CSV": lambda: pairs(".csv", table(["en", "es"], ",")),
    "TSV": lambda: pairs(".tsv", table(["en", "es"], "\t")),
    "texts with labels, JSON": labelled_texts,
    "texts with labels, CSV": labelled_table,
    "words with tags, CoNLL": tagged_words,
    "documents": documents,
    "COCO": coco,
    "table of objects": table_of_objects,
    "images": pictures,
    "YAML": yaml_files,
    "flags": flags,
    "texts to the tokenizer": texts_to_tokens,
    "inputs of a pipeline": pipeline_inputs,
    "settings of generate": generation_settings,
    "configurations": configurations,
}
# Python functions may raise TypeError for wrong types; files, YAML, flags may not.
PYTHON = ("texts to the tokenizer", "inputs of a pipeline", "settings of generate", "configurations")


class Hang(BaseException):
    """An input took too long."""


def stop(number: int, frame: object) -> None:
    raise Hang


def try_inputs(name: str, count: int, place: Path, result: Path) -> None:
    """Draw the inputs of an entry point, and write the counts to `result`."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity(100)
    datasets.config.HF_DATASETS_CACHE = place / "cache"
    torch.set_num_threads(1)
    strategy, use = DOORS[name]()
    counts = {"inputs": 0, "refused": 0, "exceptions": 0, "hangs": 0, "nameless": 0}
    samples: list[str] = []
    clear = (InputError, ValueError, TypeError, StrictDataclassError) if name in PYTHON else (InputError,)
    signal.signal(signal.SIGALRM, stop)

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seed(0)
    @given(strategy)
    def once(drawn: Any) -> None:
        counts["inputs"] += 1
        if counts["inputs"] % 200 == 0:
            shutil.rmtree(place / "cache", ignore_errors=True)
            result.write_text(json.dumps([counts, samples[:20]]))
        (place / "last.txt").write_text(repr(drawn)[:20_000], encoding="utf-8", errors="replace")
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                use(drawn, place)
        except Hang:
            counts["hangs"] += 1
            samples.append(f"HANG {drawn!r:.300}")
        except clear as error:
            counts["refused"] += 1
            of_wrong_type = isinstance(error, TypeError) and name in PYTHON
            if not of_wrong_type and not names_the_place(str(error), name, drawn):
                counts["nameless"] += 1
                samples.append(f"NAMELESS {type(error).__name__}: {error!s:.200} <- {drawn!r:.200}")
        except Exception as error:
            counts["exceptions"] += 1
            samples.append(f"{type(error).__name__}: {error!s:.200} <- {drawn!r:.300}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    once()
    result.write_text(json.dumps([counts, samples[:20]]))


def names_the_place(message: str, name: str, drawn: Any) -> bool:
    """Whether a message names the file, the key, the setting or the input that is wrong."""
    if name in ("settings of generate", "configurations"):
        keys = drawn if isinstance(drawn, dict) else drawn[1]
        return any(part in message for key in keys for part in key.split("_") if len(part) > 3)
    if name in PYTHON:
        return bool(message)
    known = ["pairs.", "a.en", "b.es", "labels.", "tags.", "book.", "boxes.", "objects.", "recipe.yaml", "--"]
    return any(word in message for word in [*known, *KEYS, "unexpected word", "_file", "_column", "_lang"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="for each entry point")
    parser.add_argument("--only", choices=DOORS)
    options = parser.parse_args()
    waiting = [name for name in DOORS if options.only in (None, name)]
    found: dict[str, str] = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        running: dict[str, tuple[Trial, Path, float]] = {}

        def begin() -> Iterator[None]:
            while waiting and len(running) < 2:
                name = waiting.pop(0)
                place = Path(root, re.sub(r"\W", "_", name))
                place.mkdir()
                trial = Trial(place / "log", try_inputs, name, options.inputs, place, place / "result.json")
                running[name] = trial, place, time.monotonic()
                yield

        while waiting or running:
            list(begin())
            for name, (trial, place, began) in list(running.items()):
                process, status = os.waitpid(trial.process, os.WNOHANG)
                if not process:
                    continue
                del running[name]
                counts, samples = {}, []
                if (place / "result.json").exists():
                    counts, samples = json.loads((place / "result.json").read_text())
                died = status != 0
                failed |= died or any(counts.get(key) for key in ("exceptions", "hangs", "nameless"))
                cells = [
                    str(counts.get(key, "?"))
                    for key in ("inputs", "refused", "exceptions", "hangs", "nameless")
                ]
                found[name] = f"| {name} | {' | '.join(cells)} | {'died' if died else ''} |"
                print(f"{name}: {time.monotonic() - began:.0f} s {counts}", file=sys.stderr, flush=True)
                for sample in samples[:8]:
                    print(f"   {sample!r:.600}", file=sys.stderr)
                if died:
                    print(f"   DIED {(place / 'log').read_text()[-800:]}", file=sys.stderr)
                    print(f"   at {(place / 'last.txt').read_text()[:400]}", file=sys.stderr)
            time.sleep(0.05)
    print("| entry point | inputs | refused clearly | other exceptions | hangs | nameless errors | |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(found[name] for name in DOORS if name in found))
    sys.exit(failed)


if __name__ == "__main__":
    main()
