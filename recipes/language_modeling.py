"""Train a language model from scratch: a decoder that goes on with a text, an encoder that fills in what is
hidden, or both, as a start for seq2seq.py, to write a text anew.

python recipes/language_modeling.py recipes/language_modeling/quickstart.yaml --output_dir outputs/mine
python recipes/language_modeling.py --train_file book.txt --output_dir outputs/mine --max_steps 2000
torchrun --nproc-per-node 8 recipes/language_modeling.py recipes/language_modeling/wikitext103.yaml
"""

import logging
import sys
import time

from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, set_seed

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.tasks.language_modeling import (
    LanguageModelingArguments,
    encode_texts,
    for_language_modeling,
    load_texts,
    text_scores,
)
from vanilla_transformer.tasks.results import publish
from vanilla_transformer.tasks.settings import InputError, parse, prepare_output_dir
from vanilla_transformer.tasks.text import get_model, get_tokenizer
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
)

logger = logging.getLogger("language_modeling")

# Of each objective, its model, the pipeline that uses it, and the stack that it does without.
OBJECTIVES = {
    "causal": (AutoModelForCausalLM, "text-generation", "encoder_layers"),
    "masked": (AutoModelForMaskedLM, "fill-mask", "decoder_layers"),
    "denoising": (AutoModelForSeq2SeqLM, "text2text-generation", None),
}


def main():
    began = time.perf_counter()
    model_settings, data, args = settings()
    logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    checkpoint = prepare_output_dir(args)
    auto_class, task, absent = OBJECTIVES[data.objective]

    with args.main_process_first(desc="reading the data"):
        splits = load_texts(data)
        tokenizer = get_tokenizer(data, splits["train"], ("text",), args, checkpoint, data.block_size)
        tokenizer = for_language_modeling(tokenizer, data.objective)
    sizes = {"preset": "base", **model_settings}
    if data.objective == "causal":  # what it writes is no longer than what it has seen
        sizes.setdefault("max_position_embeddings", data.block_size)
    if absent:
        sizes[absent] = 0
    model = get_model(auto_class, sizes, tokenizer)
    config = model.config
    if data.block_size > config.max_position_embeddings:
        raise InputError(
            f"block_size={data.block_size} is more than max_position_embeddings="
            f"{config.max_position_embeddings}"
        )
    with args.main_process_first(desc="encoding the data"):
        encoded = encode_texts(splits, tokenizer, data, args.seed)
        if data.streaming:  # blocks, once documents have met their neighbours
            encoded["train"] = encoded["train"].shuffle(seed=args.seed, buffer_size=args.stream_buffer_size)

    logger.info("%s parameters, a vocabulary of %s", f"{model.num_parameters():,}", f"{len(tokenizer):,}")
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("validation"),
        data_collator=Seq2SeqCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()

    scores = {}
    for name in [name for name in ("validation", "test") if name in encoded]:
        scores[name] = trainer.evaluate(encoded[name], metric_key_prefix=name)
        if data.objective == "causal":
            scores[name] |= text_scores(scores[name], name, splits[name], encoded[name])
    publish(
        trainer,
        task=task,
        data=data.described() + ("" if data.streaming else f", {len(splits['train']):,} documents"),
        scores=scores,
        model_settings=model_settings,
        began=began,
        facts={"vocabulary": len(tokenizer), **trained.metrics},
        shown=("max_target_tokens", "tokens_per_update", "label_smoothing_factor"),
    )


def settings(argv: list[str] | None = None) -> tuple:
    return parse(
        VanillaTransformerConfig,
        LanguageModelingArguments,
        VanillaTransformerTrainingArguments,
        argv=argv,
    )


if __name__ == "__main__":
    try:
        main()
    except (FloatingPointError, ImportError, OSError, ValueError) as error:  # InputError among them
        logger.debug("where it happened", exc_info=True)
        sys.exit(f"error: {error}")
