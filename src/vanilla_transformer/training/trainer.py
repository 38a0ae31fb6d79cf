"""A Trainer with what the paper's training needs besides: its schedule, batches, loss and averaging."""

import inspect
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy, TrainOutput
from transformers.utils import logging

from ..losses import TrainingLoss
from ..model_card import redact_flags
from .arguments import VanillaTransformerTrainingArguments
from .batching import TokenBudgetSampler, padding_report, sequence_lengths
from .callbacks import (
    CheckPlan,
    CurvesCallback,
    EpochCallback,
    InterruptCallback,
    Throughput,
    TrainingInterrupted,
)
from .checkpoints import check_writable, evaluations_without_improvement
from .compilation import compile_layers
from .evaluation import EvaluatingTrainer, is_class_ids
from .manifest import complete_checkpoints
from .memory import keep_freed_memory
from .resumption import without_resumption
from .run_lock import locked
from .schedule import get_noam_schedule
from .streaming import POSITION, CollateWithPosition, StreamPosition, TokenBudgetIterable

logger = logging.get_logger(__name__)

Inputs = dict[str, Any]


class VanillaTransformerTrainer(EvaluatingTrainer):
    """Train any model of transformers as the paper does: on pairs of texts, on text, on images.

    Use it as transformers' `Trainer`, with `VanillaTransformerTrainingArguments`. The differences:

    - It makes training batches by token budget if the arguments give one.
    - Heads that take a `training_loss` return the smoothed loss, divided by the real target tokens of the
      whole update. Other models use `compute_loss_func`, or transformers' own label smoothing.
    - The evaluation loss is the negative log-likelihood per token of the whole set, without smoothing, with
      its perplexity and token accuracy. Each example counts once on any number of processes. If an example
      has one label, loss and accuracy are per example.
    - A NaN or infinite loss stops training before it reaches the weights.
    - A checkpoint folder exists only when it is complete. Resuming verifies it.
    - One run at a time trains in an output_dir.
    - Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 save a checkpoint; `train` then raises
      `TrainingInterrupted`.
    - `torch_compile` compiles each layer, once for all shapes of batches.
    - `early_stopping_patience` ends training when validation no longer improves.
    - With `average_checkpoints` the model ends with the averaged weights, also in output_dir.

    `VanillaTransformerSeq2SeqTrainer` adds text generation during evaluation.
    """

    generates = False  # whether evaluation can generate texts

    def __init__(self, model: nn.Module | None = None, args: Any = None, *positional: Any, **keywords: Any):
        if not isinstance(args, VanillaTransformerTrainingArguments):
            raise TypeError(f"args must be VanillaTransformerTrainingArguments, not {type(args).__name__}")
        if args.predict_with_generate and not self.generates:
            raise ValueError("predict_with_generate needs the VanillaTransformerSeq2SeqTrainer")
        if args.should_save:
            check_writable(str(args.output_dir))
        try:
            super().__init__(model, args, *positional, **keywords)
        except RuntimeError as error:  # raised for report_to
            if "to be installed" not in str(error):
                raise
            raise ImportError(str(error)) from error
        if args.attn_implementation:
            self.model.set_attn_implementation(args.attn_implementation)
        forward = inspect.signature(self.accelerator.unwrap_model(self.model).forward).parameters
        self._takes_training_loss = "training_loss" in forward
        self._smoother, self.label_smoother = self.label_smoother, None  # compute_loss decides
        if args.r_drop:
            self._check_r_drop()
        self._measured_dataset: Any = None
        self._lengths: list[np.ndarray] = []
        self._examples_per_update: float | None = None
        self.interrupt, self.throughput = InterruptCallback(), Throughput()
        self._resumed_from: str | None = None
        for callback in (self.interrupt, self.throughput, EpochCallback, CheckPlan, CurvesCallback):
            self.add_callback(callback)
        if args.early_stopping_patience:
            patience = args.early_stopping_patience, args.early_stopping_threshold
            self.add_callback(EarlyStoppingCallback(*patience))

    def _check_r_drop(self) -> None:
        alpha, settings = self.args.r_drop, self.model.config.to_dict()
        if not self._takes_training_loss and self.compute_loss_func is None:
            raise ValueError(
                f"r_drop={alpha} does not apply to {type(self.model).__name__}: it needs a language model of "
                "this package, or a compute_loss_func that scores both passes"
            )
        if not any(value for name, value in settings.items() if "drop" in name):
            logger.warning("r_drop=%s has no effect: without dropout both passes are equal", alpha)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        built, args = super()._build_accelerator_args(**kwargs), self.args
        if args.torch_compile and compile_layers(
            self.model, args.torch_compile_backend, args.torch_compile_mode
        ):
            built.pop("dynamo_plugin", None)  # accelerate would compile the whole model besides
        return built

    # Training

    def train(  # type: ignore[override]  # the other arguments pass through
        self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any
    ) -> TrainOutput:
        if not self.args.should_save:
            return self._train(resume_from_checkpoint, **kwargs)
        with locked(str(self.args.output_dir)):
            return self._train(resume_from_checkpoint, **kwargs)

    def _train(self, resume_from_checkpoint: str | bool | None, **kwargs: Any) -> TrainOutput:
        args = self.args
        if not resume_from_checkpoint and args.save_strategy != SaveStrategy.NO:
            self._refuse_earlier_run()
        checkpoint = self.choose_checkpoint(resume_from_checkpoint)
        self._resumed_from, self._position = checkpoint, None
        if checkpoint and (position := Path(checkpoint, f"{POSITION}.json")).is_file():
            self._position = StreamPosition.from_json(position.read_text(encoding="utf-8"))
        if args.device.type == "cpu":
            keep_freed_memory()
        with self.interrupt:
            if checkpoint and (why := self.why_complete(checkpoint)):
                output = self.restore(checkpoint)
                self._say(f"{checkpoint} {why}: there is nothing to train")
            else:
                output = super().train(checkpoint, **kwargs)
        if self.interrupt.signal:
            self._say(self._how_to_resume())
            raise TrainingInterrupted(self.interrupt.signal)
        if args.average_checkpoints:
            output.metrics.update(self.average())
            self._say(f"The model is now the {output.metrics['final_weights']}; saved in {args.output_dir}")
        return output

    def _refuse_earlier_run(self) -> None:
        folder = str(self.args.output_dir)
        if earlier := list(complete_checkpoints(folder).values()) if Path(folder).is_dir() else []:
            raise ValueError(
                f"output_dir holds {earlier[-1]} of an earlier run, which this run would delete or mix with "
                f"its own: resume it with resume_from_checkpoint={earlier[-1]}, or choose another output_dir"
            )

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        *positional: Any,
        **keywords: Any,
    ) -> Any:
        """Search as transformers' Trainer does.

        Args:
            compute_objective: by default the score `metric_for_best_model`, or the loss, which is minimised.
        """
        if compute_objective is None:
            name = f"eval_{(self.args.metric_for_best_model or 'loss').removeprefix('eval_')}"
            compute_objective = itemgetter(name)
            if len(positional) < 2:  # n_trials, direction
                keywords.setdefault("direction", "maximize" if self.args.greater_is_better else "minimize")
        return super().hyperparameter_search(hp_space, compute_objective, *positional, **keywords)

    @property
    def off_schedule(self) -> bool:
        return self.interrupt.off_schedule

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Restores what transformers does not: early stopping's count, a moved run's best checkpoint.

        It skips no batches if a stream starts at its position.
        """
        epochs, batches = super()._init_training_state(*args, **kwargs)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = evaluations_without_improvement(self.state)
        best = Path(str(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        if self.state.best_model_checkpoint is None and best.is_dir():
            self.state.best_model_checkpoint = str(best)
        return epochs, 0 if self._position is not None else batches

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Keeps the newest checkpoint beside the best one, which transformers deletes with a limit of 1."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def _how_to_resume(self) -> str:
        checkpoint = self.last_checkpoint()
        command = "the same command and"
        if self.args.world_size == 1:
            command = shlex.join(redact_flags(without_resumption(sys.orig_argv)))
        return (
            f"Training stopped after update {self.state.global_step} of {self.state.max_steps}; "
            f"its checkpoint is {checkpoint}.\nResume exactly there with\n"
            f"  {command} --resume_from_checkpoint {checkpoint}\n"
            f"or, in Python, with\n  trainer.train(resume_from_checkpoint={checkpoint!r})"
        )

    @staticmethod
    def get_optimizer_cls_and_kwargs(
        args: Any, model: PreTrainedModel | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if args.optim == "adam":
            moments = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
            return torch.optim.Adam, {"lr": args.learning_rate, "fused": True, **moments}
        optimizer, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if args.optim == "sgd":
            kwargs.setdefault("momentum", args.momentum)
        return optimizer, kwargs

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LRScheduler:
        optimizer = self.optimizer if optimizer is None else optimizer
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "noam":
            self.lr_scheduler = get_noam_schedule(
                optimizer,
                d_model=self.model.config.hidden_size,
                warmup_steps=self.args.get_warmup_steps(num_training_steps),
                factor=self.args.noam_factor,
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Keeps the learning rate of the arguments: that of the checkpoint would replace it."""
        schedule, optimizer = self.lr_scheduler, cast(Any, self.optimizer)
        rates = list(getattr(schedule, "base_lrs", ()))
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not isinstance(schedule, LambdaLR):
            return
        schedule.base_lrs = rates
        for group, rate, factor in zip(optimizer.param_groups, rates, schedule.lr_lambdas):
            group["initial_lr"], group["lr"] = rate, rate * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in optimizer.param_groups]

    # Batches

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if not self.args.has_token_budget:
            return super()._get_train_sampler(train_dataset)
        source, *target = self._measured(self.train_dataset if train_dataset is None else train_dataset)
        sampler = TokenBudgetSampler(source, target[0] if target else None, **self._token_batches())
        self._report_batches(sampler)
        return sampler

    def _measured(self, dataset: Any) -> list[np.ndarray]:
        """Return the lengths in tokens, one array for each side; a data set is measured once."""
        if self._measured_dataset is not self.train_dataset:
            columns = ("input_ids", "labels") if self.model.config.is_encoder_decoder else ("input_ids",)
            self._lengths = [sequence_lengths(dataset, column) for column in columns]
            self._measured_dataset = self.train_dataset
        return self._lengths

    def _token_batches(self) -> dict[str, Any]:
        args = self.args
        source, target = args.device_budget
        return {
            "max_source_tokens": source,
            "max_target_tokens": target,
            "num_replicas": args.world_size,
            "rank": args.process_index,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "pad_to_multiple_of": getattr(self.data_collator, "pad_to_multiple_of", None),
        }

    def _report_batches(self, sampler: TokenBudgetSampler) -> None:
        report, args = padding_report(sampler), self.args
        per_update = args.world_size * args.gradient_accumulation_steps
        updates = report["batches"] / per_update
        self._examples_per_update = report["examples"] / updates
        limits = [
            f"{limit:,} {side}" for limit, side in zip(args.device_budget, ("source", "target")) if limit
        ]
        self._say(
            f"{report['examples']:,} examples in {report['batches']:,} batches of at most "
            f"{' and '.join(limits)} tokens, {report['padding']:.1%} padding.\n"
            f"An update is {args.gradient_accumulation_steps} on each of {args.world_size} device(s): "
            f"{report['source_tokens'] / updates:,.0f} source and {report['target_tokens'] / updates:,.0f} "
            f"target tokens on average, without padding. {math.ceil(updates):,} updates make an epoch."
        )

    def get_total_train_batch_size(self, args: Any) -> int:
        if not args.has_token_budget:
            return super().get_total_train_batch_size(args)
        return round(self._examples_per_update or 0)  # the mean; a stream has none

    def get_train_dataloader(self) -> DataLoader:
        if not (self.args.has_token_budget and isinstance(self.train_dataset, IterableDataset)):
            return super().get_train_dataloader()
        from accelerate.data_loader import prepare_data_loader

        args = self.args
        stream = TokenBudgetIterable(
            self.train_dataset,
            buffer_size=args.stream_buffer_size,
            target_column="labels" if self.model.config.is_encoder_decoder else "input_ids",
            start=self._position,
            with_positions=True,
            **self._token_batches(),
        )
        collator = self._get_collator_with_removed_columns(self.data_collator, "training")
        collate: Any = CollateWithPosition(collator)
        loader = DataLoader(
            stream,
            batch_size=None,
            collate_fn=collate,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        # The stream distributes its own batches, so accelerate prepares it as if there were one process.
        return prepare_data_loader(
            loader, self.accelerator.device, 1, 0, put_on_device=True, dispatch_batches=False
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], torch.Tensor | int | None]:
        self.throughput.begin_update()
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        positions = [position for batch in batches if (position := batch.pop(POSITION, None))]
        if positions:
            if self._position is not None and self._resumed_from:
                self._load_rng_state(self._resumed_from)  # reading the first batches drew random numbers
            self._resumed_from = None
            batches_per_update = self.args.world_size * self.args.gradient_accumulation_steps
            self._position = StreamPosition.from_json(positions[-1]).after_update(batches_per_update)
        labels = [batch.get("labels") for batch in batches]
        of_tokens = all(is_class_ids(ids) and ids.ndim == 2 for ids in labels)
        self.throughput.count(batches, num_items if of_tokens else None)
        if torch.is_tensor(num_items):
            num_items = num_items.clamp(min=1)  # an update without labels has the loss 0, not 0 / 0
        return batches, num_items

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        labels = inputs.get("labels")
        training_loss = TrainingLoss(self.args.label_smoothing_factor, self.args.r_drop)
        if not model.training:
            training_loss = TrainingLoss()
        if training_loss.r_drop and not is_class_ids(labels):
            raise ValueError("r_drop needs labels that are ids of classes or tokens, not shares or boxes")
        inputs = dict(training_loss.doubled(inputs))
        if not self._takes_training_loss or self.compute_loss_func is not None or not is_class_ids(labels):
            # transformers' label smoothing is for class ids; here it does not apply to evaluation.
            self.label_smoother = self._smoother if model.training and is_class_ids(labels) else None
            if self.label_smoother is not None and self.compute_loss_func is None:
                self._prepare_decoder_inputs(inputs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(
            **inputs,
            num_items_in_batch=num_items_in_batch,
            training_loss=None if return_outputs else training_loss,
        )
        loss = outputs["loss"]
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # num_items_in_batch counts the tokens of all processes, but gradients are averaged over them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _prepare_decoder_inputs(self, inputs: Inputs) -> None:
        """Add the decoder's input: with label smoothing the model sees no labels to make it from."""
        prepare = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if prepare is not None and "labels" in inputs and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = prepare(labels=inputs["labels"])

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> float | None:
        norm = super()._get_grad_norm(model, grad_norm)
        # fp16 overflows now and then, and its scaler skips such an update by itself.
        if norm is not None and not math.isfinite(norm) and getattr(self.accelerator, "scaler", None) is None:
            self._refuse_update(norm)
        return norm

    def training_step(
        self, model: nn.Module, inputs: Inputs, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            self._refuse_update(loss.item())
        return loss

    def _refuse_update(self, value: float) -> None:
        checkpoint = self.last_checkpoint()
        kept = f"resume from {checkpoint}" if checkpoint else "there is no checkpoint yet"
        raise FloatingPointError(
            f"update {self.state.global_step + 1} (epoch {self.state.epoch or 0:.2f}) has a loss or gradient "
            f"norm of {value} at learning rate {self._get_learning_rate():.3g} and was skipped: {kept}. "
            "Usual remedies are a lower noam_factor or learning_rate, longer warmup_steps, max_grad_norm=1, "
            "and bf16 instead of fp16; otherwise check the data of that update"
        )

    # Logs

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        if not self._examples_per_update and self.args.has_token_budget:
            logs.pop("train_samples_per_second", None)
        if "loss" in logs:
            logs |= self.throughput.rates(self.state, self.accelerator)
        # Signatures are text. They belong in the metrics that are returned and saved, not on a curve.
        texts = {name: logs.pop(name) for name in list(logs) if isinstance(logs[name], str)}
        super().log(logs, start_time)
        logs |= texts

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        name = (self.args.metric_for_best_model or "").removeprefix("eval_")
        known = [key.removeprefix("eval_") for key in metrics]
        if name and name not in known:
            hint = ""
            if self.generates and not self.args.predict_with_generate:
                hint = " (BLEU, chrF and ROUGE need predict_with_generate)"
            self._save_checkpoint(self.model, trial)
            raise ValueError(
                f"metric_for_best_model={name} is none of the scores of an evaluation, {', '.join(known)}"
                f"{hint}; {self.last_checkpoint()} holds the training so far"
            )
        return super()._determine_best_metric(metrics, trial)

    def _say(self, message: str) -> None:
        if self.is_world_process_zero():
            print(message, file=sys.stderr, flush=True)
