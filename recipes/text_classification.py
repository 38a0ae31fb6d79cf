"""Train the Transformer's encoder to classify texts, score it, and leave a model that pipeline() reads.

python recipes/text_classification.py recipes/text_classification/quickstart.yaml --output_dir outputs/mine
python recipes/text_classification.py --train_file mine.csv --validation_share 0.1 --output_dir outputs/mine
torchrun --nproc-per-node 8 recipes/text_classification.py recipes/text_classification/imdb.yaml
"""

import logging
import sys
import time

import numpy as np
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, set_seed

from vanilla_transformer import VanillaTransformerConfig
from vanilla_transformer.tasks.labels import (
    class_report,
    class_weights,
    classification_loss,
    classification_metrics,
    write_class_report,
)
from vanilla_transformer.tasks.results import publish
from vanilla_transformer.tasks.settings import parse, prepare_output_dir
from vanilla_transformer.tasks.text import StartArguments, get_model, get_tokenizer
from vanilla_transformer.tasks.text_classification import (
    TextClassificationArguments,
    encode_splits,
    load_splits,
    report_predictions,
)
from vanilla_transformer.training import VanillaTransformerTrainer, VanillaTransformerTrainingArguments

logger = logging.getLogger("text_classification")


def main():
    began = time.perf_counter()
    model_settings, data, start, args = settings()
    logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    checkpoint = prepare_output_dir(args)

    with args.main_process_first(desc="reading the data"):
        splits = load_splits(data, seed=args.seed)
        names = splits["train"].features["label"].names
        stored = checkpoint or (None if data.tokenizer else start.pretrained)
        tokenizer = get_tokenizer(data, splits["train"], data.text_column, args, stored, data.max_length)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: id for id, name in enumerate(names)}}
    sizes = model_settings if start.pretrained else {"decoder_layers": 0, **model_settings}
    model = get_model(AutoModelForSequenceClassification, sizes, tokenizer, start.pretrained, **labels)
    config = model.config
    if getattr(config, "pooling", None) == "class_token":
        tokenizer.add_bos_token = True
    with args.main_process_first(desc="encoding the data"):
        encoded = encode_splits(splits, tokenizer, data, longest=config.max_position_embeddings)
    logger.info("%s parameters, a vocabulary of %s", f"{model.num_parameters():,}", f"{len(tokenizer):,}")

    counts = np.bincount(encoded["train"]["labels"], minlength=len(names))
    weights = class_weights(counts) if data.balance_classes else None
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("validation"),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_loss_func=classification_loss(weights, args.label_smoothing_factor, args.r_drop),
        compute_metrics=classification_metrics(names),
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()

    scores = {}
    for name in [name for name in ("validation", "test") if name in encoded]:
        scored = trainer.predict(encoded[name], metric_key_prefix=name)
        scores[name] = scored.metrics
        if trainer.is_world_process_zero():  # what is left is of the last one
            write_class_report(class_report(scored.predictions, scored.label_ids, names), args.output_dir)
            report_predictions(encoded[name], scored.predictions, data, names, args.output_dir)
    publish(
        trainer,
        task="text-classification",
        data=f"{data.described()}, {len(encoded['train']):,} texts of the classes {', '.join(names[:20])}",
        scores=scores,
        model_settings={"pretrained": start.pretrained, **model_settings},
        began=began,
        facts={"vocabulary": len(tokenizer), "train_examples": len(encoded["train"]), **trained.metrics},
        shown=("per_device_train_batch_size", "max_source_tokens", "label_smoothing_factor", "weight_decay"),
    )


def settings(argv: list[str] | None = None) -> tuple:
    return parse(
        VanillaTransformerConfig,
        TextClassificationArguments,
        StartArguments,
        VanillaTransformerTrainingArguments,
        argv=argv,
    )


if __name__ == "__main__":
    try:
        main()
    except (FloatingPointError, ImportError, OSError, ValueError) as error:  # InputError among them
        logger.debug("where it happened", exc_info=True)
        sys.exit(f"error: {error}")
