"""Train a text classifier from scratch, score it, and save a model for `pipeline("text-classification")`.

python recipes/text_classification.py recipes/text_classification/quickstart.yaml --output_dir outputs/mine
python recipes/text_classification.py --train_file mine.csv --validation_share 0.1 --output_dir outputs/mine
torchrun --nproc-per-node 8 recipes/text_classification.py recipes/text_classification/imdb.yaml
"""

import numpy as np
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from vanilla_transformer import VanillaTransformerConfig, tasks
from vanilla_transformer.tasks import labels, text_classification
from vanilla_transformer.training import VanillaTransformerTrainer, VanillaTransformerTrainingArguments

SETTINGS = (
    VanillaTransformerConfig,
    text_classification.TextClassificationArguments,
    tasks.StartArguments,
    VanillaTransformerTrainingArguments,
)


def main(model_settings, data, start, args):
    checkpoint = tasks.prepare_output_dir(args)

    # Data
    with args.main_process_first(desc="reading the data"):
        splits = text_classification.load_splits(data, seed=args.seed)
        names = splits["train"].features["label"].names
        stored, columns = checkpoint or start.pretrained, data.text_column
        tokenizer = tasks.get_tokenizer(data, splits["train"], columns, args, stored, data.max_length)

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
    counts = np.bincount(encoded["train"]["labels"], minlength=len(names))
    weights = labels.class_weights(counts) if data.balance_classes else None
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("validation"),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_loss_func=labels.classification_loss(weights, args.label_smoothing_factor, args.r_drop),
        compute_metrics=labels.classification_metrics(names),
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()

    # Score
    scores = {}
    for name in [name for name in ("validation", "test") if name in encoded]:
        scored = tasks.predict(trainer, encoded[name], name)
        scores[name] = scored.metrics
        if trainer.is_world_process_zero():  # the files of the last split remain
            report = labels.class_report(scored.predictions, scored.label_ids, names)
            labels.write_class_report(report, args.output_dir)
            text_classification.report_predictions(
                encoded[name], scored.predictions, data, names, args.output_dir
            )

    # Card
    tasks.finish(
        trainer,
        task="text-classification",
        data=f"{data.described()}, {len(encoded['train']):,} texts of the classes {', '.join(names[:20])}",
        scores=scores,
        model_settings={"pretrained": start.pretrained, **model_settings},
        facts={"vocabulary": len(tokenizer), "train_examples": len(encoded["train"]), **trained.metrics},
    )


if __name__ == "__main__":
    tasks.run(main, SETTINGS)
