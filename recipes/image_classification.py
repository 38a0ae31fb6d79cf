"""Train an image classifier from scratch, score it, and save a model for `pipeline("image-classification")`.

python recipes/image_classification.py recipes/image_classification/quickstart.yaml --output_dir outputs/mine
python recipes/image_classification.py --dataset folder_of_folders --validation_share 0.1 --model.preset small
torchrun --nproc-per-node 8 recipes/image_classification.py recipes/image_classification/imagenet.yaml
"""

import numpy as np
from transformers import AutoModelForImageClassification

from vanilla_transformer import VanillaTransformerImageProcessor, VanillaTransformerVisionConfig, tasks
from vanilla_transformer.tasks import augmentation, image_classification, images, labels, pictures
from vanilla_transformer.training import VanillaTransformerTrainer, VanillaTransformerTrainingArguments

SETTINGS = (
    VanillaTransformerVisionConfig,
    image_classification.ImageArguments,
    augmentation.MixArguments,
    VanillaTransformerTrainingArguments,
)
DEFAULTS = {"remove_unused_columns": False}  # the collator needs the images, which the model never sees


def main(model_settings, data, changes, args):
    if args.r_drop and (changes.mixup or changes.cutmix):
        raise tasks.InputError("r_drop needs images of one class each: remove r_drop, or mixup and cutmix")
    checkpoint = tasks.prepare_output_dir(args, "ForImageClassification")

    # Data
    with args.main_process_first(desc="reading the data"):
        splits = image_classification.load_splits(data, args.seed, tasks.trained_labels(args))
    names = next(iter(splits.values())).features["label"].names
    change = augmentation.Augmentation(changes, args.seed)
    train = None
    if data.streaming and args.do_train:
        shuffled = splits["train"].shuffle(seed=args.seed, buffer_size=args.stream_buffer_size)
        train = image_classification.ImageStream(shuffled, change)
    elif args.do_train:
        train = image_classification.LabelledImages(splits["train"], change, data.keep_decoded)
    held_out = {
        name: image_classification.LabelledImages(rows) for name, rows in splits.items() if name != "train"
    }

    # Model
    trained = None if args.do_train else args.output_dir
    model = images.get_model(
        AutoModelForImageClassification, VanillaTransformerVisionConfig, model_settings, names, trained
    )
    size = {"height": model.config.image_size, "width": model.config.image_size}
    processor = images.trained_processor(trained) if trained else VanillaTransformerImageProcessor(size=size)

    # Train
    mix = augmentation.Mix(changes, args.seed, len(names)) if changes.mixup or changes.cutmix else None
    weights = None
    if data.balance_classes and args.do_train:
        weights = labels.class_weights(np.bincount(train.labels, minlength=len(names)))
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=held_out.get("validation"),
        data_collator=image_classification.ImageCollator(processor, mix),
        processing_class=processor,
        compute_loss_func=labels.classification_loss(weights, args.label_smoothing_factor, args.r_drop),
        compute_metrics=labels.classification_metrics(names),
    )
    metrics_of_training = tasks.train(trainer, data, checkpoint)

    # Score
    place = tasks.place_results(args, data)
    scores = {}
    for name, dataset in held_out.items():
        scored = tasks.predict(trainer, dataset, name)
        scores[name] = scored.metrics
        if trainer.is_world_process_zero():  # the files of the last split remain
            report = labels.class_report(scored.predictions, scored.label_ids, names)
            labels.write_class_report(report, place.folder)
            pictures.draw_classes(report, scored.predictions, scored.label_ids, place.folder)
            pictures.draw_image_attention(trainer, dataset, place.folder)
            predicted = labels.predicted_labels(scored.label_ids, scored.predictions, names)
            labels.write_predictions(predicted, place.folder)

    # Card
    tasks.finish(
        trainer,
        place,
        sources=data,
        task="image-classification",
        data=tasks.described(data, {"train": train}, f"images of the classes {', '.join(names[:20])}"),
        scores=scores,
        model_settings=model_settings,
        facts=metrics_of_training,
    )


if __name__ == "__main__":
    tasks.run(main, SETTINGS, DEFAULTS)
