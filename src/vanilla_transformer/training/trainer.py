"""Seq2SeqTrainer with what the paper's training needs besides: its schedule, batches, loss and averaging."""

import inspect
import math
import os
import shlex
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    SaveStrategy,
    TrainOutput,
    get_last_checkpoint,
    rotate_checkpoints,
    sort_checkpoints,
)
from transformers.utils import logging

from ..losses import IGNORE_INDEX, TrainingLoss, label_smoothed_cross_entropy, r_drop_divergence
from .arguments import VanillaTransformerTrainingArguments
from .batching import TokenBudgetIterable, TokenBudgetSampler, padding_report, sequence_lengths
from .callbacks import (
    INTERRUPTED,
    AveragingCallback,
    CurvesCallback,
    EpochCallback,
    InterruptCallback,
    Throughput,
    TrainingInterrupted,
)
from .checkpoints import (
    average_checkpoints,
    best_checkpoints,
    check_data_order,
    data_order,
    last_checkpoints,
    write_data_order,
)
from .schedule import get_noam_schedule

logger = logging.get_logger(__name__)

NEEDS_GENERATION = " (BLEU, chrF and ROUGE need predict_with_generate)"
UNFINISHED = "unfinished"  # where in output_dir a checkpoint is written until it is whole


class VanillaTransformerTrainer(Trainer):
    """Trains any model of transformers as the paper does: on pairs of texts, on text, on images.

    Used as `Seq2SeqTrainer`, with `VanillaTransformerTrainingArguments`. Different from it:

    - Training batches are made by token budget if the arguments give one.
    - The training loss is smoothed, and divided by the real target tokens of the whole update. The evaluation
      loss is neither: it is the corpus's negative log-likelihood per token, with its perplexity and the token
      accuracy, each example counted once on any number of processes. Where a whole text or image has one
      label, both are per example. Labels that are no tensor, such as boxes, are the model's own business.
    - A NaN or infinite loss stops training before it reaches the weights.
    - A checkpoint folder exists only when it is whole.
    - Ctrl-C and SIGTERM save a checkpoint; `train` then raises `TrainingInterrupted`.
    - With `average_checkpoints` the model is left with the averaged weights, which are saved in output_dir.
    """

    def __init__(self, model=None, args=None, *positional, **keywords):
        if not isinstance(args, VanillaTransformerTrainingArguments):
            raise TypeError(f"args must be VanillaTransformerTrainingArguments, not {type(args).__name__}")
        if args.should_save:
            _check_writable(args.output_dir)
        try:
            super().__init__(model, args, *positional, **keywords)
        except RuntimeError as error:  # of report_to
            if "to be installed" not in str(error):
                raise
            raise ImportError(str(error)) from error
        if args.attn_implementation:
            self.model.set_attn_implementation(args.attn_implementation)
        settings = self.model.config.to_dict()
        if args.r_drop and not any(value for name, value in settings.items() if "drop" in name):
            logger.warning("r_drop=%s does nothing where no dropout makes two passes differ", args.r_drop)
        self.label_smoother = None  # compute_loss smooths
        self.model_accepts_loss_kwargs = True  # so that the target tokens of an update are counted
        forward = inspect.signature(self.accelerator.unwrap_model(self.model).forward).parameters
        self._takes_training_loss = "training_loss" in forward
        self._saving_aside = False
        self._pushed_folder = None
        self._lengths_of = self._lengths = self._examples_per_update = None
        self._totals = torch.zeros(3, dtype=torch.float64)  # negative log-likelihood, count, guessed right
        self._scores_tokens = True
        self.interrupt, self.throughput = InterruptCallback(), Throughput()
        for callback in (self.interrupt, self.throughput, EpochCallback, AveragingCallback, CurvesCallback):
            self.add_callback(callback)

    # Training

    def train(self, resume_from_checkpoint=None, **kwargs):
        args, earlier = self.args, self._last_checkpoint()
        if earlier and not resume_from_checkpoint and args.save_strategy != SaveStrategy.NO:
            raise ValueError(
                f"output_dir holds {earlier} of an earlier run, which this one would delete or mix with "
                f"its own: go on with resume_from_checkpoint={earlier}, or choose another output_dir"
            )
        checkpoint = earlier if resume_from_checkpoint is True else resume_from_checkpoint
        if checkpoint:
            check_data_order(checkpoint, self._data_order())
        with self.interrupt:
            if checkpoint and self._is_complete(checkpoint):
                output = self._restore(checkpoint)
            else:
                output = super().train(resume_from_checkpoint, **kwargs)
        if self.interrupt.signal:
            self._tell(self._how_to_go_on())
            raise TrainingInterrupted(self.interrupt.signal)
        if args.average_checkpoints:
            output.metrics.update(self.average())
        return output

    def _data_order(self) -> dict:
        by_length = self.args.has_token_budget and not isinstance(self.train_dataset, IterableDataset)
        lengths = self._measured(self.train_dataset) if by_length else None
        return data_order(self.args, self.train_dataset, lengths)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(
                f"{resume_from_checkpoint} holds another model than the one to train ({reason}): go on with "
                "the same model and vocabulary, or start anew in another output_dir"
            ) from error

    def _is_complete(self, checkpoint: str) -> bool:
        """Whether all updates were made; transformers, which looks after an update, would make one more."""
        state = Path(checkpoint, TRAINER_STATE_NAME)
        return state.is_file() and 0 < self.args.max_steps <= TrainerState.load_from_json(state).global_step

    def _restore(self, checkpoint: str) -> TrainOutput:
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(Path(checkpoint, TRAINER_STATE_NAME))
        done = self.state.global_step
        self._tell(f"{checkpoint} is at update {done} of {self.args.max_steps}: nothing is left to train")
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        return TrainOutput(done, losses[-1] if losses else math.nan, {})

    def _last_checkpoint(self) -> str | None:
        folder = self.args.output_dir
        return get_last_checkpoint(folder) if os.path.isdir(folder) else None

    def _how_to_go_on(self) -> str:
        checkpoint = self._last_checkpoint()
        command = "the same command and"
        if self.args.world_size == 1:
            command = shlex.join(_without_resumption(sys.orig_argv))
        return (
            f"Training stopped after update {self.state.global_step} of {self.state.max_steps}; "
            f"its checkpoint is {checkpoint}.\nGo on exactly where it stopped with\n"
            f"  {command} --resume_from_checkpoint {checkpoint}\n"
            f"or, in Python, with\n  trainer.train(resume_from_checkpoint={checkpoint!r})"
        )

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        if args.optim == "adam":
            moments = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
            return torch.optim.Adam, {"lr": args.learning_rate, "fused": True, **moments}
        optimizer, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if args.optim == "sgd":
            kwargs.setdefault("momentum", args.momentum)
        return optimizer, kwargs

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "noam":
            self.lr_scheduler = get_noam_schedule(
                self.optimizer if optimizer is None else optimizer,
                d_model=self.model.config.hidden_size,
                warmup_steps=self.args.get_warmup_steps(num_training_steps),
                factor=self.args.noam_factor,
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # Batches

    def _get_train_sampler(self, train_dataset=None):
        if not self.args.has_token_budget:
            return super()._get_train_sampler(train_dataset)
        lengths = self._measured(self.train_dataset if train_dataset is None else train_dataset)
        sampler = TokenBudgetSampler(*lengths, **self._token_batches())
        self._report_batches(sampler)
        return sampler

    def _measured(self, dataset) -> list[np.ndarray]:
        """Lengths in tokens, one array for each side; measured once, however often it is trained on."""
        if self._lengths_of is not self.train_dataset:
            columns = ("input_ids", "labels") if self.model.config.is_encoder_decoder else ("input_ids",)
            self._lengths = [sequence_lengths(dataset, column) for column in columns]
            self._lengths_of = self.train_dataset
        return self._lengths

    def _token_batches(self) -> dict:
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

    def _report_batches(self, sampler):
        report, args = padding_report(sampler), self.args
        per_update = args.world_size * args.gradient_accumulation_steps
        updates = report["batches"] / per_update
        self._examples_per_update = report["examples"] / updates
        self._tell(
            f"{report['examples']:,} examples in {report['batches']:,} batches of at most "
            f"{' and '.join(_budget_words(args.device_budget))} tokens, {report['padding']:.1%} padding.\n"
            f"An update is {args.gradient_accumulation_steps} on each of {args.world_size} device(s): "
            f"{report['source_tokens'] / updates:,.0f} source and {report['target_tokens'] / updates:,.0f} "
            f"target tokens on average, without padding. {math.ceil(updates):,} updates make an epoch."
        )

    def get_total_train_batch_size(self, args):
        if not args.has_token_budget:
            return super().get_total_train_batch_size(args)
        return round(self._examples_per_update or 0)  # an average; unknown of a stream

    def get_train_dataloader(self):
        if not (self.args.has_token_budget and isinstance(self.train_dataset, IterableDataset)):
            return super().get_train_dataloader()
        from accelerate.data_loader import prepare_data_loader

        args = self.args
        stream = TokenBudgetIterable(
            self.train_dataset,
            buffer_size=args.stream_buffer_size,
            target_column="labels" if self.model.config.is_encoder_decoder else "input_ids",
            **self._token_batches(),
        )
        loader = DataLoader(
            stream,
            batch_size=None,
            collate_fn=self._get_collator_with_removed_columns(self.data_collator, "training"),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        # The stream deals out its own batches: to accelerate it is that of a single process.
        return prepare_data_loader(
            loader, self.accelerator.device, 1, 0, put_on_device=True, dispatch_batches=False
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        self.throughput.begin_update()
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        labels = [batch.get("labels") for batch in batches]
        of_tokens = all(is_class_ids(ids) and ids.ndim == 2 for ids in labels)
        self.throughput.count(batches, num_items if of_tokens else None)
        if torch.is_tensor(num_items):
            num_items = num_items.clamp(min=1)  # what has no labels has no loss either, not 0 / 0
        return batches, num_items

    # Loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        twice = self.args.r_drop and model.training
        if not twice and (self.compute_loss_func is not None or not is_class_ids(inputs.get("labels"))):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        if twice:
            loss, outputs = self._r_drop_loss(model, inputs, num_items_in_batch)
        elif self._takes_training_loss:
            training_loss = None if return_outputs else TrainingLoss(smoothing)
            outputs = model(**inputs, num_items_in_batch=num_items_in_batch, training_loss=training_loss)
            loss = outputs["loss"]
        else:
            outputs = model(**self._without_labels(inputs))
            aligned = self._aligned(outputs["logits"], inputs["labels"])
            loss = label_smoothed_cross_entropy(*aligned, smoothing, num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # The tokens are those of all processes, but gradients are averaged over them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _r_drop_loss(self, model, inputs, num_items_in_batch):
        """The mean loss of two passes and α/2 times how far they disagree: half of R-Drop's equation 4."""
        if not is_class_ids(inputs.get("labels")):
            raise ValueError("r_drop needs labels that are ids of classes or tokens, not shares or boxes")
        alpha, smoothing = self.args.r_drop, self.args.label_smoothing_factor
        training_loss = TrainingLoss(smoothing, alpha)
        inputs = training_loss.doubled(inputs)
        if self._takes_training_loss and self.compute_loss_func is None:
            outputs = model(**inputs, num_items_in_batch=num_items_in_batch, training_loss=training_loss)
            return outputs["loss"], outputs
        both = 2 * num_items_in_batch if num_items_in_batch is not None else None
        outputs = model(**self._without_labels(inputs))
        logits, labels = self._aligned(outputs["logits"], inputs["labels"])
        both = (labels != IGNORE_INDEX).sum().clamp(min=1) if both is None else both
        if self.compute_loss_func is None:
            loss = label_smoothed_cross_entropy(logits, labels, smoothing, both)
        else:
            loss = self.compute_loss_func(outputs, inputs["labels"], num_items_in_batch=both)
        return loss + alpha * r_drop_divergence(logits, labels, num_items_in_batch), outputs

    def _without_labels(self, inputs):
        """The inputs from which a model computes logits, and no loss of its own."""
        prepare = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if self.model.config.is_encoder_decoder and "decoder_input_ids" not in inputs:
            if prepare is None:
                return inputs
            inputs = {**inputs, "decoder_input_ids": prepare(labels=inputs["labels"])}
        return {name: value for name, value in inputs.items() if name != "labels"}

    def _aligned(self, logits, labels):
        """Logits and the labels they predict: a language model's are those of the next position."""
        return (logits[..., :-1, :], labels[..., 1:]) if self._loss_shifts_labels else (logits, labels)

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        # fp16 overflows now and then, and its scaler skips such an update by itself.
        if norm is not None and not math.isfinite(norm) and getattr(self.accelerator, "scaler", None) is None:
            self._refuse_update(norm)
        return norm

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            self._refuse_update(loss.item())
        return loss

    def _refuse_update(self, value):
        checkpoint = self._last_checkpoint()
        kept = f"go on from {checkpoint}" if checkpoint else "no checkpoint was saved yet"
        raise FloatingPointError(
            f"update {self.state.global_step + 1} (epoch {self.state.epoch or 0:.2f}) has a loss or gradient "
            f"norm of {value} at learning rate {self._get_learning_rate():.3g}, and was not made: {kept}. "
            "Usual remedies are a lower noam_factor or learning_rate, longer warmup_steps, max_grad_norm=1, "
            "bf16 in place of fp16; else look at the data of that update"
        )

    # Evaluation

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        self.gather_function = self.accelerator.gather_for_metrics  # leaves out what fills the last batch
        self._totals.zero_()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        likelihood, count, right = self._totals.tolist()
        if count:
            loss = likelihood / count
            output.metrics[f"{metric_key_prefix}_loss"] = loss
            if self._scores_tokens:
                output.metrics[f"{metric_key_prefix}_perplexity"] = math.exp(min(loss, 700))
                output.metrics[f"{metric_key_prefix}_token_accuracy"] = right / count
            else:
                output.metrics.setdefault(f"{metric_key_prefix}_accuracy", right / count)
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        step = partial(Trainer.prediction_step, self)  # not the next in line: Seq2SeqTrainer's would generate
        if not is_class_ids(inputs.get("labels")):
            loss, outputs, labels = step(model, inputs, prediction_loss_only, ignore_keys)
            if isinstance(labels, list):  # objects, of which no two images have as many: gathered by name
                labels = torch.cat([label["image_id"] for label in labels])
            return loss, outputs, labels
        loss, outputs, labels = step(model, inputs, False, ignore_keys)
        self._score(outputs[0] if isinstance(outputs, tuple) else outputs, labels)
        return (loss, None, None) if prediction_loss_only else (loss, outputs, labels)

    def _score(self, logits, labels):
        """Add a batch of all processes to the totals."""
        self._scores_tokens = labels.ndim > 1
        logits, labels = self._aligned(logits, labels)
        real = labels != IGNORE_INDEX
        likelihood = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="none")
        right = (logits.argmax(-1) == labels) & real
        scores = [score.float().reshape(len(labels), -1).sum(1) for score in (likelihood, real, right)]
        scores = torch.stack(scores, dim=1)  # (batch, 3)
        self._totals += self.gather_function(scores).cpu().double().sum(0)

    def get_eval_dataloader(self, eval_dataset=None):
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if self.args.world_size > 1 and isinstance(dataset, IterableDataset):
            raise ValueError(
                f"a streamed evaluation set cannot be counted exactly on {self.args.world_size} processes: "
                "load it whole (streaming=False), it needs a length"
            )
        return super().get_eval_dataloader(eval_dataset)

    def log(self, logs, start_time=None):
        if not self._examples_per_update and self.args.has_token_budget:
            logs.pop("train_samples_per_second", None)
        if "loss" in logs:
            logs |= self.throughput.drain(self.state, self.accelerator)
        # Signatures are text: in the metrics that are returned and saved, but not for those who plot the log.
        texts = {name: logs.pop(name) for name in list(logs) if isinstance(logs[name], str)}
        super().log(logs, start_time)
        logs |= texts

    def _determine_best_metric(self, metrics, trial):
        name = (self.args.metric_for_best_model or "").removeprefix("eval_")
        known = [key.removeprefix("eval_") for key in metrics]
        if name and name not in known:
            texts_unscored = self.model.can_generate() and not self.args.predict_with_generate
            self._save_checkpoint(self.model, trial)
            raise ValueError(
                f"metric_for_best_model={name} is none of the scores of an evaluation, {', '.join(known)}"
                f"{NEEDS_GENERATION if texts_unscored else ''}; "
                f"{self._last_checkpoint()} holds what was trained so far"
            )
        return super()._determine_best_metric(metrics, trial)

    # Averaging

    def average(self) -> dict:
        """Set the model to the average of the last or best checkpoints, and save it in output_dir.

        Returns the metrics of the last weights and of the average, where there is an evaluation set, and
        which checkpoints it was made of.
        """
        self.accelerator.wait_for_everyone()
        folders, metrics = self._checkpoints_to_average(self.args.output_dir), {}
        if self.eval_dataset is not None:
            metrics |= self._last_evaluation() or self.evaluate(metric_key_prefix="eval_last")
        self._load_weights(average_checkpoints(folders))
        if self.eval_dataset is not None:
            metrics |= self.evaluate(metric_key_prefix="eval_averaged")
        names = ", ".join(Path(folder).name for folder in folders)
        metrics["final_weights"] = f"average of {len(folders)} checkpoints: {names}"
        self.save_model()
        self.save_state()
        self.save_metrics("average", metrics)
        self._tell(f"The model is now the {metrics['final_weights']}; saved in {self.args.output_dir}")
        return metrics

    def _checkpoints_to_average(self, run_dir):
        """The last or best, or as many as there are: fewer in the beginning, or after an early stop."""
        args, saved = self.args, sort_checkpoints(run_dir)
        if not args.average_best:
            return last_checkpoints(run_dir, min(args.average_checkpoints, len(saved)))
        key = "eval_" + args.metric_for_best_model.removeprefix("eval_")
        scored = {e["step"] for e in self.state.log_history if not math.isnan(e.get(key, math.nan))}
        count = sum(int(folder.rpartition("-")[2]) in scored for folder in saved)
        count = min(args.average_checkpoints, count)
        if not count:
            return []
        return best_checkpoints(run_dir, count, args.metric_for_best_model, args.greater_is_better)

    def _load_weights(self, weights):
        self.model.load_state_dict(weights, strict=False)
        held = self.model.state_dict()
        if weights.keys() - held.keys():
            raise ValueError(f"the model has no {sorted(weights.keys() - held.keys())}")
        loaded = {held[name].data_ptr() for name in weights}
        missing = [name for name, weight in held.items() if weight.data_ptr() not in loaded]  # and not tied
        if missing:
            raise ValueError(f"the checkpoints have no {missing}")

    def _last_evaluation(self) -> dict:
        """Metrics already logged for the weights as they are, if any."""
        now = [entry for entry in self.state.log_history if entry["step"] == self.state.global_step]
        return {
            name.replace("eval_", "eval_last_", 1): value
            for entry in now
            for name, value in entry.items()
            if name.startswith("eval_")
        }

    # Checkpoints

    def _get_output_dir(self, trial):
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, UNFINISHED) if self._saving_aside else run_dir

    def _save_checkpoint(self, model, trial):
        run_dir = self._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside, final = Path(run_dir, UNFINISHED, name), Path(run_dir, name)
        if self.args.should_save:
            shutil.rmtree(aside.parent, ignore_errors=True)  # of a program that was killed while it saved
        self.accelerator.wait_for_everyone()
        self._saving_aside = True
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_data_order(aside, self._data_order())
                self._put_in_place(aside, final)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(aside.parent, ignore_errors=True)
            earlier = self._last_checkpoint()
            kept = f"go on from {earlier}" if earlier else "there is no earlier one"
            raise OSError(
                f"{name} could not be written in {run_dir} ({error}): make room, or choose another "
                f"output_dir. What was written of it is removed; {kept}"
            ) from error
        finally:
            self._saving_aside = False

    def _put_in_place(self, aside, final):
        """Give a whole checkpoint its name, then delete what it supersedes."""
        if self.state.best_model_checkpoint == str(aside):
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(aside / TRAINER_STATE_NAME)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        shutil.rmtree(aside.parent, ignore_errors=True)
        for mark in final.parent.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{INTERRUPTED}"):
            shutil.rmtree(mark.parent)
        self._rotate(final)
        if self._pushed_folder is not None:
            super()._push_from_checkpoint(str(final))
            self._pushed_folder = None

    def _rotate(self, newest):
        run_dir, limit = newest.parent, self.args.save_total_limit
        if not (self.args.average_best and limit):
            rotate_checkpoints(run_dir, limit, self.state.best_model_checkpoint, use_mtime=True)
            return
        saved = [Path(folder) for folder in sort_checkpoints(run_dir)]
        kept = {newest, *self._checkpoints_to_average(run_dir)}
        spare = [folder for folder in saved if folder not in kept]
        for folder in spare[: max(len(saved) - limit, 0)]:
            shutil.rmtree(folder, ignore_errors=True)

    def _push_from_checkpoint(self, checkpoint_folder):
        if self._saving_aside:
            self._pushed_folder = checkpoint_folder  # pushed from where it will be when the upload reads it
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    def _tell(self, message):
        if self.is_world_process_zero():
            print(message, file=sys.stderr, flush=True)


def is_class_ids(labels) -> bool:
    """Whether labels are ids of classes or words; soft ones are shares, and those of boxes are lists."""
    return isinstance(labels, torch.Tensor) and not labels.is_floating_point()


def _check_writable(folder):
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror
        raise OSError(f"output_dir={folder} cannot be written ({reason}): choose another one") from error


def _without_resumption(words):
    """A command without its --resume_from_checkpoint."""
    kept, words = [], iter(words)
    for word in words:
        if word.replace("-", "_").startswith("__resume_from_checkpoint"):
            if "=" not in word:
                next(words, None)
        else:
            kept.append(word)
    return kept


def _budget_words(budget):
    return [f"{limit:,} {side}" for limit, side in zip(budget, ("source", "target")) if limit is not None]
