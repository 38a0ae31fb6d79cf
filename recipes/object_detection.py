"""Train an object detector from scratch, score it, and save a model for `pipeline("object-detection")`.

python recipes/object_detection.py recipes/object_detection/quickstart.yaml --output_dir outputs/mine --seed 7
python recipes/object_detection.py --train_file boxes.json --train_images photos --output_dir outputs/mine
torchrun --nproc-per-node 8 recipes/object_detection.py recipes/object_detection/coco.yaml
"""

from pathlib import Path

from transformers import AutoModelForObjectDetection

from vanilla_transformer import VanillaTransformerDetectionConfig, tasks
from vanilla_transformer.tasks import augmentation, boxes, images, object_detection
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


def main(model_settings, data, changes, args):
    if args.r_drop:
        raise tasks.InputError("r_drop does not apply to object detection: remove it")
    checkpoint = tasks.prepare_output_dir(args)

    # Data
    with args.main_process_first(desc="reading the data"):
        splits, names = object_detection.load_splits(data, changes, args.seed)
    validation = splits.get("validation")

    # Model
    model = images.get_model(
        AutoModelForObjectDetection, VanillaTransformerDetectionConfig, model_settings, names
    )
    processor = object_detection.get_image_processor(data)
    object_detection.warn_crowded(splits, model.config.num_queries)

    # Train
    metrics = None
    if validation is not None:
        metrics = object_detection.detection_metrics(processor, validation.annotations, names)
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=validation,
        data_collator=object_detection.DetectionCollator(processor),
        processing_class=processor,
        compute_metrics=metrics,
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()

    # Score
    scores = {}
    for name in [name for name in ("validation", "test") if name in splits]:
        path = Path(args.output_dir, f"detections_{name}.jsonl") if trainer.is_world_process_zero() else None
        metrics = object_detection.detection_metrics(processor, splits[name].annotations, names, path)
        scores[name] = tasks.predict(trainer, splits[name], name, metrics).metrics

    # Card
    tasks.finish(
        trainer,
        task="object-detection",
        data=f"{data.described()}, {len(splits['train']):,} images with {', '.join(names[:20])}",
        scores=scores,
        model_settings=model_settings,
        facts={"train_examples": len(splits["train"]), **trained.metrics},
    )


if __name__ == "__main__":
    tasks.run(main, SETTINGS, DEFAULTS)
