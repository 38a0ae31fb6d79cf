"""Train the Transformer to translate or summarize from scratch, score it, and leave a model for pipeline().

python recipes/seq2seq.py recipes/translation/quickstart.yaml --output_dir outputs/mine --seed 7
torchrun --nproc-per-node 8 recipes/seq2seq.py recipes/summarization/cnn_dailymail.yaml
accelerate launch --config_file recipes/accelerate/fsdp.yaml recipes/seq2seq.py recipes/translation/...
"""

import logging
import sys
import time
from functools import partial

from transformers import AutoModelForSeq2SeqLM, set_seed

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.generation import paper_generation_config
from vanilla_transformer.tasks.results import publish, write_outputs
from vanilla_transformer.tasks.seq2seq import DataArguments, DecodingArguments, encode_splits, load_splits
from vanilla_transformer.tasks.settings import parse, prepare_output_dir
from vanilla_transformer.tasks.text import StartArguments, get_model, get_tokenizer
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
    summarization_metrics,
    translation_metrics,
)

logger = logging.getLogger("seq2seq")


def main():
    began = time.perf_counter()
    model_settings, data, start, decoding, args = settings()
    logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    checkpoint = prepare_output_dir(args)

    with args.main_process_first(desc="reading the data"):
        splits = load_splits(data)
        if data.streaming:  # as stored, a stream may hold one source of text after the other
            splits["train"] = splits["train"].shuffle(seed=args.seed, buffer_size=args.stream_buffer_size)
        # Longer texts than max_source_length are not in the training data.
        both = ("source", "target")
        stored = checkpoint or (None if data.tokenizer else start.pretrained)
        tokenizer = get_tokenizer(data, splits["train"], both, args, stored, data.max_source_length)
    begins = tokenizer.bos_token_id
    model = get_model(
        AutoModelForSeq2SeqLM, model_settings, tokenizer, start.pretrained, decoder_start_token_id=begins
    )
    config = model.config
    with args.main_process_first(desc="encoding the data"):
        encoded = encode_splits(splits, tokenizer, data, longest=config.max_position_embeddings)

    model.generation_config = paper_generation_config(config)
    model.generation_config.update(
        num_beams=decoding.num_beams,
        length_penalty=decoding.alpha,
        max_extra_tokens=decoding.max_extra_tokens,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
    )
    measure = partial(translation_metrics, tokenizer, lowercase=data.lowercase)
    if data.task == "summarization":
        measure = partial(summarization_metrics, tokenizer)
        model.generation_config.update(max_extra_tokens=None, max_length=data.max_target_length + 1)
    if data.truncate_source:  # the pipeline does as training did
        model.config.task_specific_params = {data.task: {"truncation": True}}
    logger.info("%s parameters, a vocabulary of %s", f"{model.num_parameters():,}", f"{len(tokenizer):,}")

    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("validation"),
        data_collator=Seq2SeqCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        compute_metrics=measure() if args.predict_with_generate else None,
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()

    scores = {}
    if held_out := next((name for name in ("test", "validation") if name in splits), None):
        split = encoded[held_out]
        trainer.compute_metrics = measure(split["target"])
        args.predict_with_generate = True
        scored = trainer.predict(split, metric_key_prefix=held_out, num_beams=decoding.num_beams)
        scores[held_out] = scored.metrics
        if trainer.is_world_process_zero():
            write_outputs(split, scored.predictions, tokenizer, args.output_dir, data.task)
    pairs = "" if data.streaming else f", {len(encoded['train']):,} pairs"
    publish(
        trainer,
        task=data.task,
        data=data.described() + pairs,
        scores=scores,
        model_settings={"pretrained": start.pretrained, **model_settings},
        began=began,
        facts={"vocabulary": len(tokenizer), **trained.metrics},
        shown=("max_source_tokens", "max_target_tokens", "tokens_per_update"),
        languages=filter(None, (data.source_lang, data.target_lang)),
    )


def settings(argv: list[str] | None = None) -> tuple:
    return parse(
        VanillaTransformerConfig,
        DataArguments,
        StartArguments,
        DecodingArguments,
        VanillaTransformerTrainingArguments,
        argv=argv,
    )


if __name__ == "__main__":
    try:
        main()
    except (FloatingPointError, ImportError, OSError, ValueError) as error:  # InputError among them
        logger.debug("where it happened", exc_info=True)
        sys.exit(f"error: {error}")
