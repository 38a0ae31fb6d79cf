"""The model card: README.md of a trained model, with metadata for the Hub and text for people."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from .extras import REPOSITORY
from .text_files import read_entries

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


class PipelineExample(NamedTuple):
    """An input for a task's pipeline."""

    example: str
    key: str  # the most useful key of the answer


USE = {
    "translation": PipelineExample("A dog runs over the field.", "translation_text"),
    "summarization": PipelineExample("A long text. It says many things.", "summary_text"),
    "text2text-generation": PipelineExample("A dog runs over the field.", "generated_text"),
    "text-generation": PipelineExample("In the beginning", "generated_text"),
    "fill-mask": PipelineExample("A dog <mask> over the field.", "token_str"),
    "text-classification": PipelineExample("What a wonderful film.", "label"),
    "token-classification": PipelineExample("Ada lives in London.", "entity"),
    "image-classification": PipelineExample("picture.png", "label"),
    "object-detection": PipelineExample("picture.png", "label"),
}

OWN_TASKS = ("translation", "summarization", "text2text-generation")  # not in transformers 5

METRIC_NAMES = {
    "bleu": "BLEU",
    "sacrebleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "area under the ROC curve",
    "f1": "F1",
    "f1_macro": "macro F1",
    "f1_seen": "F1 of seen entities",
    "f1_unseen": "F1 of unseen entities",
    "precision": "precision",
    "recall": "recall",
    "map": "mAP@[.5:.95]",
    "map_50": "mAP@.5",
    "loss": "cross-entropy",
    "perplexity": "perplexity",
    "token_accuracy": "token accuracy",
    "bits_per_character": "bits per character",
}
# Reported numbers that do not measure quality: times, and the size of the split.
NOT_QUALITY = (
    *("runtime", "_per_second", "_preparation_time", "_signature", "epoch"),
    *("tokens", "words", "characters"),
)

# What the card shows of a folder, if it is there. No picture with texts or images of the data is among them.
PICTURES = {
    "training_curves.png": "Loss and quality during training",
    "length_against_bleu.png": "BLEU by the length of the source",
    "confusion_matrix.png": "Confusion matrix",
    "reliability.png": "Reliability diagram",
}

ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~-])/[^\s,;'\"\[\]()]+")
HUB_TOKEN = re.compile(r"hf_\w{20,}")
SECRET_FLAG = re.compile(r"--(token|hub[_-]t\w*)")  # argparse also accepts --hub_tok
REDACTED = "REDACTED"


def write_model_card(
    folder: str | Path,
    *,
    task: str,
    data: str,
    results: Mapping[str, Mapping[str, float | str]],
    settings: Mapping[str, object],
    languages: Iterable[str] = (),
    command: str | None = None,
    model: str | None = None,
    example: str | None = None,
    options: Mapping[str, object] | None = None,
    license: str | None = None,
    datasets: Iterable[str] = (),
    tags: Iterable[str] = (),
    limits: Iterable[str] = (),
) -> Path:
    """Write README.md into the folder of a saved model, and return its path.

    Absolute paths become relative ones or names, and tokens of the Hub become `REDACTED`.

    Args:
        folder: a folder that `save_pretrained` wrote. The card shows the sizes of its model.
        task: a task of `pipeline`, such as "translation" or "fill-mask".
        data: a description of the training data, with size and licence.
        results: the scores of each split, such as `{"test": {"bleu": 30.1, "bleu_signature": "nrefs:1|…"}}`.
            The card skips the times and speeds that a Trainer adds.
        settings: training settings, in the order of the card.
        languages: codes such as "en", the source's first.
        command: the command that trained the model.
        model: the model's name on the Hub, for the examples of use; by default the folder.
        example: an input for the examples of use: a text, or the file name of an image.
        options: arguments for the pipeline in these examples, such as `{"tgt_lang": "es"}`.
        license: the licence of the weights, a code such as "cc-by-4.0".
        datasets: names of the data on the Hub; the scores belong to the first.
        tags: more tags for the Hub.
        limits: more sentences for the section on limits.

    Raises:
        FileNotFoundError: the folder contains no model.

    Example:
        >>> model.save_pretrained("saved")
        >>> write_model_card("saved", task="translation", data="two pairs", results={}, settings={}).name
        'README.md'
    """
    folder = Path(folder)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{config_file} does not exist: save the model before its card")
    config = read_entries(config_file)
    card = make_card(
        name=Path(model or folder.resolve()).name,
        model=model or relative_path(str(folder)),
        task=task,
        data=data,
        results=results,
        settings=settings,
        sizes=describe_sizes(config, folder),
        languages=languages,
        command=command,
        example=example,
        options=options,
        license=license,
        datasets=datasets,
        tags=tags,
        limits=limits,
        longest=config.get("max_position_embeddings"),
        model_type=None if "auto_map" in config else config.get("model_type", "unknown"),
        pictures=[name for name in PICTURES if (folder / name).is_file()],
    )
    card.save(folder / "README.md")
    return folder / "README.md"


def make_card(
    *,
    name: str,
    model: str,
    task: str,
    data: str,
    results: Mapping[str, Mapping[str, float | str]],
    settings: Mapping[str, object],
    sizes: str = "",
    languages: Iterable[str] = (),
    command: str | None = None,
    example: str | None = None,
    options: Mapping[str, object] | None = None,
    license: str | None = None,
    datasets: Iterable[str] = (),
    tags: Iterable[str] = (),
    limits: Iterable[str] = (),
    longest: int | None = None,
    cost: str = "",
    published: bool = True,
    model_type: str | None = None,
    pictures: Iterable[str] = (),
) -> ModelCard:
    """Return the card of a model that need not be on this machine; see `write_model_card`.

    Args:
        sizes: a sentence with the sizes of the model.
        longest: the most tokens that the model reads.
        cost: a sentence with the time and hardware of the training.
        published: False adds that only training gives the weights.
        model_type: of a model of transformers itself, whose folder has no code; None for this package's.
        pictures: names of PICTURES in the model's folder.
    """
    languages, datasets = list(languages), list(datasets)
    arguments = [repr_of(task), f"model={repr_of(model)}"]
    arguments += [f"{key}={repr_of(value)}" for key, value in (options or {}).items()]
    scores = [
        EvalResult(
            task_type=task,
            dataset_type=datasets[0] if datasets else "other",
            dataset_name=datasets[0] if datasets else "held-out data",
            dataset_split=split,
            metric_type=metric,
            metric_name=METRIC_NAMES.get(metric, metric.replace("_", " ")),
            metric_value=float(f"{value:.4g}") if isinstance(value, float) else value,
            metric_args={"signature": signature} if (signature := signature_of(metric, metrics)) else None,
        )
        for split, metrics in results.items()
        for metric, value in metrics.items()
        if not metric.endswith(NOT_QUALITY)
    ]
    card_data = ModelCardData(
        model_name=name,
        language=languages or None,
        license=license,
        library_name="transformers",
        pipeline_tag=task,
        tags=["vanilla-transformer", *tags],
        datasets=datasets or None,
        metrics=list(dict.fromkeys(score.metric_type for score in scores)) or None,
        eval_results=scores or None,
    )
    return ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        name=name,
        model=model,
        repository=REPOSITORY,
        published=published,
        brings_code=model_type is None,
        model_type=model_type,
        pretrained=without_secrets(str(settings.get("pretrained") or "")),
        is_own_task=task in OWN_TASKS,
        task=task,
        languages=" to ".join(languages) if task == "translation" else ", ".join(languages),
        sizes=sizes,
        arguments=", ".join(arguments),
        example=repr_of(example or USE[task].example),
        data=without_secrets(data),
        cost=cost,
        command=clean_command(command) if command else None,
        settings={key: plain(value) for key, value in settings.items() if value is not None},
        results=[table_row(score) for score in scores],
        of_images=task in ("image-classification", "object-detection"),
        longest=longest,
        limits=list(limits),
        pictures={name: PICTURES[name] for name in pictures},
    )


