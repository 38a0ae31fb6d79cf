"""Train a language model from scratch: causal (GPT), masked (BERT) or denoising (BART).

python recipes/language_modeling.py recipes/language_modeling/quickstart.yaml --output_dir outputs/mine
python recipes/language_modeling.py --train_file book.txt --output_dir outputs/mine --max_steps 2000
torchrun --nproc-per-node 8 recipes/language_modeling.py recipes/language_modeling/wikitext103.yaml
"""

from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from vanilla_transformer import VanillaTransformerConfig, tasks
from vanilla_transformer.tasks import language_modeling
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
)

SETTINGS = (
    VanillaTransformerConfig,
    language_modeling.LanguageModelingArguments,
    VanillaTransformerTrainingArguments,
)

# Objective -> the model, its pipeline, and the stack that it does not have.
OBJECTIVES = {
    "causal": (AutoModelForCausalLM, "text-generation", {"encoder_layers": 0}),
    "masked": (AutoModelForMaskedLM, "fill-mask", {"decoder_layers": 0}),
    "denoising": (AutoModelForSeq2SeqLM, "text2text-generation", {}),
}


def main(model_settings, data, args):
    checkpoint = tasks.prepare_output_dir(args)
    auto_class, pipeline_task, absent = OBJECTIVES[data.objective]

    # Data
    with args.main_process_first(desc="reading the data"):
        splits = language_modeling.load_texts(data)
        tokenizer = tasks.get_tokenizer(data, splits["train"], ["text"], args, checkpoint, data.block_size)
        tokenizer = language_modeling.for_language_modeling(tokenizer, data.objective)

    # Model
    sizes = {"preset": "base", **model_settings, **absent}
    if data.objective == "causal":  # it writes no longer texts than it was trained on
        sizes.setdefault("max_position_embeddings", data.block_size)
    model = tasks.get_model(auto_class, sizes, tokenizer)
    language_modeling.check_block_size(data, model.config)
    with args.main_process_first(desc="encoding the data"):
        encoded = language_modeling.encode_texts(splits, tokenizer, data, args.seed)
        if data.streaming:  # shuffles blocks, after neighbouring documents were joined
            encoded["train"] = encoded["train"].shuffle(seed=args.seed, buffer_size=args.stream_buffer_size)

    # Train
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

    # Score
    scores = {}
    for name in [name for name in ("validation", "test") if name in encoded]:
        scores[name] = trainer.evaluate(encoded[name], metric_key_prefix=name)
        if data.objective == "causal":
            scores[name] |= language_modeling.text_scores(scores[name], name, splits[name], encoded[name])

    # Card
    tasks.finish(
        trainer,
        task=pipeline_task,
        data=data.described() + ("" if data.streaming else f", {len(splits['train']):,} documents"),
        scores=scores,
        model_settings=model_settings,
        facts={"vocabulary": len(tokenizer), **trained.metrics},
    )


if __name__ == "__main__":
    tasks.run(main, SETTINGS)
