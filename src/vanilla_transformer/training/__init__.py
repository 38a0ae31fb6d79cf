"""Training as the paper does it (section 5), on transformers' Trainer."""

from ..extras import extra

with extra("train"):
    from .arguments import VanillaTransformerTrainingArguments
    from .averaging import average_checkpoints
    from .batching import Seq2SeqCollator, TokenBudgetSampler
    from .callbacks import TrainingInterrupted
    from .manifest import last_checkpoints
    from .schedule import get_noam_schedule, noam_rate
    from .seq2seq_trainer import VanillaTransformerSeq2SeqTrainer
    from .streaming import TokenBudgetIterable
    from .trainer import VanillaTransformerTrainer

__all__ = [
    "Seq2SeqCollator",
    "TokenBudgetIterable",
    "TokenBudgetSampler",
    "TrainingInterrupted",
    "VanillaTransformerSeq2SeqTrainer",
    "VanillaTransformerTrainer",
    "VanillaTransformerTrainingArguments",
    "average_checkpoints",
    "get_noam_schedule",
    "last_checkpoints",
    "noam_rate",
]
