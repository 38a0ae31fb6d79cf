"""The paper's training settings as Hugging Face training arguments."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames
from transformers.utils import is_torch_xla_available
from transformers.utils.generic import ExplicitEnum

from .batching import derive_accumulation
from .precision import choose_bf16


def _with(name: str, added: str, known: type[ExplicitEnum]) -> type[ExplicitEnum]:
    members = {added.upper(): added} | {member.name: member.value for member in known}
    return ExplicitEnum(name, members, module=__name__)  # type: ignore[call-overload]  # enum's functional form


ScheduleName = _with("ScheduleName", "noam", SchedulerType)
OptimizerName = _with("OptimizerName", "adam", OptimizerNames)


ONE_GPU_EACH = "start one process per GPU with torchrun --nproc-per-node {}, or set CUDA_VISIBLE_DEVICES=0"


@dataclass
class VanillaTransformerTrainingArguments(Seq2SeqTrainingArguments):
    """`Seq2SeqTrainingArguments` with the paper's defaults (section 5) and the keys that its training needs.

    Every schedule and optimizer of transformers works too.

    Raises:
        ValueError: keys contradict each other; the message names them.

    Example:
        >>> sizes = {"tokens_per_update": 25_000, "max_target_tokens": 3_200}
        >>> args = VanillaTransformerTrainingArguments("outputs/mine", **sizes)
        >>> args.gradient_accumulation_steps, args.adam_beta2, args.label_smoothing_factor
        (8, 0.98, 0.1)
    """

    _argument_group_name = "training"  # the title in --help

    lr_scheduler_type: ScheduleName | str = field(  # type: ignore[valid-type]  # made by a function
        default="noam",
        metadata={
            "help": "Learning rate schedule. noam is the paper's (section 5.3): "
            "noam_factor * hidden_size^-0.5 * min(t^-0.5, t * warmup_steps^-1.5) at update t."
        },
    )
    warmup_steps: float = field(
        default=4000,
        metadata={"help": "Updates over which the learning rate grows; below 1, a share of all updates."},
    )
    noam_factor: float = field(
        default=1.0, metadata={"help": "Factor of the Noam learning rate; the paper's is 1."}
    )
    learning_rate: float | None = field(  # type: ignore[assignment]  # None before __post_init__
        default=None,
        metadata={
            "help": "Peak learning rate of the other schedules (5e-5 if not given). Noam sets its own."
        },
    )
    optim: OptimizerName | str = field(  # type: ignore[valid-type]
        default="adam",
        metadata={
            "help": "Optimizer. adam is the paper's (section 5.3), torch's fused Adam; sgd takes momentum; "
            "the rest are transformers' own."
        },
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "Adam's decay of the second moment."})
    adam_epsilon: float = field(default=1e-9, metadata={"help": "Adam's epsilon."})
    momentum: float = field(default=0.9, metadata={"help": "Momentum of optim=sgd."})
    max_grad_norm: float = field(
        default=0.0,
        metadata={"help": "Largest norm of the gradients; 0, as in the paper, does not clip."},
    )
    label_smoothing_factor: float = field(
        default=0.1,
        metadata={
            "help": "Label smoothing of the training loss (section 5.4). Evaluation reports the plain loss."
        },
    )
    r_drop: float = field(
        default=0.0,
        metadata={
            "help": "Weight of R-Drop (α of Liang et al. 2021, theirs is 1 to 5). Each batch passes twice "
            "with different dropout, and the loss adds the divergence of the two predictions. It takes "
            "twice the time and memory. 0 is off."
        },
    )
    max_source_tokens: int | None = field(
        default=None,
        metadata={"help": "Largest number of source tokens, padding included, in a batch on one device."},
    )
    max_target_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Largest number of target tokens, padding included, in a batch on one device. With this "
            "or max_source_tokens, batches have a budget of tokens, not a fixed number of sentences."
        },
    )
    tokens_per_update: int | None = field(
        default=None,
        metadata={
            "help": "Target tokens, padding included, in one update over all devices (the paper's is 25000). "
            "It sets gradient_accumulation_steps from the number of devices and max_target_tokens, "
            "so that results do not depend on the machine."
        },
    )
    gradient_accumulation_steps: int | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Batches per device in one update: 1, or as many as tokens_per_update needs."},
    )
    stream_buffer_size: int = field(
        default=16_384,
        metadata={"help": "Examples of a stream to hold in memory, to batch similar lengths together."},
    )
    average_checkpoints: int = field(
        default=0,
        metadata={
            "help": "Average the weights of the last checkpoints, this many, into the final model (section "
            "6.1: 5 for base, 20 for big). 0 keeps the last weights."
        },
    )
    do_train: bool = field(
        default=True,
        metadata={
            "help": "Train. With false, the recipes score the model in output_dir on the validation and test "
            "data, and write results_<file>.json there."
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to resume from: its folder; true for the newest undamaged one in output_dir; "
            "or auto, which starts a new run if there is none."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop when this many evaluations in a row have not improved metric_for_best_model (the "
            "loss if not given). The final model is then the best checkpoint or, with average_checkpoints, "
            "the average of the last ones."
        },
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "An evaluation is better only if it improves by more than this."}
    )
    bf16: str = field(  # type: ignore[assignment]  # "auto" before __post_init__
        default="false",
        metadata={
            "help": "Compute in bfloat16: true, false, or auto, which measures whether that is faster here.",
            "nargs": "?",
            "const": "true",
        },
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Implementation of attention: sdpa (the default), eager, flex_attention, ... On a CPU "
            "with bf16 instructions, eager with bf16 is the fastest for short inputs."
        },
    )
    use_cache: bool = field(
        default=True,
        metadata={
            "help": "Whether the saved model caches keys and values when it decodes. Training never does."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Replace a NaN or infinite loss in the logs by the mean. Training stops at it anyway."
        },
    )

    def __post_init__(self) -> None:
        accumulation = self.gradient_accumulation_steps
        _refuse(
            accumulation is not None and accumulation < 1,
            f"gradient_accumulation_steps={accumulation} must be at least 1",
        )
        self.gradient_accumulation_steps = accumulation or 1
        schedule = _named(ScheduleName, "lr_scheduler_type", self.lr_scheduler_type)
        optimizer = _named(OptimizerName, "optim", self.optim)
        given_rate = self.learning_rate
        if given_rate is None:
            self.learning_rate = 1.0 if schedule == "noam" else 5e-5
        # transformers converts both names to its own enums, which have no noam and no adam.
        if schedule == "noam":
            self.lr_scheduler_type = SchedulerType.INVERSE_SQRT
        if optimizer == "adam":
            self.optim = OptimizerNames.ADAMW_TORCH_FUSED
        self._check_numbers()
        self._prepare_early_stopping()
        self.bf16 = choose_bf16(self.bf16, self.use_cpu)  # type: ignore[assignment]  # a bool from here on
        # Without use_cpu, accelerate treats processes on a machine without a GPU as separate trainings.
        self.use_cpu |= not (torch.accelerator.is_available() or is_torch_xla_available())
        super().__post_init__()
        self.dataloader_pin_memory &= torch.accelerator.is_available()  # otherwise torch warns at every epoch
        if schedule == "noam":
            self.lr_scheduler_type = schedule
        if optimizer == "adam":
            self.optim = optimizer

        known = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
        _refuse(
            self.attn_implementation not in (None, *known),
            f"attn_implementation={self.attn_implementation} is none of {', '.join(known)}",
        )
        _refuse(
            getattr(self, "enable_jit_checkpoint", False),
            "enable_jit_checkpoint does not apply: this trainer saves a checkpoint at SIGTERM by itself",
        )
        _refuse(
            self.push_to_hub and not self.do_train,
            "push_to_hub uploads a trained model, but do_train=false only scores one: remove push_to_hub",
        )
        _refuse(
            self.push_to_hub and self.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS),
            f"hub_strategy={HubStrategy(self.hub_strategy).value} would upload pickled files: use every_save",
        )
        self._check_optimization()
        self._check_averaging()
        if self.has_token_budget:
            self._check_token_batches()
        if self.tokens_per_update is not None:
            self._derive_accumulation(accumulation)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the secrets: the Trainer pickles its arguments beside the model."""
        return {name: None if name.endswith("_token") else value for name, value in self.__dict__.items()}

    @property
    def has_token_budget(self) -> bool:
        """Whether training batches are made by token budget."""
        return any((self.max_source_tokens, self.max_target_tokens, self.tokens_per_update))

    def _check_numbers(self) -> None:
        """Refuse numbers that transformers or torch would refuse later, without the key."""
        for key in ("per_device_train_batch_size", "per_device_eval_batch_size", "stream_buffer_size"):
            _refuse(getattr(self, key) < 1, f"{key}={getattr(self, key)} must be at least 1")
        for key in ("save_steps", "eval_steps", "logging_steps"):
            value = getattr(self, key)
            _refuse(value is not None and not value > 0, f"{key}={value} must be positive")
        for key in ("num_train_epochs", "learning_rate", "noam_factor", "warmup_steps", "max_grad_norm"):
            value = getattr(self, key)
            _refuse(value is not None and not math.isfinite(value), f"{key}={value} must be a number")
        _refuse(self.dataloader_num_workers < 0, "dataloader_num_workers must not be negative")
        _refuse(not 0 <= self.seed < 2**32, f"seed={self.seed} must be at least 0 and below 2^32")
        _refuse(
            self.max_steps <= 0 and not self.num_train_epochs > 0,
            f"num_train_epochs={self.num_train_epochs} trains nothing: set it, or max_steps, above 0; "
            "do_train=false scores a saved model",
        )
        for key in ("max_source_tokens", "max_target_tokens", "tokens_per_update", "max_steps"):
            value = getattr(self, key)
            _refuse(value is not None and value > 2**40, f"{key}={value} is more than {2**40:,}")
            _refuse(
                value is not None and value < 1 and key != "max_steps", f"{key}={value} must be at least 1"
            )

    def _check_optimization(self) -> None:
        schedule: Any = self.lr_scheduler_type
        optimizer: Any = self.optim
        noam = schedule == "noam"
        _refuse(
            noam and self.learning_rate != 1,
            f"learning_rate={self.learning_rate} does not apply to lr_scheduler_type=noam: use noam_factor",
        )
        _refuse(
            noam and not self.warmup_steps > 0,
            f"lr_scheduler_type=noam needs warmup_steps > 0, not {self.warmup_steps}",
        )
        _refuse(
            noam and self.lr_scheduler_kwargs,
            "lr_scheduler_kwargs does not apply to lr_scheduler_type=noam: use warmup_steps and noam_factor",
        )
        _refuse(
            not self.noam_factor > 0, f"noam_factor={self.noam_factor} must be positive; 1 is the paper's"
        )
        _refuse(
            not noam and self.noam_factor != 1,
            f"noam_factor={self.noam_factor} does not apply to "
            f"lr_scheduler_type={schedule.value}: use learning_rate",
        )
        _refuse(
            self.optim != "sgd" and self.momentum != 0.9,
            f"momentum={self.momentum} applies only to optim=sgd, not to optim={optimizer.value}",
        )
        _refuse(
            self.optim == "adam" and self.weight_decay,
            f"weight_decay={self.weight_decay} does not work with optim=adam, which would scale it like a "
            "gradient: use optim=adamw_torch_fused",
        )
        _refuse(
            self.optim == "adam" and self.optim_args,
            "optim_args does not apply to optim=adam: use the adam_* keys",
        )
        _refuse(
            not 0 <= self.label_smoothing_factor < 1,
            f"label_smoothing_factor={self.label_smoothing_factor} must be at least 0 and below 1",
        )
        _refuse(not self.r_drop >= 0, f"r_drop={self.r_drop} must not be negative; 0 turns it off")
        _refuse(
            self.r_drop and self.n_gpu > 1,
            f"r_drop={self.r_drop} compares two passes on one device, but this process uses {self.n_gpu} "
            f"GPUs: {ONE_GPU_EACH.format(self.n_gpu)}",
        )

    def _prepare_early_stopping(self) -> None:
        patience = self.early_stopping_patience
        if patience is None:
            return
        _refuse(patience < 1, f"early_stopping_patience={patience} must be at least 1")
        _refuse(
            self.eval_strategy in ("no", IntervalStrategy.NO),
            f"early_stopping_patience={patience} needs evaluations: set eval_strategy=steps or epoch",
        )
        self.metric_for_best_model = self.metric_for_best_model or "loss"
        if self.average_checkpoints:
            return
        self.load_best_model_at_end = True
        alike = word_of(self.save_strategy) == word_of(self.eval_strategy)
        evaluated = self.eval_steps or self.logging_steps
        by_steps = word_of(self.eval_strategy) == "steps" and evaluated >= 1
        _refuse(
            not alike or (by_steps and self.save_steps % evaluated),
            f"early_stopping_patience={patience} keeps the best checkpoint, so a checkpoint is saved when it "
            "is evaluated: set save_strategy and save_steps as eval_strategy and eval_steps",
        )

    def _check_averaging(self) -> None:
        count = self.average_checkpoints
        _refuse(count < 0, f"average_checkpoints={count} must not be negative; 0 turns it off")
        if not count:
            return
        _refuse(
            self.save_strategy == SaveStrategy.NO,
            f"average_checkpoints={count} needs checkpoints, but save_strategy=no: set save_strategy=steps",
        )
        _refuse(
            self.save_total_limit is not None and 0 < self.save_total_limit < count,
            f"average_checkpoints={count} needs {count} checkpoints, but "
            f"save_total_limit={self.save_total_limit} deletes some of them: raise it to {count}",
        )
        _refuse(
            self.load_best_model_at_end,
            f"load_best_model_at_end and average_checkpoints={count} both choose the final weights: keep one",
        )
        for key in ("fsdp", "deepspeed"):
            _refuse(
                getattr(self, key),
                f"average_checkpoints={count} does not work with {key}, which splits the weights: remove it, "
                "and call average_checkpoints() on the folders after training",
            )

    def _check_token_batches(self) -> None:
        keys = ("max_target_tokens", "max_source_tokens", "tokens_per_update")
        budget = next(f"{key}={getattr(self, key)}" for key in keys if getattr(self, key))
        config: Any = self.accelerator_config
        sampling, batch_size = self.train_sampling_strategy, self.per_device_train_batch_size
        refused = {
            f"train_sampling_strategy={sampling}": sampling != "random",
            f"per_device_train_batch_size={batch_size}": batch_size != 8,  # not its default
            "auto_find_batch_size": self.auto_find_batch_size,
            "dataloader_drop_last": self.dataloader_drop_last,
            "sortish_sampler": self.sortish_sampler,
            "accelerator_config.dispatch_batches": config.dispatch_batches,
            "accelerator_config.split_batches": config.split_batches,
        }
        for key, given in refused.items():
            _refuse(given, f"{key} and {budget} both set the size of a batch: keep one")
        _refuse(
            self.n_gpu > 1,
            f"{budget} is the budget of one device, but this process uses {self.n_gpu} GPUs: "
            f"{ONE_GPU_EACH.format(self.n_gpu)}",
        )

    def _derive_accumulation(self, accumulation: int | None) -> None:
        """Set the number of batches per device that make an update of tokens_per_update."""
        _refuse(
            self.deepspeed,
            "tokens_per_update cannot set the accumulation of deepspeed, which has its own config: set "
            "gradient_accumulation_steps and max_target_tokens",
        )
        derived = self._batches_per_update()
        _refuse(
            accumulation is not None and accumulation != derived,
            f"gradient_accumulation_steps={accumulation} contradicts "
            f"tokens_per_update={self.tokens_per_update}, which makes it {derived} on {self.world_size} "
            "device(s): remove one of them",
        )
        _refuse(
            self.tokens_per_update < self.world_size * derived,
            f"tokens_per_update={self.tokens_per_update} is too few: {self.world_size} devices need at least "
            f"{self.world_size * derived}",
        )
        self.gradient_accumulation_steps = derived

    def _batches_per_update(self) -> int:
        update = self.tokens_per_update or 0
        budget = self.max_target_tokens or math.ceil(update / self.world_size)
        return derive_accumulation(update, budget, self.world_size)

    @property
    def device_budget(self) -> tuple[int | None, int | None]:
        """The largest number of source and of target tokens in a device batch.

        With tokens_per_update both may be smaller than max_*_tokens, in proportion, so that the device
        batches of an update add up to it.
        """
        source, target = self.max_source_tokens, self.max_target_tokens
        if self.tokens_per_update is None:
            return source, target
        share = self.tokens_per_update // (self.world_size * self._batches_per_update())
        if source is not None and target is not None:
            source = source * share // target
        return source, share


def _named(names: type[ExplicitEnum], key: str, value: str) -> ExplicitEnum:
    try:
        return names(value)
    except ValueError:
        raise ValueError(f"{key}={value} is none of {', '.join(name.value for name in names)}") from None


def word_of(value: Any) -> Any:
    """Return the word of an option that may be an enum; other values are returned as they are."""
    return getattr(value, "value", value)


def _refuse(wrong: object, message: str) -> None:
    if wrong:
        raise ValueError(message)
