"""Train a language model from scratch: causal (GPT), masked (BERT) or denoising (BART).

python recipes/language_modeling.py recipes/language_modeling/quickstart.yaml --output_dir outputs/mine
python recipes/language_modeling.py --train_file book.txt --output_dir outputs/mine --max_steps 2000
torchrun --nproc-per-node 8 recipes/language_modeling.py recipes/language_modeling/wikitext103.yaml
"""

from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from vanilla_transformer import VanillaTransformerConfig, tasks
from vanilla_transformer.tasks import language_modeling, pictures
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerTrainer,
    VanillaTransformerTrainingArguments,
)

SETTINGS = (
    VanillaTransformerConfig,
    language_modeling.LanguageModelingArguments,
    tasks.StartArguments,
    VanillaTransformerTrainingArguments,
)

# Objective -> the model, its pipeline, the stack that it does not have, and its head.
OBJECTIVES = {
    "causal": (AutoModelForCausalLM, "text-generation", {"encoder_layers": 0}, "ForCausalLM"),
    "masked": (AutoModelForMaskedLM, "fill-mask", {"decoder_layers": 0}, "ForMaskedLM"),
    "denoising": (AutoModelForSeq2SeqLM, "text2text-generation", {}, "ForConditionalGeneration"),
}


def main(model_settings, data, start, args):
    auto_class, pipeline_task, absent, head = OBJECTIVES[data.objective]
    checkpoint = tasks.prepare_output_dir(args, head)

    # Data
    with args.main_process_first(desc="reading the data"):
        splits = language_modeling.load_texts(data)
        if data.streaming and args.do_train:
            splits["train"] = tasks.shuffle_files(splits["train"], args.seed)
        stored, columns = checkpoint or start.pretrained, ["text"]
        tokenizer = tasks.get_tokenizer(data, splits.get("train"), columns, args, stored, data.block_size)
        tokenizer = language_modeling.for_language_modeling(tokenizer, data.objective)

    # Model
    sizes = model_settings if start.pretrained else {"preset": "base", **model_settings, **absent}
    if data.objective == "causal" and not start.pretrained:  # its longest text is a block
        sizes.setdefault("max_position_embeddings", data.block_size)
    model = tasks.get_model(auto_class, sizes, tokenizer, start.pretrained)
    if not args.do_train:
        data.block_size = min(data.block_size, model.config.max_position_embeddings)
        data.stride = min(data.stride, max(1, data.block_size // 2))
    language_modeling.check_block_size(data, model.config)
    with args.main_process_first(desc="encoding the data"):
        encoded = language_modeling.encode_texts(splits, tokenizer, data, args.seed)

    # Train
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=encoded.get("train"),
        eval_dataset=encoded.get("validation"),
        data_collator=Seq2SeqCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
    )
    trained = tasks.train(trainer, data, checkpoint)

    # Score
    place = tasks.place_results(args, data, block_size=data.block_size, stride=data.stride)
    scores = {}
    for name in [name for name in ("validation", "test") if name in encoded]:
        scores[name] = trainer.evaluate(encoded[name], metric_key_prefix=name)
        if data.objective == "causal":
            scores[name] |= language_modeling.text_scores(scores[name], name, splits[name], encoded[name])
        if trainer.is_world_process_zero():
            texts = splits[name]["text"]
            pictures.draw_language_model(trainer, texts, tokenizer, place.folder, data.objective)

    # Card
    tasks.finish(
        trainer,
        place,
        sources=data,
        task=pipeline_task,
        data=tasks.described(data, splits, "documents"),
        scores=scores,
        model_settings={"pretrained": start.pretrained, **model_settings},
        facts={"vocabulary": len(tokenizer), **trained},
    )


if __name__ == "__main__":
    tasks.run(main, SETTINGS)
