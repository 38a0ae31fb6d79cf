"""The entry points: for each a strategy of inputs, and what is done with an input in a folder."""

import contextlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from hypothesis import strategies as st
from inputs import BROKEN_TEXT, FILES, JSON, NUMBERS, TEXT, damaged, json_lines, replaced, table
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
        path.write_bytes(b'{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n' + content)
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
        lambda parts: ["dataset: bible_en_es", "source_lang: en", "target_lang: es", *parts[0], *parts[1]]
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
