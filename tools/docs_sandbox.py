"""The folder in which `check_docs.py` runs a page: the repository, small data sets, and untrained models.

Pages name files of their readers (`train.en`, `outputs/mine`). Here these have a few rows of the shipped
corpus, and tiny models with random weights.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import yaml
from pages import ROOT
from PIL import Image

PROGRAMS = os.environ["PATH"]
LINKED = ("src", "data")  # the rest is copied, because some commands write into the repository
ROWS = 60
CORPUS = ROOT / "src" / "vanilla_transformer" / "corpora" / "bible_en_es" / "validation.parquet"
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "encoder_layers": 1}
HUB = (
    "Helsinki-NLP/opus-mt-en-de",
    "Helsinki-NLP/opus-mt-en-es",
)  # stand-ins with the layout of the real ones


def make_sandbox(folder: Path) -> None:
    """Fill a folder, and set the environment for commands that run in it."""
    os.environ["TQDM_DISABLE"] = "1"  # no progress bars
    for entry in ROOT.iterdir():
        if entry.name.startswith(".") or entry.name in ("outputs", "site"):
            continue
        if entry.name in LINKED:
            (folder / entry.name).symlink_to(entry)
        elif entry.is_dir():
            shutil.copytree(
                entry, folder / entry.name, ignore=shutil.ignore_patterns("outputs", "__pycache__")
            )
        else:
            shutil.copy(entry, folder)
    make_programs(folder / ".venv")
    make_data(folder)
    make_models(folder)
    more = {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "HOME": str(folder)}
    os.environ.update(more)
    os.environ["PATH"] = f"{folder / '.venv' / 'bin'}:{PROGRAMS}"


def make_programs(venv: Path) -> None:
    """The virtual environment of this process under another name, with the command of this checkout."""
    (venv / "bin").mkdir(parents=True)
    for entry in [*Path(sys.prefix).iterdir(), *(Path(sys.prefix) / "bin").iterdir()]:
        if entry.name not in ("bin", "vanilla-transformer"):
            (venv / entry.relative_to(sys.prefix)).symlink_to(entry)
    command = venv / "bin" / "vanilla-transformer"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m vanilla_transformer_command "$@"\n')
    command.chmod(0o755)


def make_data(folder: Path) -> None:
    rows = parquet.read_table(CORPUS)
    short = [index for index, text in enumerate(rows["en"].to_pylist()) if len(text) < 90]
    rows = rows.take(short[:ROWS])
    english, other = rows["en"].to_pylist(), rows["es"].to_pylist()
    labels = ["positive" if index % 2 else "negative" for index in range(ROWS)]
    pairs = list(zip(english, other, labels))
    objects = [
        {
            "source": source,
            "target": target,
            "document": source,
            "summary": target,
            "text": source,
            "body": source,
            "label": label,
            "tokens": source.split(),
            "ner_tags": ["B-PER" if word.istitle() else "O" for word in source.split()],
        }
        for source, target, label in pairs
    ]
    texts = {
        "{}.en": english,
        "{}.de": other,
        "{}.es": other,
        "{}.txt": english,
        "{}.tsv": [f"{source}\t{target}" for source, target in zip(["en", *english], ["es", *other])],
        "{}.csv": ["text,label", *(f'"{text.replace(chr(34), "")}",{label}' for text, _, label in pairs)],
        "{}.jsonl": [json.dumps(row) for row in objects],
        "{}.conll": [
            "\n".join(f"{word} {tag}" for word, tag in zip(row["tokens"], row["ner_tags"])) + "\n"
            for row in objects
        ],
    }
    (folder / "news.en").write_text("\n".join(english) + "\n")
    names = ("train", "dev", "test", "validation", "newstest", "held_out", "other", "book", "mine")
    for name in (*names, "docs", "pairs", "titles", "lines"):
        for pattern, lines in texts.items():
            (folder / pattern.format(name)).write_text("\n".join(lines) + "\n")
    for name in ("validation", "test2016"):
        table = rows.rename_columns([{"es": "de"}.get(column, column) for column in rows.column_names])
        parquet.write_table(table, folder / f"{name}.parquet")
    (folder / "terms.tsv").write_text("land\ttierra\n")
    (folder / "strings.txt").write_text("<b>The land</b> of {name}\n")
    cues = [
        f"{number}\n00:00:0{number},000 --> 00:00:0{number},900\n{english[number]}\n" for number in (1, 2)
    ]
    (folder / "film.srt").write_text("\n".join(cues))
    recipe = (ROOT / "recipes" / "translation" / "quickstart.yaml").read_text()
    recipe = recipe.replace("dataset: bible_en_es", "validation_file: [dev.tsv]")
    (folder / "my.yaml").write_text(f"# python recipes/seq2seq.py my.yaml\n{recipe}")
    make_pictures(folder)


def make_pictures(folder: Path) -> None:
    """Coloured squares in two folders by class, and in one with their boxes in COCO's JSON."""
    boxes: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    boxes["categories"] = [{"id": 0, "name": "red"}, {"id": 1, "name": "blue"}]
    for index in range(24):
        category = index % 2
        picture = Image.new("RGB", (64, 48), "white")
        picture.paste(("red", "blue")[category], (8, 8, 24, 24))
        for place in (Path("pictures") / ("red", "blue")[category], Path("photos")):
            (folder / place).mkdir(parents=True, exist_ok=True)
            picture.save(folder / place / f"{index}.png")
        boxes["images"].append({"id": index, "file_name": f"{index}.png", "width": 64, "height": 48})
        box = {"id": index, "image_id": index, "category_id": category, "bbox": [8, 8, 16, 16], "area": 256}
        boxes["annotations"].append({**box, "iscrowd": 0})
    for name in ("boxes", "held_out"):
        (folder / f"{name}.json").write_text(json.dumps(boxes))


