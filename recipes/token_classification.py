"""Train a tagger of named entities, score it, and save a model for `pipeline("token-classification")`.

python recipes/token_classification.py recipes/token_classification/quickstart.yaml --output_dir outputs/mine
python recipes/token_classification.py --train_file a.conll --test_file b.conll --output_dir outputs/mine
torchrun --nproc-per-node 8 recipes/token_classification.py recipes/token_classification/quickstart.yaml
"""

from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

from vanilla_transformer import VanillaTransformerConfig, tasks
from vanilla_transformer.tasks import entities, token_classification
from vanilla_transformer.training import VanillaTransformerTrainer, VanillaTransformerTrainingArguments

SETTINGS = (
    VanillaTransformerConfig,
    token_classification.TokenClassificationArguments,
    tasks.StartArguments,
    VanillaTransformerTrainingArguments,
)


def main(model_settings, data, start, args):
    checkpoint = tasks.prepare_output_dir(args, "ForTokenClassification")

    # Data
    with args.main_process_first(desc="reading the data"):
        splits = token_classification.load_splits(data, tasks.trained_labels(args))
        names = entities.tag_names(next(iter(splits.values())))
        stored = checkpoint or start.pretrained
        tokenizer = tasks.get_tokenizer(data, splits.get("train"), ["text"], args, stored, data.max_length)

    # Model
    sizes = model_settings if start.pretrained else {"decoder_layers": 0, **model_settings}
    classes = {"id2label": dict(enumerate(names)), "label2id": {name: id for id, name in enumerate(names)}}
    model = tasks.get_model(AutoModelForTokenClassification, sizes, tokenizer, start.pretrained, **classes)
    longest = model.config.max_position_embeddings
    with args.main_process_first(desc="encoding the data"):
        encoded = token_classification.encode_splits(splits, tokenizer, data, longest)

    # Train
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=encoded.get("train"),
        eval_dataset=encoded.get("validation"),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        compute_loss_func=token_classification.token_loss(args.label_smoothing_factor, args.r_drop),
        compute_metrics=entities.entity_metrics(names),
    )
    trained = tasks.train(trainer, data, checkpoint)

    # Score
    place = tasks.place_results(args, data, max_length=data.max_length)
    seen = entities.entity_texts(splits["train"]) if args.do_train else None
    scores = {}
    for name in [name for name in ("validation", "test") if name in encoded]:
        compute = entities.entity_metrics(names, encoded[name], seen)
        scored = tasks.predict(trainer, encoded[name], name, compute)
        scores[name] = scored.metrics
        del scores[name][f"{name}_perplexity"]  # of a tag, which nobody reports
        if trainer.is_world_process_zero():  # the files of the last split remain
            entities.report_entities(encoded[name], scored.predictions, scored.label_ids, place.folder)

    # Card
    types = ", ".join(name.removeprefix("B-") for name in names[1::2])
    tasks.finish(
        trainer,
        place,
        sources=data,
        task="token-classification",
        data=tasks.described(data, encoded, f"sentences with entities of the types {types}"),
        scores=scores,
        model_settings={"pretrained": start.pretrained, **model_settings},
        facts={"vocabulary": len(tokenizer), **trained},
    )


if __name__ == "__main__":
    tasks.run(main, SETTINGS)
