"""Score and finish a recipe: held-out splits, results.json, the model card, the upload."""

import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments
from transformers.trainer_utils import PredictionOutput

from ..model_card import USE, write_model_card
from ..training.publishing import publish
from ..training.trainer import VanillaTransformerTrainer

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


def finish(
    trainer: VanillaTransformerTrainer,
    *,
    task: str,
    data: str,
    scores: Mapping[str, Mapping[str, float | str]],
    model_settings: Mapping[str, object],
    facts: Mapping[str, object] | None = None,
    languages: Iterable[str] = (),
) -> None:
    """Write results.json and the model card, print the results, and upload the model if asked to.

    Args:
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
    results |= {"updates": trainer.state.global_step, **_speeds(trainer.state.log_history)}
    for metrics in scores.values():
        results |= metrics
    results |= {"minutes": minutes_since_start(), "hardware": hardware(args.world_size)}
    Path(folder, "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

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
