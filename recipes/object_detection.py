"""Train an object detector from scratch, score it, and save a model for `pipeline("object-detection")`.

python recipes/object_detection.py recipes/object_detection/quickstart.yaml --output_dir outputs/mine --seed 7
python recipes/object_detection.py --train_file boxes.json --train_images photos --output_dir outputs/mine
torchrun --nproc-per-node 8 recipes/object_detection.py recipes/object_detection/coco.yaml
"""

import logging
import sys
import time
from pathlib import Path

from transformers import AutoModelForObjectDetection, set_seed

from vanilla_transformer import VanillaTransformerDetectionConfig
from vanilla_transformer.tasks.augmentation import AugmentationArguments
from vanilla_transformer.tasks.images import get_model
from vanilla_transformer.tasks.object_detection import (
    DetectionArguments,
    DetectionCollator,
    detection_metrics,
    get_image_processor,
    load_splits,
)
from vanilla_transformer.tasks.results import publish
from vanilla_transformer.tasks.settings import InputError, parse, prepare_output_dir
from vanilla_transformer.training import VanillaTransformerTrainer, VanillaTransformerTrainingArguments

logger = logging.getLogger("object_detection")


def main():
    began = time.perf_counter()
    model_settings, data, augmentation, args = settings()
    logging.basicConfig(level=logging.INFO if args.should_log else logging.ERROR, format="%(message)s")
    set_seed(args.seed)
    if args.r_drop:
        raise InputError("r_drop does not apply to object detection: remove it")
    checkpoint = prepare_output_dir(args)

    # Data
    with args.main_process_first(desc="reading the data"):
        splits, names = load_splits(data, augmentation, args.seed)
    validation = splits.get("validation")

    # Model
    model = get_model(AutoModelForObjectDetection, VanillaTransformerDetectionConfig, model_settings, names)
    processor = get_image_processor(data)

    # Train
    args.batch_eval_metrics = True  # images are scored as they come, and not kept
    args.remove_unused_columns = False
    trainer = VanillaTransformerTrainer(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=validation,
        data_collator=DetectionCollator(processor),
        processing_class=processor,
        compute_metrics=detection_metrics(processor, validation.annotations, names) if validation else None,
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()

    # Score
    scores = {}
    for name in [name for name in ("validation", "test") if name in splits]:
        path = Path(args.output_dir, f"detections_{name}.jsonl") if trainer.is_world_process_zero() else None
        trainer.compute_metrics = detection_metrics(processor, splits[name].annotations, names, path)
        scores[name] = trainer.evaluate(splits[name], metric_key_prefix=name)

    # Card
    publish(
        trainer,
        task="object-detection",
        data=f"{data.described()}, {len(splits['train']):,} images with {', '.join(names[:20])}",
        scores=scores,
        model_settings=model_settings,
        began=began,
        facts={"train_examples": len(splits["train"]), **trained.metrics},
        shown=("per_device_train_batch_size", "learning_rate", "weight_decay"),
    )


def settings(argv: list[str] | None = None) -> tuple:
    return parse(
        VanillaTransformerDetectionConfig,
        DetectionArguments,
        AugmentationArguments,
        VanillaTransformerTrainingArguments,
        argv=argv,
    )


if __name__ == "__main__":
    try:
        main()
    except (FloatingPointError, ImportError, OSError, ValueError) as error:  # InputError among them
        logger.debug("where it happened", exc_info=True)
        sys.exit(f"error: {error}")
