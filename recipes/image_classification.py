"""Train an image classifier from scratch, score it, and save a model for `pipeline("image-classification")`.

python recipes/image_classification.py recipes/image_classification/quickstart.yaml --output_dir outputs/mine
python recipes/image_classification.py --dataset folder_of_folders --validation_share 0.1 --model.preset small
torchrun --nproc-per-node 8 recipes/image_classification.py recipes/image_classification/imagenet.yaml
"""

import logging
import sys
import time

import numpy as np
from transformers import AutoModelForImageClassification, set_seed

from vanilla_transformer import VanillaTransformerImageProcessor, VanillaTransformerVisionConfig
from vanilla_transformer.tasks.augmentation import Augmentation, Mix, MixArguments
from vanilla_transformer.tasks.image_classification import (
    ImageArguments,
    ImageCollator,
    ImageStream,
    LabelledImages,
    load_splits,
)
from vanilla_transformer.tasks.images import get_model
from vanilla_transformer.tasks.labels import (
    class_report,
    class_weights,
    classification_loss,
    classification_metrics,
    decided,
    write_class_report,
    write_predictions,
)
from vanilla_transformer.tasks.results import publish
from vanilla_transformer.tasks.settings import InputError, parse, prepare_output_dir
from vanilla_transformer.training import VanillaTransformerTrainer, VanillaTransformerTrainingArguments

logger = logging.getLogger("image_classification")


def main():
    began = time.perf_counter()
    model_settings, data, augmentation, args = settings()
    logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    if args.r_drop and (augmentation.mixup or augmentation.cutmix):
        raise InputError("r_drop needs images of one class each: remove r_drop, or mixup and cutmix")
    checkpoint = prepare_output_dir(args)

    # Data
    with args.main_process_first(desc="reading the data"):
        splits = load_splits(data, args.seed)
    names = splits["train"].features["label"].names
    change = Augmentation(augmentation, args.seed)
    if data.streaming:
        shuffled = splits["train"].shuffle(seed=args.seed, buffer_size=args.stream_buffer_size)
        train = ImageStream(shuffled, change)
    else:
        train = LabelledImages(splits["train"], change, data.keep_decoded)
    held_out = {name: LabelledImages(rows) for name, rows in splits.items() if name != "train"}
    mix = Mix(augmentation, args.seed, len(names)) if augmentation.mixup or augmentation.cutmix else None

    # Model
    model = get_model(AutoModelForImageClassification, VanillaTransformerVisionConfig, model_settings, names)
    size = {"height": model.config.image_size, "width": model.config.image_size}
    processor = VanillaTransformerImageProcessor(size=size)

    # Train
    weights = class_weights(np.bincount(train.labels, minlength=len(names))) if data.balance_classes else None
    args.remove_unused_columns = False  # the collator needs the images, which the model never sees
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=held_out.get("validation"),
        data_collator=ImageCollator(processor, mix),
        processing_class=processor,
        compute_loss_func=classification_loss(weights, args.label_smoothing_factor)
        if mix or weights
        else None,
        compute_metrics=classification_metrics(names),
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()

    # Score
    scores = {}
    for name, dataset in held_out.items():
        scored = trainer.predict(dataset, metric_key_prefix=name)
        scores[name] = scored.metrics
        if trainer.is_world_process_zero():  # the files of the last split remain
            write_class_report(class_report(scored.predictions, scored.label_ids, names), args.output_dir)
            write_predictions(decided(scored.label_ids, scored.predictions, names), args.output_dir)

    # Card
    images = "a stream of" if data.streaming else f"{len(train):,}"
    publish(
        trainer,
        task="image-classification",
        data=f"{data.described()}, {images} images of the classes {', '.join(names[:20])}",
        scores=scores,
        model_settings=model_settings,
        began=began,
        facts=trained.metrics,
        shown=("per_device_train_batch_size", "label_smoothing_factor", "weight_decay"),
    )


def settings(argv: list[str] | None = None) -> tuple:
    return parse(
        VanillaTransformerVisionConfig,
        ImageArguments,
        MixArguments,
        VanillaTransformerTrainingArguments,
        argv=argv,
    )


if __name__ == "__main__":
    try:
        main()
    except (FloatingPointError, ImportError, OSError, ValueError) as error:  # InputError among them
        logger.debug("where it happened", exc_info=True)
        sys.exit(f"error: {error}")
