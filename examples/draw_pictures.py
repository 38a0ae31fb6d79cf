"""Draw the pictures of docs/pictures.md again, as SVG and PNG, with models that the quickstarts train.

    make quickstart
    for task in image_classification object_detection text_classification; do
        python recipes/$task.py recipes/$task/quickstart.yaml; done
    python examples/draw_pictures.py docs/pictures

It takes a minute. Pictures whose model is missing are skipped.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import torch
from transformers import pipeline

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerDetectionConfig,
    VanillaTransformerVisionConfig,
    choose_attention,
    load_corpus,
)
from vanilla_transformer import visualization as pictures
from vanilla_transformer.corpora.digits import DigitCanvases, load_digits

SOURCE = "Yahweh said to Moses, I will give you this land."


def of_the_paper(save):
    """Pictures that need no trained model."""
    save("positional_encoding", pictures.plot_positional_encoding())
    save("position_similarity", pictures.plot_position_similarity())
    save("learning_rates", pictures.plot_learning_rates())
    save("architecture", pictures.plot_architecture(VanillaTransformerConfig()))
    vit = VanillaTransformerVisionConfig(num_labels=1000)
    save("architecture_vision", pictures.plot_architecture(vit))
    detector = VanillaTransformerDetectionConfig.from_preset("tiny", num_labels=10)
    save("architecture_detection", pictures.plot_architecture(detector))


def of_a_translator(save, folder):
    pipe = pipeline("translation", model=str(folder))
    model, tokenizer = pipe.model, pipe.tokenizer
    save("attention", pictures.plot_attention(model, tokenizer, SOURCE))
    save("attention_heads", pictures.plot_attention(model, tokenizer, SOURCE, head="all"))
    save("attention_self", pictures.plot_attention(model, tokenizer, SOURCE, kind="encoder", layer=0))
    save("attention_masked", pictures.plot_attention(model, tokenizer, SOURCE, kind="decoder"))
    save("embeddings", pictures.plot_embeddings(model, tokenizer, frequent_words(120)))
    save.text("attention_page.html", pictures.attention_page(model, tokenizer, SOURCE))
    log_history = json.loads(Path(folder, "trainer_state.json").read_text())["log_history"]
    save("training_curves", pictures.plot_training_curves(log_history))
    lines = Path(folder, "translations.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in lines]
    sources, outputs, references = (
        [line[key] for line in lines] for key in ("source", "translation", "reference")
    )
    save("length_against_bleu", pictures.plot_length_against_bleu(sources, outputs, references))
    choose_attention(model, tokenizer, sources[:300], outputs[:300])  # the layer that aligns words best
    save("alignment", pictures.plot_alignment(model, tokenizer, SOURCE))


def of_a_text_classifier(save, folder):
    report = json.loads(Path(folder, "classes.json").read_text(encoding="utf-8"))
    names = list(report["classes"])
    save("confusion_matrix", pictures.plot_confusion_matrix(report["confusion_matrix"], names))
    pipe = pipeline("text-classification", model=str(folder))
    test = load_corpus("bible_en_es")["test"]
    inputs = [pipe.tokenizer(text, return_tensors="pt", truncation=True) for text in test["en"]]
    with torch.no_grad():
        probabilities = torch.cat([pipe.model(**each).logits.softmax(-1) for each in inputs])
    parts = test.features["part"].names
    labels = [pipe.model.config.label2id[parts[part]] for part in test["part"]]
    save("reliability", pictures.plot_reliability(probabilities, labels))


def of_an_image_classifier(save, folder):
    pipe = pipeline("image-classification", model=str(folder))
    digits = load_digits()["validation"]
    chosen = [digits[index]["image"] for index in range(6)]
    titles = [found[0]["label"] for found in pipe(chosen)]
    save(
        "image_attention",
        pictures.plot_image_attention(pipe.model, pipe.image_processor, chosen, titles=titles),
    )


def of_a_detector(save, folder):
    pipe = pipeline("object-detection", model=str(folder))
    canvas, _ = DigitCanvases("test", 40)[18]
    save("detections", pictures.plot_detections(canvas, pipe(canvas)))
    save("query_attention", pictures.plot_query_attention(pipe.model, pipe.image_processor, canvas))


def frequent_words(count):
    """The most frequent words of the Bible's English that have more than three letters."""
    texts = load_corpus("bible_en_es")["train"]["en"]
    words = Counter(word for text in texts for word in re.findall(r"(?<!\S)[a-z]{4,}(?!\S)", text))
    return [word for word, _ in words.most_common(count)]


class Saver:
    """Saves pictures under their names."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name, figure):
        for suffix in ("svg", "png"):
            figure.savefig(self.folder / f"{name}.{suffix}")

    def text(self, name, text):
        Path(self.folder, name).write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write the pictures")
    parser.add_argument("--translator", type=Path, default="outputs/quickstart")
    parser.add_argument("--text_classifier", type=Path, default="outputs/text_classification_quickstart")
    parser.add_argument("--image_classifier", type=Path, default="outputs/image_classification_quickstart")
    parser.add_argument("--detector", type=Path, default="outputs/object_detection_quickstart")
    args = parser.parse_args()

    save = Saver(args.folder)
    of_the_paper(save)
    for draw, model in (
        (of_a_translator, args.translator),
        (of_a_text_classifier, args.text_classifier),
        (of_an_image_classifier, args.image_classifier),
        (of_a_detector, args.detector),
    ):
        if Path(model, "config.json").is_file():
            draw(save, model)
        else:
            print(f"skipped: {model} holds no model")


if __name__ == "__main__":
    main()
