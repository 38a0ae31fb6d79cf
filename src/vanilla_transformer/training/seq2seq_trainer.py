"""Text generation during evaluation and prediction."""

from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import Seq2SeqTrainer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.trainer_utils import PredictionOutput

from .trainer import VanillaTransformerTrainer


class VanillaTransformerSeq2SeqTrainer(VanillaTransformerTrainer, Seq2SeqTrainer):
    """`VanillaTransformerTrainer` for models that write texts.

    `evaluate` generates if `predict_with_generate` is set. `predict` always generates. Both also return the
    loss, the perplexity and the token accuracy of the references.
    """

    generates = True
    _predicts = False

    def predict(self, test_dataset: Dataset, *positional: Any, **keywords: Any) -> PredictionOutput:
        self._predicts = True
        try:
            return super().predict(test_dataset, *positional, **keywords)
        finally:
            self._predicts = False

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Any, Any, Any]:
        if prediction_loss_only or not (self._predicts or self.args.predict_with_generate):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        loss = labels = None
        if inputs.get("labels") is not None:
            loss, _, labels = super().prediction_step(model, inputs, False, ignore_keys)
        source = self._prepare_inputs({name: value for name, value in inputs.items() if name != "labels"})
        split_weights = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(self.model)
        options = {"synced_gpus": split_weights, **self._gen_kwargs, **gen_kwargs}
        generate: Any = self.model.generate
        return loss, generate(**source, **options), labels
