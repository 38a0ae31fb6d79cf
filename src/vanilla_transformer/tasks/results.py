"""What a recipe leaves and prints when it is done."""

import json
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import upload_folder
from transformers import PreTrainedTokenizerBase

from ..model_card import USE, write_model_card
from ..training.trainer import VanillaTransformerTrainer

SHOWN = ("max_steps", "num_train_epochs", "lr_scheduler_type", "warmup_steps", "seed")


def publish(
    trainer: VanillaTransformerTrainer,
    *,
    task: str,
    data: str,
    scores: Mapping[str, Mapping[str, float | str]],
    model_settings: Mapping[str, object],
    began: float,
    facts: Mapping[str, object] | None = None,
    shown: Iterable[str] = (),
    languages: Iterable[str] = (),
):
    """results.json, the same as a table on the screen, how to use the model, its card, its copy on the Hub.

    Args:
        task: the name of the pipeline that uses the model.
        data: what the model was trained on, in words.
        scores: of each split, such as `{"test": {"test_bleu": 30.1}}`.
        model_settings: the `model:` block of the recipe.
        began: `time.perf_counter()` at the start.
        facts: more for results.json, such as the size of the vocabulary.
        shown: training arguments for the card's table of settings, besides the usual ones.
        languages: codes such as "en", the source's first.
    """
    if not trainer.is_world_process_zero():
        return
    args, folder = trainer.args, trainer.args.output_dir
    results = {"parameters": trainer.model.num_parameters(), **(facts or {})}
    results |= {"updates": trainer.state.global_step, **_speeds(trainer.state.log_history)}
    for metrics in scores.values():
        results |= metrics
    results |= {"minutes": (time.perf_counter() - began) / 60, "hardware": hardware(args.world_size)}
    Path(folder, "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    print()
    for name, value in results.items():
        print(f"{name:32} {value:,.4g}" if isinstance(value, float) else f"{name:32} {value}")
    print(
        f"\nThe model is in {folder}. To use it:\n\n"
        "    import vanilla_transformer\n"
        "    from transformers import pipeline\n\n"
        f'    pipe = pipeline("{task}", model="{folder}")\n'
        f"    print(pipe({json.dumps(USE[task].example)}))  # its {USE[task].key} is the answer\n"
    )
    given = {name: value for name, value in model_settings.items() if value is not None}
    regularised = {"r_drop": args.r_drop} if args.r_drop else {}
    rate = "noam_factor" if args.lr_scheduler_type == "noam" else "learning_rate"
    write_model_card(
        folder,
        task=task,
        data=data,
        results={
            split: {name.removeprefix(f"{split}_"): value for name, value in metrics.items()}
            for split, metrics in scores.items()
        },
        model=args.hub_model_id if args.push_to_hub else None,
        settings={**given, **{name: getattr(args, name) for name in (rate, *shown, *SHOWN)}, **regularised},
        languages=languages,
        command=shlex.join(["python", *sys.argv]),
    )
    if args.push_to_hub:
        upload_folder(
            repo_id=trainer.hub_model_id,
            folder_path=folder,
            ignore_patterns=["checkpoint-*", "unfinished/*"],
            token=args.hub_token,
        )


def hardware(processes: int) -> str:
    """What this program runs on, such as "1 x NVIDIA H200" or "2 threads of AMD EPYC 7R13"."""
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        name = torch.cuda.get_device_name() if kind == "cuda" else kind
        return f"{processes} x {name}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = processes * torch.get_num_threads()
    return f"{threads} thread{'s' * (threads > 1)} of {names[0] if names else platform.machine()}"


def _speeds(log_history: list[dict]) -> dict[str, float]:
    """Means over the training, such as `target_tokens_per_second`."""
    logs = [entry for entry in log_history if "loss" in entry]
    names = dict.fromkeys(name for entry in logs for name in entry if name.endswith("_per_second"))
    return {name: float(np.mean([entry.get(name, 0) for entry in logs])) for name in names}


# The file with a task's outputs, and what one of them is called.
OUTPUTS = {
    "translation": ("translations.jsonl", "translation"),
    "summarization": ("summaries.jsonl", "summary"),
}


def write_outputs(
    split: Dataset, predictions: np.ndarray, tokenizer: PreTrainedTokenizerBase, output_dir: str, task: str
):
    """The texts that the model wrote, in the order of the data, and five, evenly spread, on the screen.

    Args:
        split: what `encode_splits` gave for the held-out data.
        predictions: token ids (rows of split, length), padded with the pad token or -100.
        task: a key of OUTPUTS.
    """
    file_name, output = OUTPUTS[task]
    ids = np.where(predictions < 0, tokenizer.pad_token_id, predictions)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    rows = sorted(zip(split["row"], split["source"], split["target"], texts))
    with open(Path(output_dir, file_name), "w", encoding="utf-8") as file:
        for _, source, reference, text in rows:
            line = {"source": source, "reference": reference, output: text}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    for _, source, reference, text in rows[:: max(1, len(rows) // 5)][:5]:
        print(f"\n  {'source':12} {source}\n  {'reference':12} {reference}\n  {output:12} {text}")