def make_models(folder: Path) -> None:
    """Tiny models with random weights where the pages have trained ones."""
    import torch

    import vanilla_transformer as vt

    sys.path.append(str(ROOT / "tests"))
    from tiny_marian import write_marian

    rows = parquet.read_table(CORPUS)
    tokenizer = vt.VanillaTransformerTokenizer.train(
        [rows["en"].to_pylist(), rows["es"].to_pylist()], vocab_size=600, show_progress=False
    )
    masked = vt.VanillaTransformerTokenizer.train(
        [rows["en"].to_pylist()], vocab_size=600, show_progress=False
    )
    masked.add_special_tokens({"mask_token": "<mask>"})
    torch.manual_seed(0)

    def save(head: Any, *names: str, tokenizer: Any = tokenizer, **settings: Any) -> None:
        config = vt.VanillaTransformerConfig(
            **{"vocab_size": len(tokenizer), "decoder_layers": 1, **SIZES, **settings}
        )
        model = head(config)
        if config.is_encoder_decoder:
            model.generation_config = vt.paper_generation_config(config)
        for name in names:
            model.save_pretrained(folder / "outputs" / name)
            tokenizer.save_pretrained(folder / "outputs" / name)

    save(
        vt.VanillaTransformerForConditionalGeneration,
        "quickstart",
        "mine",
        "multi30k_en_de_tiny",
        "earlier",
    )
    save(vt.VanillaTransformerForCausalLM, "bible_en", encoder_layers=0)
    save(vt.VanillaTransformerForMaskedLM, "masked", tokenizer=masked, decoder_layers=0)
    save(vt.VanillaTransformerForSequenceClassification, "news", "rotten_tomatoes", decoder_layers=0)
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    tagger = vt.VanillaTransformerForTokenClassification
    save(tagger, "token_classification_quickstart", decoder_layers=0, id2label=names)
    make_vision_models(folder / "outputs")
    pairs = list(zip(rows["en"].to_pylist(), rows["es"].to_pylist()))[:40]
    tests = [{"source": source, "translation": other, "reference": other} for source, other in pairs]
    lines = "".join(json.dumps(test) + "\n" for test in tests)
    (folder / "outputs" / "quickstart" / "translations.jsonl").write_text(lines)
    log_history = [{"step": step, "loss": 9 / step, "learning_rate": 1e-3 * step} for step in (1, 2, 3)]
    state = json.dumps({"log_history": log_history})
    (folder / "outputs" / "quickstart" / "trainer_state.json").write_text(state)
    for name in HUB:
        write_marian(folder / name)
    torch.save(a_translator_of_torch().state_dict(), folder / "model.pt")


def make_vision_models(outputs: Path) -> None:
    import vanilla_transformer as vt

    sizes = {**SIZES, "patch_size": 4, "id2label": {digit: str(digit) for digit in range(10)}}
    classes = vt.VanillaTransformerVisionConfig(**sizes, image_size=16)
    boxes = vt.VanillaTransformerDetectionConfig(**sizes, decoder_layers=1, num_queries=6)
    for name, model, size in (
        ("image_classification", vt.VanillaTransformerForImageClassification(classes), 16),
        ("object_detection", vt.VanillaTransformerForObjectDetection(boxes), 40),
    ):
        model.save_pretrained(outputs / f"{name}_quickstart")
        processor = vt.VanillaTransformerImageProcessor(size={"height": size, "width": size})
        processor.save_pretrained(outputs / f"{name}_quickstart")


def a_translator_of_torch() -> Any:
    from torch import nn

    sizes = {"dim_feedforward": 64, "num_encoder_layers": 1, "num_decoder_layers": 1, "batch_first": True}
    return nn.ModuleDict(
        {
            "src_tok_emb": nn.Embedding(50, 32),
            "tgt_tok_emb": nn.Embedding(50, 32),
            "transformer": nn.Transformer(32, 8, norm_first=True, activation="gelu", **sizes),
            "generator": nn.Linear(32, 50),
        }
    )


def remove_untrained(command: str) -> None:
    """Remove the model from the folder into which a command will train one."""
    if re.search(r"--do_train false|evaluate ", command):
        return
    given = re.search(r"--output_dir ([\w-]+(/[\w-]+)*)", command)
    settings = re.search(r"recipes/(?!accelerate)\w+/\w+\.yaml", command)
    if given:
        shutil.rmtree(given[1], ignore_errors=True)
    elif settings:
        shutil.rmtree(yaml.safe_load(Path(settings[0]).read_text())["output_dir"], ignore_errors=True)
