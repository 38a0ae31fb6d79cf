"""Train an object detector from scratch, score it, and save a model for `pipeline("object-detection")`.

python recipes/object_detection.py recipes/object_detection/quickstart.yaml --output_dir outputs/mine --seed 7
python recipes/object_detection.py --train_file boxes.json --train_images photos --output_dir outputs/mine
torchrun --nproc-per-node 8 recipes/object_detection.py recipes/object_detection/coco.yaml
"""

from pathlib import Path

from transformers import AutoModelForObjectDetection

from vanilla_transformer import VanillaTransformerDetectionConfig, tasks
from vanilla_transformer.tasks import augmentation, boxes, images, object_detection, pictures
from vanilla_transformer.training import VanillaTransformerTrainer, VanillaTransformerTrainingArguments

SETTINGS = (
    VanillaTransformerDetectionConfig,
    boxes.DetectionArguments,
    augmentation.AugmentationArguments,
    VanillaTransformerTrainingArguments,
)
DEFAULTS = {
    "batch_eval_metrics": True,  # each batch is scored at once, and its boxes are not kept
    "label_names": ["image_ids"],  # what the metric gets beside the predictions
    "remove_unused_columns": False,  # the collator needs the annotations
}
UNUSED = ("r_drop", "label_smoothing_factor", "streaming")


def main(model_settings, data, changes, args):
    checkpoint = tasks.prepare_output_dir(args, "ForObjectDetection")

    # Data
    with args.main_process_first(desc="reading the data"):
        splits, names = object_detection.load_splits(data, changes, args.seed, tasks.trained_labels(args))
    validation = splits.get("validation")

    # Model
    trained = None if args.do_train else args.output_dir
    model = images.get_model(
        AutoModelForObjectDetection, VanillaTransformerDetectionConfig, model_settings, names, trained
    )
    processor = images.trained_processor(trained) if trained else object_detection.get_image_processor(data)
    object_detection.warn_crowded(splits, model.config.num_queries)

    # Train
    metrics = None
    if validation is not None:
        metrics = object_detection.detection_metrics(processor, validation.annotations, names)
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=splits.get("train"),
        eval_dataset=validation,
        data_collator=object_detection.DetectionCollator(processor),
        processing_class=processor,
        compute_metrics=metrics,
    )
    metrics_of_training = tasks.train(trainer, data, checkpoint)

    # Score
    place = tasks.place_results(args, data)
    scores = {}
    for name in [name for name in ("validation", "test") if name in splits]:
        path = Path(place.folder, f"detections_{name}.jsonl") if trainer.is_world_process_zero() else None
        metrics = object_detection.detection_metrics(processor, splits[name].annotations, names, path)
        scores[name] = tasks.predict(trainer, splits[name], name, metrics).metrics
        if trainer.is_world_process_zero():  # the pictures of the last split remain
            pictures.draw_detections(trainer, splits[name], place.folder)

    # Card
    tasks.finish(
        trainer,
        place,
        sources=data,
        task="object-detection",
        data=tasks.described(data, splits, f"images with {', '.join(names[:20])}"),
        scores=scores,
        model_settings=model_settings,
        facts=metrics_of_training,
    )


if __name__ == "__main__":
    tasks.run(main, SETTINGS, DEFAULTS, UNUSED)
