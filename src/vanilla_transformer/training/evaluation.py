"""Evaluation: the likelihood of the whole set per token, without smoothing, on any number of processes."""

import math
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..losses import IGNORE_INDEX
from .checkpoints import CheckpointingTrainer


class EvaluatingTrainer(CheckpointingTrainer):
    """A Trainer whose evaluation loss is the negative log-likelihood per token of the whole set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._totals = torch.zeros(3, dtype=torch.float64)  # negative log-likelihood, items, correct items
        self._scores_tokens = True

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        self.gather_function = self.accelerator.gather_for_metrics  # drops what fills up the last batch
        self._totals.zero_()
        loop: Any = super().evaluation_loop
        output = loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        likelihood, count, correct = self._totals.tolist()
        if count:
            loss = likelihood / count
            output.metrics[f"{metric_key_prefix}_loss"] = loss
            if self._scores_tokens:
                output.metrics[f"{metric_key_prefix}_perplexity"] = math.exp(min(loss, 700))
                output.metrics[f"{metric_key_prefix}_token_accuracy"] = correct / count
            else:
                output.metrics.setdefault(f"{metric_key_prefix}_accuracy", correct / count)
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        step: Any = partial(Trainer.prediction_step, self)  # past Seq2SeqTrainer's, which would generate
        if not is_class_ids(inputs.get("labels")):
            return step(model, inputs, prediction_loss_only, ignore_keys)
        loss, outputs, labels = step(model, inputs, False, ignore_keys)
        self._score(outputs[0] if isinstance(outputs, tuple) else outputs, labels)
        return (loss, None, None) if prediction_loss_only else (loss, outputs, labels)

    def _score(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch of all processes to the totals."""
        self._scores_tokens = labels.ndim > 1
        if self._loss_shifts_labels:  # a causal model's logits predict the next label
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        real = labels != IGNORE_INDEX
        likelihood = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="none")
        correct = (logits.argmax(-1) == labels) & real
        sums = [score.float().reshape(len(labels), -1).sum(1) for score in (likelihood, real, correct)]
        scores = torch.stack(sums, dim=1)  # (batch, 3)
        self._totals += self.gather_function(scores).cpu().double().sum(0)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if self.args.world_size > 1 and isinstance(dataset, IterableDataset):
            raise ValueError(
                f"{self.args.world_size} processes cannot count a streamed evaluation set exactly: "
                "load it whole (streaming=False)"
            )
        return super().get_eval_dataloader(eval_dataset)


def is_class_ids(labels: Any) -> bool:
    """Whether labels are ids of classes or tokens, not shares of classes or lists of boxes."""
    return isinstance(labels, torch.Tensor) and not labels.is_floating_point()
