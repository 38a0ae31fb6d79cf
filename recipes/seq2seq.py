"""Train a Transformer to translate or summarize, score it, and save a model for `pipeline`.

python recipes/seq2seq.py recipes/translation/quickstart.yaml --output_dir outputs/mine --seed 7
torchrun --nproc-per-node 8 recipes/seq2seq.py recipes/summarization/cnn_dailymail.yaml
accelerate launch --config_file recipes/accelerate/fsdp.yaml recipes/seq2seq.py recipes/translation/...
"""

from transformers import AutoModelForSeq2SeqLM

from vanilla_transformer import VanillaTransformerConfig, tasks
from vanilla_transformer.tasks import aligning, pictures, seq2seq, text_scores
from vanilla_transformer.training import (
    Seq2SeqCollator,
    VanillaTransformerSeq2SeqTrainer,
    VanillaTransformerTrainingArguments,
)

SETTINGS = (
    VanillaTransformerConfig,
    seq2seq.Seq2SeqArguments,
    tasks.StartArguments,
    seq2seq.DecodingArguments,
    VanillaTransformerTrainingArguments,
)


def main(model_settings, data, start, decoding, args):
    checkpoint = tasks.prepare_output_dir(args, "ForConditionalGeneration", "MTModel")

    # Data
    with args.main_process_first(desc="reading the data"):
        splits = seq2seq.load_splits(data)
        if data.streaming and args.do_train:
            splits["train"] = tasks.shuffle_files(splits["train"], args.seed)
        train, columns = splits.get("train"), ["source", "target"]
        stored = start.pretrained if data.extend_vocabulary else checkpoint or start.pretrained
        tokenizer = tasks.get_tokenizer(data, train, columns, args, stored, data.max_source_length)

    # Model
    begins = {"decoder_start_token_id": tokenizer.bos_token_id}
    model = tasks.get_model(AutoModelForSeq2SeqLM, model_settings, tokenizer, start.pretrained, **begins)
    if data.extend_vocabulary and args.do_train:
        tasks.extend_vocabulary(model, tokenizer, data, train, columns, data.extend_vocabulary)
    model.generation_config = seq2seq.generation_config(model, data, decoding, trained=not args.do_train)
    if not args.do_train:
        seq2seq.score_as_trained(data, model, tokenizer.model_max_length)
    if data.truncate_source:  # the pipeline then cuts texts as training did
        model.config.task_specific_params = {data.task: {"truncation": True}}
    with args.main_process_first(desc="encoding the data"):
        encoded = seq2seq.encode_splits(splits, tokenizer, data, longest=model.config.max_position_embeddings)

    # Train
    trainer = VanillaTransformerSeq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=encoded.get("train"),
        eval_dataset=encoded.get("validation"),
        data_collator=Seq2SeqCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        compute_metrics=text_scores.text_metrics(data, tokenizer) if args.predict_with_generate else None,
    )
    trained = tasks.train(trainer, data, checkpoint)
    if trained and data.task == "translation":
        aligning.choose_alignment(trainer, encoded.get("validation"))

    # Score
    place = tasks.place_results(args, data, **seq2seq.scored_settings(model.generation_config, data))
    scores = {}
    for name in [name for name in ("test", "validation") if name in encoded][:1]:
        metrics = text_scores.text_metrics(data, tokenizer, references=encoded[name]["target"])
        beams = model.generation_config.num_beams
        scored = tasks.predict(trainer, encoded[name], name, metrics, num_beams=beams)
        scores[name] = scored.metrics
        if trainer.is_world_process_zero():
            outputs = encoded[name], scored.predictions, tokenizer, place.folder
            text_scores.write_outputs(*outputs, data.task)
            pictures.draw_texts(trainer, *outputs, data)

    # Card
    tasks.finish(
        trainer,
        place,
        sources=data,
        task=data.task,
        data=tasks.described(data, encoded, "pairs"),
        scores=scores,
        model_settings={"pretrained": start.pretrained, **model_settings},
        facts={"vocabulary": len(tokenizer), **trained},
        languages=filter(None, (data.source_lang, data.target_lang)),
    )


if __name__ == "__main__":
    tasks.run(main, SETTINGS)
