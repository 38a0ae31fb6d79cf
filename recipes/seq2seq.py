"""Train the Transformer on pairs of texts from scratch, score it, and leave a model that pipeline() reads.

python recipes/seq2seq.py recipes/translation/quickstart.yaml --output_dir outputs/mine --seed 7
torchrun --nproc-per-node 8 recipes/seq2seq.py recipes/translation/wmt14_en_de_base.yaml
accelerate launch --config_file recipes/accelerate/fsdp.yaml recipes/seq2seq.py recipes/translation/...
"""

import logging
import shlex
import sys
import time
from dataclasses import dataclass, field

import numpy as np
from huggingface_hub import upload_folder
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

from vanilla_transformer import VanillaTransformerConfig, VanillaTransformerTokenizer
from vanilla_transformer.generation import paper_generation_config
from vanilla_transformer.model_card import write_model_card
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
    translation_metrics,
)
from vanilla_transformer.training.data import DataArguments, encode_splits, load_splits, text_columns
from vanilla_transformer.training.results import write_results, write_translations
from vanilla_transformer.training.settings import parse, prepare_output_dir

logger = logging.getLogger("seq2seq")


@dataclass
class DecodingArguments:
    """The beam search of the final score; it is stored with the model (section 6.1)."""

    _argument_group_name = "decoding"

    num_beams: int = field(default=4, metadata={"help": "hypotheses that beam search keeps"})
    alpha: float = field(default=0.6, metadata={"help": "of the length penalty ((5 + length) / 6)^alpha"})
    max_extra_tokens: int = field(default=50, metadata={"help": "longest output, in tokens beyond the input"})

    def __post_init__(self):
        if self.num_beams < 1:
            raise ValueError(f"num_beams={self.num_beams} must be at least 1")
        if self.max_extra_tokens < 0:
            raise ValueError(f"max_extra_tokens={self.max_extra_tokens} must not be negative")


def main():
    began = time.perf_counter()
    model_settings, data, decoding, args = settings()
    logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    checkpoint = prepare_output_dir(args)

    with args.main_process_first(desc="reading the data"):
        splits = load_splits(data)
        if data.streaming:  # as stored, a stream may hold one source of text after the other
            splits["train"] = splits["train"].shuffle(seed=args.seed, buffer_size=args.stream_buffer_size)
        tokenizer = get_tokenizer(data, splits["train"], args, checkpoint)
    config = VanillaTransformerConfig.from_preset(
        model_settings.get("preset", "base"),
        **{name: value for name, value in model_settings.items() if name != "preset"},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    with args.main_process_first(desc="encoding the data"):
        encoded = encode_splits(splits, tokenizer, data, longest=config.max_position_embeddings)

    model = AutoModelForSeq2SeqLM.from_config(config)
    model.generation_config = paper_generation_config(config)
    model.generation_config.update(
        num_beams=decoding.num_beams,
        length_penalty=decoding.alpha,
        max_extra_tokens=decoding.max_extra_tokens,
    )
    logger.info("%s parameters, a vocabulary of %s", f"{model.num_parameters():,}", f"{len(tokenizer):,}")

    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("validation"),
        data_collator=Seq2SeqCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        compute_metrics=translation_metrics(tokenizer, lowercase=data.lowercase)
        if args.predict_with_generate
        else None,
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()

    speeds = [entry["target_tokens_per_second"] for entry in trainer.state.log_history if "loss" in entry]
    results = {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "updates": trainer.state.global_step,
        "target_tokens_per_second": float(np.mean(speeds or [0])),
        **trained.metrics,
    }
    scores = {}
    if held_out := next((name for name in ("test", "validation") if name in splits), None):
        split = encoded[held_out]
        trainer.compute_metrics = translation_metrics(tokenizer, split["target"], lowercase=data.lowercase)
        args.predict_with_generate = True
        scored = trainer.predict(split, metric_key_prefix=held_out, num_beams=decoding.num_beams)
        scores = scored.metrics
    results |= scores | {"minutes": (time.perf_counter() - began) / 60}

    if trainer.is_world_process_zero():
        if held_out:
            write_translations(split, scored.predictions, tokenizer, args.output_dir)
        write_results(results, args.output_dir, "translation", "translation_text")
        rate = "noam_factor" if args.lr_scheduler_type == "noam" else "learning_rate"
        shown = ("max_steps", "lr_scheduler_type", rate, "warmup_steps", "max_target_tokens", "seed")
        write_model_card(
            args.output_dir,
            task="translation",
            data=data.described() + ("" if data.streaming else f", {len(encoded['train']):,} pairs"),
            results={held_out: {name.removeprefix(f"{held_out}_"): score for name, score in scores.items()}}
            if held_out
            else {},
            model=args.hub_model_id if args.push_to_hub else None,
            settings=model_settings | {name: getattr(args, name) for name in shown},
            languages=filter(None, (data.source_lang, data.target_lang)),
            command=shlex.join(["python", *sys.argv]),
        )
        if args.push_to_hub:
            upload_folder(
                repo_id=trainer.hub_model_id,
                folder_path=args.output_dir,
                ignore_patterns=["checkpoint-*", "unfinished/*"],
                token=args.hub_token,
            )


def settings(argv: list[str] | None = None) -> tuple:
    return parse(
        VanillaTransformerConfig,
        DataArguments,
        DecodingArguments,
        VanillaTransformerTrainingArguments,
        argv=argv,
    )


def get_tokenizer(data, train_split, args, checkpoint):
    """The one that `data.tokenizer` names or the checkpoint holds, else one trained on both sides."""
    stored = data.tokenizer or checkpoint
    if stored is None and args.local_process_index == 0:
        logger.info("training a vocabulary of %d", data.vocab_size)
        columns = text_columns(train_split, data.max_tokenizer_samples)
        tokenizer = VanillaTransformerTokenizer.train(columns, data.vocab_size, lowercase=data.lowercase)
        tokenizer.model_max_length = data.max_source_length  # longer texts are not in the training data
        tokenizer.save_pretrained(args.output_dir)
    return AutoTokenizer.from_pretrained(stored or args.output_dir)


if __name__ == "__main__":
    try:
        main()
    except (FloatingPointError, OSError, ValueError) as error:  # InputError among them
        logger.debug("where it happened", exc_info=True)
        sys.exit(f"error: {error}")
