"""The pictures that a recipe draws beside its scores.

They cost seconds. If one cannot be drawn, a warning says why: the run itself has succeeded.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, pipeline

from .seq2seq import Seq2SeqArguments
from .text_scores import bleu_tokenization

logger = logging.getLogger(__name__)

Drawing = ParamSpec("Drawing")
WORDS = range(5, 13)  # of a text whose attention is legible
CHARACTERS = 80  # of a text without spaces
IMAGES = 6  # whose attention is drawn
LIKELY = 0.3  # the score of an object that is drawn


def optional(draw: Callable[Drawing, None]) -> Callable[Drawing, None]:
    """Log an error instead of raising it."""

    @functools.wraps(draw)
    def draw_or_warn(*args: Drawing.args, **kwargs: Drawing.kwargs) -> None:
        try:
            draw(*args, **kwargs)
        except Exception as error:  # a picture is no reason to lose the card of a long training
            logger.warning("some pictures were not drawn: %s", " ".join(str(error).split()))
            logger.debug("Traceback of the error above:", exc_info=True)

    return draw_or_warn


@optional
def draw_texts(
    trainer: Any,
    split: Dataset,
    predictions: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    data: Seq2SeqArguments,
) -> None:
    """Draw attention.png, of one sentence, and for a translator length_against_bleu.png.

    Args:
        split, predictions, tokenizer: those of `text_scores.write_outputs`.
    """
    from ..visualization import plot_attention, plot_length_against_bleu

    ids = np.where(predictions < 0, tokenizer.pad_token_id, predictions)
    sources, outputs = split["source"], tokenizer.batch_decode(ids, skip_special_tokens=True)
    if data.task == "translation":
        tokenize = bleu_tokenization(data)
        figure = plot_length_against_bleu(
            sources, outputs, split["target"], tokenize=tokenize, lowercase=data.lowercase
        )
        figure.savefig(folder / "length_against_bleu.png")
    if is_whole(trainer):
        chosen = short(sources)
        source, output = opening(sources[chosen]), opening(outputs[chosen])
        plot_attention(trainer.model, tokenizer, source, output).savefig(folder / "attention.png")


@optional
def draw_language_model(
    trainer: Any, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, folder: Path, objective: str
) -> None:
    """Draw attention.png, of the opening of a text."""
    from ..visualization import plot_attention

    if is_whole(trainer):
        text = opening(texts[0])
        kind: Any = {"causal": "decoder", "masked": "encoder", "denoising": "cross"}[objective]
        target = text if kind == "cross" else None
        figure = plot_attention(trainer.model, tokenizer, text, target, kind=kind)
        figure.savefig(folder / "attention.png")


@optional
def draw_classes(report: dict, logits: Any, labels: np.ndarray, folder: Path) -> None:
    """Draw confusion_matrix.png and reliability.png.

    Args:
        report, logits, labels: those of `labels.class_report`.
    """
    from ..visualization import plot_confusion_matrix, plot_reliability

    figure = plot_confusion_matrix(report["confusion_matrix"], list(report["classes"]))
    figure.savefig(folder / "confusion_matrix.png")
    logits = logits[0] if isinstance(logits, tuple) else logits
    probabilities = torch.from_numpy(np.asarray(logits, dtype=np.float64)).softmax(-1).numpy()
    plot_reliability(probabilities, labels).savefig(folder / "reliability.png")


@optional
def draw_image_attention(trainer: Any, images: Any, folder: Path) -> None:
    """Draw image_attention.png, of the first images.

    Args:
        images: an `image_classification.LabelledImages`.
    """
    from ..visualization import plot_image_attention

    if is_whole(trainer):
        examples = [images[index] for index in range(min(IMAGES, len(images)))]
        names = trainer.model.config.id2label
        figure = plot_image_attention(
            trainer.model,
            trainer.processing_class,
            [example["image"] for example in examples],
            titles=[names[example["labels"]] for example in examples],
        )
        figure.savefig(folder / "image_attention.png")


@optional
def draw_detections(trainer: Any, images: Any, folder: Path) -> None:
    """Draw detections.png and query_attention.png, of the first image with objects.

    Args:
        images: an `object_detection.AnnotatedImages`, or canvases with digits.
    """
    from ..visualization import plot_detections, plot_query_attention

    if not is_whole(trainer):
        return
    examples = (images[index] for index in range(len(images)))
    image = next(image for image, annotation in examples if annotation["annotations"])
    model, processor = trainer.model, trainer.processing_class
    detect = pipeline("object-detection", model=model, image_processor=processor)
    plot_detections(image, detect(image, threshold=LIKELY)).savefig(folder / "detections.png")
    plot_query_attention(model, processor, image, threshold=LIKELY).savefig(folder / "query_attention.png")


def is_whole(trainer: Any) -> bool:
    """Whether this process has all weights: if they are sharded, one process alone waits for ever."""
    return not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def short(texts: Sequence[str]) -> int:
    """Return the index of the first text with a legible number of words, or that of the shortest."""
    counts = [len(text.split()) for text in texts]
    fitting = (index for index, count in enumerate(counts) if count in WORDS)
    return next(fitting, int(np.argmin([len(text) for text in texts])))


def opening(text: str) -> str:
    """Return the first words of a text."""
    return " ".join(text.split()[: WORDS[-1]])[:CHARACTERS]