def plain(value: object) -> str:
    """Return a value as a reader would type it: `linear`, `true`, at most 4 digits of a float."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value):
        rounded = float(f"{value:.4g}")
        return str(int(rounded)) if rounded.is_integer() else str(rounded)
    return without_secrets(str(value))


def clean_command(command: str) -> str:
    """Return a command with relative paths and without the value of --hub_token or --token."""
    words = redact_flags(shlex.split(command))
    return shlex.join(
        relative_path(word) if word.startswith("/") else without_secrets(word) for word in words
    )


def redact_flags(words: Iterable[str]) -> list[str]:
    """Return the words of a command without the values of --hub_token and --token."""
    redacted: list[str] = []
    for word in words:
        flag, equals, _ = word.partition("=")
        if redacted and SECRET_FLAG.fullmatch(redacted[-1]):
            word = REDACTED
        elif equals and SECRET_FLAG.fullmatch(flag):
            word = f"{flag}={REDACTED}"
        redacted.append(word)
    return redacted


def without_secrets(text: str) -> str:
    """Return text with relative paths and without tokens of the Hub."""
    text = ABSOLUTE_PATH.sub(lambda match: relative_path(match[0]), text)
    return HUB_TOKEN.sub(REDACTED, text)


def relative_path(path: str) -> str:
    """Return an absolute path relative to the current folder, or only its name if it is elsewhere."""
    absolute = Path(path)
    if not absolute.is_absolute():
        return path
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else absolute.name


def signature_of(metric: str, metrics: Mapping[str, float | str]) -> str | None:
    """Return the signature of a metric or of its family: `rouge_signature` belongs to rouge1 and rougeL."""
    signed = {name.removesuffix("_signature"): name for name in metrics if name.endswith("_signature")}
    return next((str(metrics[name]) for family, name in signed.items() if metric.startswith(family)), None)


def table_row(score: EvalResult) -> list[str]:
    """Return the cells of one score."""
    cells = [
        f"{score.dataset_name}, {score.dataset_split}",
        str(score.metric_name),
        plain(score.metric_value),
    ]
    cells.append(score.metric_args["signature"] if score.metric_args else "")
    return [cell.replace("|", "\\|") for cell in cells]


def describe_sizes(config: dict, folder: Path) -> str:
    """Return one sentence with the sizes of the model."""
    stacks = [
        f"{config[f'{stack}_layers']} {stack} layers"
        for stack in ("encoder", "decoder")
        if config.get(f"{stack}_layers")
    ]
    words = {
        "hidden_size": "width {}",
        "intermediate_size": "feed-forward width {}",
        "num_attention_heads": "{} heads",
    }
    parts = [
        " and ".join(stacks),
        *(text.format(config[key]) for key, text in words.items() if key in config),
    ]
    if weights := count_weights(folder):
        parts.append(f"{weights:,} parameters")
    sentence = ", ".join(part for part in parts if part)
    return f"It has {sentence}." if sentence else ""


def count_weights(folder: Path) -> int:
    """Count the numbers in the safetensors files of a folder. Tied weights count once."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def repr_of(value: object) -> str:
    """Return a value as Python source, with double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


__all__ = ["USE", "PipelineExample", "write_model_card"]
