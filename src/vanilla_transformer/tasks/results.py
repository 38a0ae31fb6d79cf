"""Train, score and finish a recipe: held-out splits, results.json, the model card, the upload."""

import hashlib
import json
import logging
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import psutil
import torch
from torch.utils.data import Dataset
from transformers import AutoConfig, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, PredictionOutput

from ..model_card import USE, write_model_card
from ..training.publishing import publish
from ..training.trainer import VanillaTransformerTrainer
from .records import circumstances, data_record
from .sources import SourceArguments
from .text import loading

logger = logging.getLogger(__name__)

# Training arguments on the card: the first are always shown, the others if they differ from their defaults.
ALWAYS_SHOWN = ("max_steps", "num_train_epochs", "lr_scheduler_type", "warmup_steps", "seed")
SHOWN_IF_SET = (
    "noam_factor",
    "learning_rate",
    "max_source_tokens",
    "max_target_tokens",
    "tokens_per_update",
    "per_device_train_batch_size",
    "label_smoothing_factor",
    "weight_decay",
    "r_drop",
)


class Place(NamedTuple):
    """Where the scores and outputs of a run go.

    Attributes:
        file: JSON of the scores.
        folder: of the model's outputs.
        has_card: whether the scores belong on the model card.
        settings: on which the scores depend besides the data.
    """

    file: Path
    folder: Path
    has_card: bool
    settings: dict[str, object]


def train(
    trainer: VanillaTransformerTrainer, data: SourceArguments, checkpoint: str | None = None
) -> dict[str, float]:
    """Train and save the model; return the metrics of the training. With do_train=false it does nothing.

    A checkpoint records the checksums of the training files, and resuming compares them.
    """
    if not trainer.args.do_train:
        return {}
    if trainer.eval_dataset is not None and trainer.args.eval_strategy == IntervalStrategy.NO:
        logger.info("the validation data are scored after training; eval_strategy=steps also does it during")
    files = data_record(data).get("train", {})
    trainer.data_record = {
        "checksums of the training files": list(files.values()),
    }
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    trainer.save_model()
    trainer.save_state()
    if isinstance(trainer.train_dataset, Sized):
        metrics = {"train_examples": len(trainer.train_dataset), **metrics}
    return metrics


def place_results(args: TrainingArguments, data: SourceArguments, **settings: object) -> Place:
    """Return where to write: the scores of a training run in results.json, all others beside it.

    The others are those of do_train=false, and of a resumed run with other held-out data than before. They
    are named after the held-out data, so they replace no scores of other data or settings.

    Args:
        settings: on which the scores depend besides, such as those of decoding.
    """
    folder, record = Path(str(args.output_dir)), data_record(data)
    settings |= {"precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"}
    main = folder / "results.json"
    if args.do_train and _agrees(main, record):
        return Place(main, folder, True, settings)
    held_out = record.get("test") or record.get("validation") or {}
    name = held_out.get("dataset", next(iter(held_out), "data")).rstrip("/").rpartition("/")[2].split(".")[0]
    if not _agrees(folder / f"results_{name}.json", record, settings):
        name += "_" + hashlib.sha256(json.dumps([record, settings]).encode()).hexdigest()[:8]
    place = Place(folder / f"results_{name}.json", folder / f"outputs_{name}", False, settings)
    place.folder.mkdir(exist_ok=True)
    return place


def _agrees(
    file: Path, record: Mapping[str, Mapping[str, str]], settings: Mapping[str, object] | None = None
) -> bool:
    """Whether a file of results is about the same held-out data and settings, or does not exist."""
    if not file.is_file():
        return True
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        data = results.get("data", {})
        # Lists, because source and target may have changed places.
        alike = all(
            list(data.get(split, {}).items()) == list(record.get(split, {}).items())
            for split in ("validation", "test")
        )
        return alike and (settings is None or results.get("settings") == json.loads(json.dumps(settings)))
    except (ValueError, AttributeError):
        return False


