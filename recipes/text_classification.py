"""Train a text classifier from scratch, score it, and save a model for `pipeline("text-classification")`.

python recipes/text_classification.py recipes/text_classification/quickstart.yaml --output_dir outputs/mine
python recipes/text_classification.py --train_file mine.csv --validation_share 0.1 --output_dir outputs/mine
torchrun --nproc-per-node 8 recipes/text_classification.py recipes/text_classification/imdb.yaml
"""

import numpy as np
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from vanilla_transformer import VanillaTransformerConfig, tasks
from vanilla_transformer.tasks import labels, pictures, text_classification
from vanilla_transformer.training import VanillaTransformerTrainer, VanillaTransformerTrainingArguments

SETTINGS = (
    VanillaTransformerConfig,
    text_classification.TextClassificationArguments,
    tasks.StartArguments,
    VanillaTransformerTrainingArguments,
)


def main(model_settings, data, start, args):
    checkpoint = tasks.prepare_output_dir(args, "ForSequenceClassification")

    # Data
    with args.main_process_first(desc="reading the data"):
        splits = text_classification.load_splits(data, args.seed, tasks.trained_labels(args))
        names = next(iter(splits.values())).features["label"].names
        stored, columns = checkpoint or start.pretrained, data.text_column
        tokenizer = tasks.get_tokenizer(data, splits.get("train"), columns, args, stored, data.max_length)

    # Model
    sizes = model_settings if start.pretrained else {"decoder_layers": 0, **model_settings}
    classes = {"id2label": dict(enumerate(names)), "label2id": {name: id for id, name in enumerate(names)}}
    model = tasks.get_model(AutoModelForSequenceClassification, sizes, tokenizer, start.pretrained, **classes)
    if getattr(model.config, "pooling", None) == "class_token":
        tokenizer.add_bos_token = True
    longest = model.config.max_position_embeddings
    with args.main_process_first(desc="encoding the data"):
        encoded = text_classification.encode_splits(splits, tokenizer, data, longest)

    # Train
    weights = None
    if data.balance_classes and args.do_train:
        weights = labels.class_weights(np.bincount(encoded["train"]["labels"], minlength=len(names)))
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=encoded.get("train"),
        eval_dataset=encoded.get("validation"),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_loss_func=labels.classification_loss(weights, args.label_smoothing_factor, args.r_drop),
        compute_metrics=labels.classification_metrics(names),
    )
    trained = tasks.train(trainer, data, checkpoint)

    # Score
    place = tasks.place_results(args, data, max_length=data.max_length)
    scores = {}
    for name in [name for name in ("validation", "test") if name in encoded]:
        scored = tasks.predict(trainer, encoded[name], name)
        scores[name] = scored.metrics
        if trainer.is_world_process_zero():  # the files of the last split remain
            report = labels.class_report(scored.predictions, scored.label_ids, names)
            labels.write_class_report(report, place.folder)
            pictures.draw_classes(report, scored.predictions, scored.label_ids, place.folder)
            text_classification.report_predictions(
                encoded[name], scored.predictions, data, names, place.folder
            )

    # Card
    tasks.finish(
        trainer,
        place,
        sources=data,
        task="text-classification",
        data=tasks.described(data, encoded, f"texts of the classes {', '.join(names[:20])}"),
        scores=scores,
        model_settings={"pretrained": start.pretrained, **model_settings},
        facts={"vocabulary": len(tokenizer), **trained},
    )


if __name__ == "__main__":
    tasks.run(main, SETTINGS)
