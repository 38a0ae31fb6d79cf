"""Score generated texts, and write them to a file."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from ..losses import IGNORE_INDEX
from ..metrics import load_metric
from ..metrics.text import bleu_tokenizer
from .seq2seq import Seq2SeqArguments
from .sources import reader_of

logger = logging.getLogger(__name__)

# Task -> the file of the model's outputs, and the key of an output in that file.
OUTPUTS = {
    "translation": ("translations.jsonl", "translation"),
    "summarization": ("summaries.jsonl", "summary"),
}

ComputeMetrics: TypeAlias = Callable[[EvalPrediction], dict[str, float | str]]


def text_metrics(
    data: Seq2SeqArguments, tokenizer: PreTrainedTokenizerBase, references: Sequence[str] | None = None
) -> ComputeMetrics:
    """Return `translation_metrics` or `summarization_metrics`, whichever belongs to the task."""
    if data.task == "summarization":
        return summarization_metrics(tokenizer, references)
    return translation_metrics(tokenizer, references, data.lowercase, bleu_tokenization(data))


def bleu_tokenization(data: Seq2SeqArguments) -> str:
    """Return the name of sacreBLEU's tokenization for the target language, such as "zh"."""
    return data.bleu_tokenize or bleu_tokenizer(data.target_lang or _suffix_of_target(data))


def _suffix_of_target(data: Seq2SeqArguments) -> str | None:
    """Return "zh" for the text files `test.en test.zh`, or None."""
    for files in (data.test_file, data.validation_file, data.train_file):
        if files and reader_of(files[-1]) is None:
            suffixes = [suffix for suffix in Path(files[-1]).suffixes if suffix not in (".gz", ".txt")]
            return suffixes[-1][1:] if suffixes else None
    return None


def translation_metrics(
    tokenizer: PreTrainedTokenizerBase,
    references: Sequence[str] | None = None,
    lowercase: bool = False,
    tokenize: str = "13a",
) -> ComputeMetrics:
    """Return a `compute_metrics` that scores generated token ids by BLEU and chrF, each with its signature.

    Args:
        references: the target texts in the order of the evaluation set. Without them the labels are decoded:
            those texts are the same only if the tokenizer is lossless and no target was cut.
        lowercase: ignore case. The signatures show it.
        tokenize: sacreBLEU's tokenizer, such as `bleu_tokenizer("zh")`. The signature of BLEU shows it.
    """
    loaded = {
        "bleu": load_metric("sacrebleu", lowercase=lowercase, tokenize=tokenize),
        "chrf": load_metric("chrf", lowercase=lowercase),
    }

    def score(texts: dict[str, list[str]]) -> dict[str, float | str]:
        results = {name: metric.compute(**texts) for name, metric in loaded.items()}
        scores = {name: result["score"] for name, result in results.items()}
        return scores | {f"{name}_signature": result["signature"] for name, result in results.items()}

    return _of_texts(score, tokenizer, references)


def summarization_metrics(
    tokenizer: PreTrainedTokenizerBase, references: Sequence[str] | None = None
) -> ComputeMetrics:
    """Return a `compute_metrics` that scores by ROUGE-1, -2, -L and -Lsum, from 0 to 100.

    Words are stemmed if the references are English. `references` are those of `translation_metrics`.
    """
    rouge = load_metric("rouge")

    def score(texts: dict[str, list[str]]) -> dict[str, float | str]:
        scores = rouge.compute(**texts)
        return {"rouge_signature": scores.pop("signature")} | {
            name: 100 * value for name, value in scores.items()
        }

    return _of_texts(score, tokenizer, references)


def _of_texts(
    score: Callable[[dict[str, list[str]]], dict[str, float | str]],
    tokenizer: PreTrainedTokenizerBase,
    references: Sequence[str] | None,
) -> ComputeMetrics:
    """Return a `compute_metrics` that decodes the token ids and calls `score` with the texts."""

    def decode(ids: Any) -> list[str]:
        ids = np.where(ids == IGNORE_INDEX, tokenizer.pad_token_id, ids)
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def compute(prediction: EvalPrediction) -> dict[str, float | str]:
        outputs = decode(prediction.predictions)
        targets = decode(prediction.label_ids) if references is None else list(references)
        if len(outputs) != len(targets):
            raise ValueError(f"{len(outputs)} outputs but {len(targets)} references")
        return score({"predictions": outputs, "references": targets})

    return compute


def write_outputs(
    split: Dataset, predictions: np.ndarray, tokenizer: PreTrainedTokenizerBase, output_dir: str, task: str
) -> None:
    """Write the model's texts in the order of the data, and print five of them, evenly spaced.

    Args:
        split: a held-out split of `encode_splits`.
        predictions: token ids (rows of split, length), padded with the pad token or -100.
        task: a key of OUTPUTS.
    """
    file_name, output = OUTPUTS[task]
    ids = np.where(predictions < 0, tokenizer.pad_token_id, predictions)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    rows = sorted(zip(split["row"], split["source"], split["target"], texts))
    if (blank := sum(not text.strip() for text in texts)) > len(texts) / 2:
        logger.warning(
            "%d of %d outputs are blank: the model has learned too little. Train longer, and check in "
            "learning_rate.png that the learning rate reached its peak",
            blank,
            len(texts),
        )
    with open(Path(output_dir, file_name), "w", encoding="utf-8") as file:
        for _, source, reference, text in rows:
            line = {"source": source, "reference": reference, output: text}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    for _, source, reference, text in rows[:: max(1, len(rows) // 5)][:5]:
        print(f"\n  {'source':12} {source}\n  {'reference':12} {reference}\n  {output:12} {text}")