def finish(
    trainer: VanillaTransformerTrainer,
    place: Place,
    *,
    sources: SourceArguments,
    task: str,
    data: str,
    scores: Mapping[str, Mapping[str, float | str]],
    model_settings: Mapping[str, object],
    facts: Mapping[str, object] | None = None,
    languages: Iterable[str] = (),
) -> None:
    """Write the results and the model card, print the results, and upload the model if asked to.

    Args:
        place: of `place_results`.
        sources: the data, whose checksums the results record.
        task: the name of the pipeline that uses the model.
        data: a description of the training data.
        scores: the metrics of each split, such as `{"test": {"test_bleu": 30.1}}`.
        model_settings: the `model:` block of the recipe.
        facts: more entries of results.json, such as the size of the vocabulary.
        languages: codes such as "en", the source's first.
    """
    if not trainer.is_world_process_zero():
        return
    model = trainer.model
    args, folder = trainer.args, str(trainer.args.output_dir)
    results: dict[str, object] = {"parameters": model.num_parameters(), **(facts or {})}
    if args.do_train:
        results |= {"updates": trainer.state.global_step, **_speeds(trainer.state.log_history)}
    for metrics in scores.values():
        results |= metrics
    results |= {"minutes": minutes_since_start(), "hardware": hardware(args.world_size)}
    for name, value in results.items():
        if isinstance(value, float) and not math.isfinite(value):
            results[name] = str(value)  # JSON has no such numbers
    record = {split: files for split, files in data_record(sources).items() if split in sources.splits}
    recorded = {**results, **circumstances(args), "settings": place.settings, "data": record}
    place.file.write_text(json.dumps(recorded, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    print()
    for name, value in results.items():
        print(f"{name:32} {value:,.4g}" if isinstance(value, float) else f"{name:32} {value}")
    print(
        f"\nThe model is in {folder}. To use it:\n\n"
        "    import vanilla_transformer\n"
        "    from transformers import pipeline\n\n"
        f'    pipe = pipeline("{task}", model="{folder}")\n'
        f"    print(pipe({json.dumps(USE[task].example)}))  # see its {USE[task].key}\n"
    )
    if not place.has_card:
        print(f"The scores are in {place.file}.")
        if any(place.folder.iterdir()):
            print(f"The model's outputs are in {place.folder}.")
        else:
            place.folder.rmdir()
        return
    write_model_card(
        folder,
        task=task,
        data=data,
        results={
            split: {name.removeprefix(f"{split}_"): value for name, value in metrics.items()}
            for split, metrics in scores.items()
        },
        model=args.hub_model_id if args.push_to_hub else None,
        settings={name: value for name, value in model_settings.items() if value is not None} | _shown(args),
        languages=languages,
        command=shlex.join(["python", *sys.argv]),
    )
    if args.push_to_hub:
        publish(folder, cast(str, trainer.hub_model_id), token=args.hub_token, revision=args.hub_revision)


def described(data: SourceArguments, splits: Mapping[str, Any], what: str) -> str:
    """Return a description of the training data, such as "train.jsonl, 1,000 texts of the classes a, b"."""
    train = splits.get("train")
    count = f"{len(train):,} " if isinstance(train, Sized) else ""
    return f"{data.described()}, {count}{what}"


def trained_labels(args: TrainingArguments) -> list[str] | None:
    """Return the labels of the model to score, or None if there is one to train."""
    if args.do_train:
        return None
    folder = str(args.output_dir)
    with loading("output_dir", folder):
        labels = AutoConfig.from_pretrained(folder).id2label
    return [labels[number] for number in sorted(labels)]


def predict(
    trainer: VanillaTransformerTrainer,
    split: Dataset,
    name: str,
    compute_metrics: Callable | None = None,
    **generation: Any,
) -> PredictionOutput:
    """Predict a held-out split, and score it.

    Args:
        name: the name of the split. The metrics have it as a prefix, such as `test_loss`.
        compute_metrics: scores this split instead of the trainer's own `compute_metrics`.
        generation: arguments of `generate`, for a `VanillaTransformerSeq2SeqTrainer`.
    """
    during_training = trainer.compute_metrics
    trainer.compute_metrics = compute_metrics or during_training
    try:
        return trainer.predict(split, metric_key_prefix=name, **generation)
    finally:
        trainer.compute_metrics = during_training


def _shown(args: TrainingArguments) -> dict[str, object]:
    defaults = {field.name: field.default for field in fields(args)}
    names = [name for name in SHOWN_IF_SET if getattr(args, name) not in (defaults[name], None)]
    if args.lr_scheduler_type == "noam":
        names = [name for name in names if name != "learning_rate"]
    return {name: getattr(args, name) for name in (*names, *ALWAYS_SHOWN)}


def minutes_since_start() -> float:
    """Return the minutes since this program started."""
    return (time.time() - psutil.Process().create_time()) / 60


def hardware(processes: int) -> str:
    """Return what this program runs on, such as "1 x NVIDIA H200" or "2 threads of AMD EPYC 7R13"."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device:
        name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
        return f"{processes} x {name}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = processes * torch.get_num_threads()
    return f"{threads} thread{'s' * (threads > 1)} of {names[0] if names else platform.machine()}"


def _speeds(log_history: list[dict]) -> dict[str, float]:
    """Return the mean of each logged speed, such as `target_tokens_per_second`."""
    logs = [entry for entry in log_history if "loss" in entry]
    names = dict.fromkeys(name for entry in logs for name in entry if name.endswith("_per_second"))
    return {name: float(np.mean([entry.get(name, 0) for entry in logs])) for name in names}
