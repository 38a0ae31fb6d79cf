"""Compares layer and batch normalisation in the same small translation model.

    python benchmarks/normalization.py --updates 600

Batch normalisation (`norm_type="batch"`, statistics over real tokens only) centres a vector by the other
words of its batch. In training, the batch is a few sentences that change with every update. In evaluation,
running averages replace its statistics, so the model sees values that it was not trained with. In a decoder,
the statistics also leak information about later words. Layer normalisation uses one vector only, and is the
same function in training and evaluation.

The table shows the validation loss of each, and the loss with the statistics of the validation batches
themselves. The difference is the cost of the running averages. The data are the shipped Bible, English to
Spanish. Nothing else differs between the runs.
"""

import argparse
import itertools
import tempfile

import torch
from transformers import set_seed

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.losses import TrainingLoss
from vanilla_transformer.tasks.seq2seq import Seq2SeqArguments, encode_splits, load_splits
from vanilla_transformer.tasks.text import get_tokenizer
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=600, help="updates of each run (default: 600)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 2048], help="target tokens per batch")
    parser.add_argument("--norm_position", choices=["post", "pre"], default="pre")
    options = parser.parse_args()

    data = Seq2SeqArguments(
        dataset="bible_en_es",
        source_lang="en",
        target_lang="es",
        vocab_size=2000,
        max_source_length=50,
        max_target_length=50,
        max_validation_samples=400,
    )
    splits = load_splits(data)
    print(f"{'batch':>6} {'norm':>6} {'training':>9} {'validation':>11} {'with its own statistics':>24}")
    for tokens, norm_type in itertools.product(options.tokens, ("layer", "batch")):
        with tempfile.TemporaryDirectory() as folder:
            args = VanillaTransformerTrainingArguments(
                folder,
                max_steps=options.updates,
                lr_scheduler_type="linear",
                learning_rate=0.002,
                warmup_steps=100,
                max_source_tokens=tokens,
                max_target_tokens=tokens,
                label_smoothing_factor=0.0,
                per_device_eval_batch_size=32,
                logging_steps=max(1, options.updates // 10),
                save_strategy="no",
                disable_tqdm=True,
            )
            tokenizer = get_tokenizer(data, splits["train"], ("source", "target"), args)
            encoded = encode_splits(splits, tokenizer, data, longest=1024)
            set_seed(0)
            config = VanillaTransformerConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                intermediate_size=256,
                num_attention_heads=4,
                encoder_layers=2,
                decoder_layers=2,
                dropout=0.0,
                norm_type=norm_type,
                norm_position=options.norm_position,
            )
            model = VanillaTransformerForConditionalGeneration(config)
            trainer = VanillaTransformerTrainer(
                model=model,
                args=args,
                train_dataset=encoded["train"],
                eval_dataset=encoded["validation"],
                data_collator=Seq2SeqCollator(tokenizer.pad_token_id),
                processing_class=tokenizer,
            )
            trainer.train()
            training = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]
            validation = trainer.evaluate()["eval_loss"]
            own = loss_with_own_statistics(trainer)
        print(f"{tokens:6} {norm_type:>6} {training:9.3f} {validation:11.3f} {own:24.3f}", flush=True)


@torch.no_grad()
def loss_with_own_statistics(trainer: VanillaTransformerTrainer) -> float:
    """Return the loss in nats per token with the statistics of each batch, as in training."""
    trainer.model.train()
    total = tokens = 0.0
    for batch in trainer.get_eval_dataloader():
        real = int((batch["labels"] != -100).sum())
        total += float(trainer.model(**batch, training_loss=TrainingLoss()).loss) * real
        tokens += real
    return total / tokens


if __name__ == "__main__":
    main()
