"""The pictures that recipes draw, and the page that explains all pictures."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerForCausalLM,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForImageClassification,
    VanillaTransformerForObjectDetection,
    VanillaTransformerImageProcessor,
    VanillaTransformerTokenizer,
    VanillaTransformerVisionConfig,
    write_model_card,
)
from vanilla_transformer.tasks import labels, pictures
from vanilla_transformer.training.publishing import PUBLISHED

ROOT = Path(__file__).parents[1]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "encoder_layers": 1}
SIZES |= {"decoder_layers": 1}
TEXT = {"source": ["y " * 50, "su hijo dió su tierra"], "target": ["su " * 40, "hijo dió"]}


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["Y dió Jehová á su hijo su tierra."] * 2
    return VanillaTransformerTokenizer.train([texts], vocab_size=290, show_progress=False)


def trainer_of(model, processor=None, sharded=False):
    torch.manual_seed(0)
    return SimpleNamespace(
        model=model.eval(), processing_class=processor, is_fsdp_enabled=sharded, is_deepspeed_enabled=False
    )


def translator(tokenizer):
    return VanillaTransformerForConditionalGeneration(
        VanillaTransformerConfig(vocab_size=len(tokenizer), **SIZES)
    )


def image_model(head, config, **settings):
    names = {number: str(number) for number in range(10)}
    model = head(config(**SIZES | settings, patch_size=8, id2label=names))
    return trainer_of(model, VanillaTransformerImageProcessor(size={"height": 16, "width": 16}))


def files(folder):
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    return sorted(path.stem for path in folder.iterdir())


def texts_arguments(task="translation"):
    return SimpleNamespace(task=task, bleu_tokenize="13a", lowercase=False, target_lang="es")


@pytest.mark.parametrize("task", ["translation", "summarization"])
def test_texts(tokenizer, tmp_path, task):
    predictions = np.array([[0, 5, 6, 2, -100], [0, 20, 21, 30, 2]])
    trainer = trainer_of(translator(tokenizer))
    pictures.draw_texts(trainer, TEXT, predictions, tokenizer, tmp_path, texts_arguments(task))
    assert files(tmp_path) == ["attention"] + ["length_against_bleu"] * (task == "translation")


def test_the_text_that_is_drawn_is_short():
    assert pictures.short(TEXT["source"]) == 1
    assert pictures.short(["a " * 30, "b " * 20, "c " * 90]) == 1
    assert len(pictures.opening("字" * 900)) == 80 and pictures.opening("a " * 90).count("a") == 12


@pytest.mark.parametrize("objective", ["causal", "denoising"])
def test_language_models(tokenizer, tmp_path, objective):
    config = VanillaTransformerConfig(vocab_size=len(tokenizer), **SIZES | {"encoder_layers": 0})
    model = translator(tokenizer) if objective == "denoising" else VanillaTransformerForCausalLM(config)
    pictures.draw_language_model(trainer_of(model), TEXT["source"], tokenizer, tmp_path, objective)
    assert files(tmp_path) == ["attention"]


def test_sharded_models_are_not_run_by_one_process(tokenizer, tmp_path):
    trainer = trainer_of(translator(tokenizer), sharded=True)
    predictions = np.array([[0, 5, 2], [0, 6, 2]])
    pictures.draw_texts(trainer, TEXT, predictions, tokenizer, tmp_path, texts_arguments())
    pictures.draw_language_model(trainer, TEXT["source"], tokenizer, tmp_path, "denoising")
    assert files(tmp_path) == ["length_against_bleu"]


def test_classes(tmp_path):
    logits, given = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 4 - 1
    given[given < 0] = -100
    report = labels.class_report(logits, given, ["a", "b", "c"])
    pictures.draw_classes(report, logits, given, tmp_path)
    assert files(tmp_path) == ["confusion_matrix", "reliability"]


def test_images(tmp_path):
    trainer = image_model(
        VanillaTransformerForImageClassification,
        VanillaTransformerVisionConfig,
        decoder_layers=0,
        image_size=16,
    )
    images = [{"image": Image.new("RGB", (16, 16)), "labels": 3}] * 2
    pictures.draw_image_attention(trainer, images, tmp_path)
    assert files(tmp_path) == ["image_attention"]


def test_detections(tmp_path):
    trainer = image_model(
        VanillaTransformerForObjectDetection, VanillaTransformerDetectionConfig, num_queries=3
    )
    image = Image.new("RGB", (16, 16))
    pictures.draw_detections(trainer, [(image, {"annotations": []}), (image, {"annotations": [1]})], tmp_path)
    assert files(tmp_path) == ["detections", "query_attention"]


def test_a_failure_is_one_warning(tmp_path, caplog):
    pictures.draw_classes({"confusion_matrix": [[1]], "classes": ["a", "b"]}, None, None, tmp_path)
    assert caplog.messages == [
        "some pictures were not drawn: the matrix has the shape (1, 1), but there are 2 names"
    ]


def test_without_matplotlib_there_is_one_warning(tmp_path, caplog, monkeypatch):
    for name in [name for name in sys.modules if "visualization" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    pictures.draw_classes({"confusion_matrix": [[1]], "classes": ["a"]}, None, None, tmp_path)
    (message,) = caplog.messages
    assert "matplotlib is missing: install the extra [plot]" in message and not list(tmp_path.iterdir())


def test_the_page_shows_every_picture_that_is_kept():
    page = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    kept = list((ROOT / "docs" / "pictures").iterdir())
    for path in kept:
        assert path.stat().st_size < 200_000
        assert f"pictures/{path.with_suffix('.svg').name}" in page or path.name in page
    assert {path.suffix for path in kept} == {".svg", ".png", ".html"}


def test_the_card_shows_the_pictures_of_its_folder(tokenizer, tmp_path):
    translator(tokenizer).save_pretrained(tmp_path)
    for name in ("training_curves.png", "attention.png"):
        (tmp_path / name).touch()
    write_model_card(tmp_path, task="translation", data="d", results={"test": {"bleu": 3.1}}, settings={})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "](training_curves.png)" in card  # a file that is uploaded too
    assert "attention.png" not in card  # it has a sentence of the data
    assert "training_curves.png" in PUBLISHED and "attention.png" not in PUBLISHED
