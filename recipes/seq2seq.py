"""Train the Transformer on pairs of texts from scratch, score it, and leave a model that pipeline() reads.

python recipes/seq2seq.py recipes/translation/quickstart.yaml --output_dir outputs/mine --seed 7
torchrun --nproc-per-node 8 recipes/seq2seq.py recipes/translation/wmt14_en_de_base.yaml
accelerate launch --config_file recipes/accelerate/fsdp.yaml recipes/seq2seq.py recipes/translation/...
"""

import json
import logging
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from huggingface_hub import upload_folder
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.generation import paper_generation_config
from vanilla_transformer.model_card import write_model_card
from vanilla_transformer.tokenization_vanilla_transformer import VanillaTransformerTokenizer
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
    translation_metrics,
)
from vanilla_transformer.training.data import DataArguments, encode_splits, load_splits, text_columns
from vanilla_transformer.training.settings import InputError, checkpoint_to_resume, parse

logger = logging.getLogger("seq2seq")


@dataclass
class DecodingArguments:
    """The beam search of the final score; it is stored with the model (section 6.1)."""

    _argument_group_name = "decoding"

    num_beams: int = field(default=4, metadata={"help": "hypotheses that beam search keeps"})
    alpha: float = field(default=0.6, metadata={"help": "of the length penalty ((5 + length) / 6)^alpha"})
    max_extra_tokens: int = field(default=50, metadata={"help": "longest output, in tokens beyond the input"})


def main():
    began = time.perf_counter()
    model_settings, data, decoding, args = settings()
    logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    checkpoint = checkpoint_to_resume(args)

    with args.main_process_first(desc="reading and encoding the data"):
        splits = load_splits(data)
        tokenizer = get_tokenizer(data, splits["train"], args, checkpoint)
        encoded = encode_splits(splits, tokenizer, data)

    config = VanillaTransformerConfig.from_preset(
        model_settings.get("preset", "base"),
        **{name: value for name, value in model_settings.items() if name != "preset"},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
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
    held_out = next((name for name in ("test", "validation") if name in splits), None)
    scores = {}
    if held_out:
        texts = encoded[held_out]["target"]
        trainer.compute_metrics = translation_metrics(tokenizer, texts, lowercase=data.lowercase)
        args.predict_with_generate = True
        scored = trainer.predict(encoded[held_out], metric_key_prefix=held_out, num_beams=decoding.num_beams)
        scores = scored.metrics
    results |= scores | {"minutes": (time.perf_counter() - began) / 60}

    if not trainer.is_world_process_zero():
        return
    if held_out:
        write_translations(encoded[held_out], scored.predictions, tokenizer, args.output_dir)
    Path(args.output_dir, "results.json").write_text(json.dumps(results, indent=2) + "\n")
    shown = ("max_steps", "warmup_steps", "noam_factor", "max_source_tokens", "max_target_tokens", "seed")
    write_model_card(
        args.output_dir,
        task="translation",
        data=f"{data.described()}, {len(splits['train']):,} pairs"
        if not data.streaming
        else data.described(),
        results=scores
        and {held_out: {name.removeprefix(f"{held_out}_"): value for name, value in scores.items()}},
        settings=model_settings | {name: getattr(args, name) for name in shown},
        languages=[data.source_lang, data.target_lang],
        command=shlex.join(["python", *sys.argv]),
    )
    if args.push_to_hub:
        left_here = ["checkpoint-*", "unfinished/*"]
        upload_folder(repo_id=trainer.hub_model_id, folder_path=args.output_dir, ignore_patterns=left_here)
    report(results, args.output_dir)


def settings(argv: list[str] | None = None) -> tuple:
    """The `model:` block, then an instance of each class."""
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
        tokenizer.save_pretrained(args.output_dir)
    return AutoTokenizer.from_pretrained(stored or args.output_dir)


def write_translations(split, predictions, tokenizer, output_dir: str):
    """translations.jsonl in the order of the data, and a few of them on the screen."""
    ids = np.where(predictions < 0, tokenizer.pad_token_id, predictions)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    rows = sorted(zip(split["row"], split["source"], split["target"], texts))
    with open(Path(output_dir, "translations.jsonl"), "w", encoding="utf-8") as file:
        for _, source, reference, text in rows:
            line = {"source": source, "reference": reference, "translation": text}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    for _, source, reference, text in rows[:: max(1, len(rows) // 5)][:5]:
        print(f"\n  source       {source}\n  reference    {reference}\n  translation  {text}")


def report(results: dict, output_dir: str):
    """What came out, and how to use it."""
    for name, value in results.items():
        print(f"{name:32} {value:,.2f}" if isinstance(value, float) else f"{name:32} {value}")
    print(
        f"\nThe model is in {output_dir}. To translate with it:\n\n"
        "    import vanilla_transformer\n"
        "    from transformers import pipeline\n\n"
        f'    translate = pipeline("translation", model="{output_dir}")\n'
        '    print(translate("...")[0]["translation_text"])\n'
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
