"""Compares training speed with MarianMTModel of the same size, on the same batches, in alternating rounds.

    python benchmarks/training_speed.py --preset base --rounds 5
    python benchmarks/training_speed.py --preset base --bf16 --compile --sentences 400 --batches 8 --peak 990

Both models have the same sizes, ReLU, sinusoids, shared embeddings, dropout 0.1, sdpa attention and torch's
fused Adam. Sentences have random lengths and are not sorted, so about half of a batch is padding. Prints
target tokens per second, without padding, and the median ratio of neighbouring rounds. On a shared machine
only the ratio is reliable.

With --peak, the device's peak in teraflops per second, it also prints the model FLOPs utilisation (MFU): 6
operations for each weight and real token, without the products of attention itself.
"""

import argparse
import statistics
import time

import torch
from transformers import MarianConfig, MarianMTModel

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.losses import TrainingLoss


def random_batches(
    count: int, sentences: int, longest: int, vocab_size: int
) -> list[dict[str, torch.Tensor]]:
    """Return batches of sentence pairs; the lengths of both sides are uniform between 4 and `longest`."""
    generator = torch.Generator().manual_seed(0)

    def side(padding: int) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.randint(4, longest + 1, (sentences, 1), generator=generator)
        mask = torch.arange(int(lengths.max())) < lengths
        ids = torch.randint(3, vocab_size, mask.shape, generator=generator)
        return ids.masked_fill(~mask, padding), mask.long()

    batches = []
    for _ in range(count):
        (source, mask), (labels, _) = side(1), side(-100)
        batches.append({"input_ids": source, "attention_mask": mask, "labels": labels})
    return batches


def models(preset: str, vocab_size: int) -> dict[str, tuple]:
    """Return both models, with the arguments of their forward pass in training."""
    config = VanillaTransformerConfig.from_preset(preset, vocab_size=vocab_size)
    marian = MarianConfig(
        vocab_size=vocab_size,
        d_model=config.hidden_size,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_ffn_dim=config.intermediate_size,
        decoder_ffn_dim=config.intermediate_size,
        encoder_attention_heads=config.num_attention_heads,
        decoder_attention_heads=config.num_attention_heads,
        activation_function="relu",
        dropout=config.dropout,
        scale_embedding=True,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
    )
    return {
        "marian": (MarianMTModel(marian), {}),
        "ours": (VanillaTransformerForConditionalGeneration(config), {"training_loss": TrainingLoss()}),
    }


def useful_operations(model, source_tokens: int, target_tokens: int) -> int:
    """Return the floating-point operations of a forward and backward pass on real tokens."""

    def weights(part: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in part.parameters() if weight.ndim == 2)

    decoder = model.model.decoder.layers
    of_memory = sum(weights(layer.cross_attn.k_proj) + weights(layer.cross_attn.v_proj) for layer in decoder)
    of_source = weights(model.model.encoder.layers) + of_memory
    of_target = weights(decoder) - of_memory + model.lm_head.weight.numel()
    return 6 * (of_source * source_tokens + of_target * target_tokens)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="base", help="size of both models (%(default)s)")
    parser.add_argument("--vocab_size", type=int, default=37000, help="size of the vocabulary (%(default)s)")
    parser.add_argument("--sentences", type=int, default=16, help="pairs per batch (%(default)s)")
    parser.add_argument("--longest", type=int, default=60, help="longest sentence in tokens (%(default)s)")
    parser.add_argument("--batches", type=int, default=3, help="batches per round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after the warm-up (%(default)s)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="device (%(default)s)"
    )
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument(
        "--compile", action="store_true", help="compile both with torch.compile(dynamic=True)"
    )
    parser.add_argument("--peak", type=float, help="peak teraflops per second of the device, for the MFU")
    args = parser.parse_args()

    batches = random_batches(args.batches, args.sentences, args.longest, args.vocab_size)
    real = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    held = sum(batch["labels"].numel() for batch in batches)
    source = sum(int(batch["attention_mask"].sum()) for batch in batches)
    device = torch.device(args.device).type
    batches = [{name: value.to(args.device) for name, value in batch.items()} for batch in batches]
    padding = 1 - real / held
    print(f"{args.preset}: {args.batches} batches of {args.sentences} pairs, {padding:.0%} padding")

    rounds = {}
    both = models(args.preset, args.vocab_size)
    operations = useful_operations(both["ours"][0], source, real)
    for name, (model, options) in both.items():
        model.to(args.device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True)
        if args.compile:
            model = torch.compile(model, dynamic=True)
        rounds[name] = (model, options, optimizer, [])
    for number in range(args.rounds + 1):
        for model, options, optimizer, seconds in rounds.values():
            start = time.perf_counter()
            for batch in batches:
                with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
                    loss = model(**batch, **options).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds.append(time.perf_counter() - start)
    for name, (*_, seconds) in rounds.items():
        taken = statistics.median(seconds)
        share = f", MFU {operations / taken / args.peak / 1e12:.1%}" if args.peak else ""
        print(f"{name:8}{real / taken:10,.0f} target tokens per second{share}")
    ratios = [marian / ours for marian, ours in zip(rounds["marian"][-1], rounds["ours"][-1])]
    print(f"ours is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
