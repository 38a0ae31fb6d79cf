"""The quickstart without a Trainer: forward pass, backward pass, update and evaluation, on accelerate.

    python examples/bare_loop.py recipes/translation/quickstart.yaml outputs/bare_loop
    accelerate launch --config_file recipes/accelerate/cpu.yaml examples/bare_loop.py <the same>

It computes the losses and weights of `python recipes/seq2seq.py` with the same YAML, dropout included. The
Trainer adds checkpoints, resuming, gradient accumulation, and the choice of what is fixed here.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from accelerate import Accelerator
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForSeq2SeqLM, get_linear_schedule_with_warmup, set_seed

from vanilla_transformer import (
    TrainingLoss,
    VanillaTransformerConfig,
    VanillaTransformerTokenizer,
    paper_generation_config,
)
from vanilla_transformer.corpora import load_corpus
from vanilla_transformer.training import Seq2SeqCollator, TokenBudgetSampler


def main(recipe, output_dir):
    recipe = SimpleNamespace(**yaml.safe_load(Path(recipe).read_text()))
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())

    # Data: pairs of token ids, in batches with a budget of tokens. All processes follow one plan of batches.
    corpus, source, target = load_corpus(recipe.dataset), recipe.source_lang, recipe.target_lang
    train = corpus["train"]
    tokenizer = VanillaTransformerTokenizer.train([train[source], train[target]], recipe.vocab_size)
    pairs = corpus.map(lambda row: tokenizer(row[source], text_target=row[target]), batched=True)
    pairs = pairs.select_columns(["input_ids", "labels"])
    longest = {"input_ids": recipe.max_source_length, "labels": recipe.max_target_length}
    train = pairs["train"].filter(lambda pair: all(len(pair[side]) <= longest[side] for side in longest))
    lengths = ([len(ids) for ids in train[side]] for side in longest)
    budget = (recipe.max_source_tokens, recipe.max_target_tokens)
    processes = {"num_replicas": accelerator.num_processes, "rank": accelerator.process_index}
    sampler = TokenBudgetSampler(*lengths, *budget, **processes, seed=42)
    collate = Seq2SeqCollator(tokenizer.pad_token_id)
    batches = DataLoader(train, batch_sampler=sampler, collate_fn=collate)
    held_out = DataLoader(pairs["validation"], recipe.per_device_eval_batch_size, collate_fn=collate)

    # Model
    set_seed(42)
    sizes = {"preset": "base", **recipe.model, "vocab_size": len(tokenizer)}
    config = VanillaTransformerConfig.from_preset(sizes.pop("preset"), **sizes)
    model = AutoModelForSeq2SeqLM.from_config(config)
    model.generation_config = paper_generation_config(config)  # beam 4, α 0.6 (section 6.1)
    adam = {"betas": (0.9, 0.98), "eps": 1e-9, "fused": True}  # section 5.3
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate, **adam)
    schedule = get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.max_steps)
    model, optimizer, held_out = accelerator.prepare(model, optimizer, held_out)
    set_seed(42)  # so that dropout draws the numbers that it draws under the Trainer

    # Train
    history, step, epoch, total = [], 0, 0, 0.0
    while step < recipe.max_steps:
        sampler.set_epoch(epoch)
        for batch in islice(batches, recipe.max_steps - step):
            step += 1
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            tokens = accelerator.reduce((batch["labels"] != -100).sum())  # the target tokens of all processes
            loss = model(**batch, training_loss=TrainingLoss(smoothing=0.1), num_items_in_batch=tokens).loss
            accelerator.backward(loss * accelerator.num_processes)  # gradients are averaged, not summed
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

            total += accelerator.reduce(loss.detach()).item()
            if step % recipe.logging_steps == 0:
                history.append({"step": step, "loss": total / recipe.logging_steps})
                accelerator.print(history[-1])
                total = 0.0
            if step % recipe.eval_steps == 0 or step == recipe.max_steps:
                history.append({"step": step, "eval_loss": evaluate(accelerator, model, held_out)})
                accelerator.print(history[-1])
        epoch += 1

    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(output_dir)
        tokenizer.save_pretrained(output_dir)
    return history


@torch.no_grad()
def evaluate(accelerator, model, held_out):
    """The mean negative log-likelihood of a token, over the whole set and without label smoothing."""
    model.eval()
    sums = 0.0
    for batch in held_out:
        nll = F.cross_entropy(model(**batch).logits.transpose(1, 2), batch["labels"], reduction="none")
        rows = torch.stack([nll.sum(1), (batch["labels"] != -100).sum(1)], dim=1)  # (sentences, 2)
        sums += accelerator.gather_for_metrics(rows).double().sum(0)  # not what fills up the last batch
    model.train()
    return (sums[0] / sums[1]).item()


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a YAML of recipes/translation that names a data set of the package")
    parser.add_argument("output_dir", help="folder for the trained model")
    main(**vars(parser.parse_args()))
