"""Converts images to pixel values and COCO annotations to boxes, and back. Needs only Pillow and NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import center_to_corners_format, corners_to_center_format
from transformers.image_utils import ImageInput, PILImageResampling, SizeDict


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image upright, with three channels of 8 bits, and white where it was transparent."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 or 32 bits per pixel: Pillow clips them at 255
        levels = np.asarray(image)
        levels = levels // 256 if levels.max() > 255 else levels
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


class VanillaTransformerImageProcessor(PilBackend):
    """Resizes, rescales and normalises images. For detection, it also pads them and reads annotations.

    The settings are those of transformers' image processors. `size` is `{"height": …, "width": …}`, or
    `{"shortest_edge": …, "longest_edge": …}` or `{"max_height": …, "max_width": …}`, which keep the aspect
    ratio. `do_pad` pads images on the right and at the bottom, to `pad_size` or the largest size in the
    batch; `pixel_mask` is 1 for pixels of the image and 0 for padding.
    """

    model_input_names = ["pixel_values", "pixel_mask"]
    resample = PILImageResampling.BICUBIC
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_pad = False

    def process_image(
        self, image: ImageInput, do_convert_rgb: bool | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Return one image as an array `(channels, height, width)`."""
        if do_convert_rgb and isinstance(image, Image.Image):
            return np.asarray(to_rgb(image)).transpose(2, 0, 1)
        return super().process_image(image, do_convert_rgb=do_convert_rgb, **kwargs)

    def preprocess(
        self, images: ImageInput, annotations: dict | Sequence[dict] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Return the inputs of a model.

        Args:
            images: one image or several: PIL images, arrays, tensors, file names or URLs.
            annotations: one for each image, in COCO's format: `{"image_id": 7, "annotations": [{"bbox":
                [left, top, width, height], "category_id": 2}, …]}` in pixels of the original image. Boxes are
                clipped to the image. Boxes without area and crowds (`iscrowd`) are skipped.

        Returns:
            `pixel_values` `(batch, channels, height, width)`. With `do_pad`, `pixel_mask` `(batch, height,
            width)`. With annotations, `labels`, a dictionary for each image: `class_labels` `(boxes,)`;
            `boxes` `(boxes, 4)` as (center x, center y, width, height), relative to the image without
            padding; `area` in pixels of the resized image; `iscrowd`; `image_id`; and the sizes `(height,
            width)` before and after resizing, `orig_size` and `size`.

        Raises:
            ValueError: an annotation is not in COCO's format, there is not one for each image, or images of
                different sizes should become one tensor without `do_pad`.
        """
        return super().preprocess(images, annotations, **kwargs)

    def _preprocess(
        self,
        images: Any,  # list of arrays (channels, height, width)
        annotations: dict | Sequence[dict] | None,
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | None,
        do_center_crop: bool | None,
        crop_size: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        do_pad: bool | None,
        pad_size: Any,
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        if isinstance(annotations, dict):
            annotations = [annotations]
        if annotations is not None and len(annotations) != len(images):
            raise ValueError(f"{len(images)} images, but {len(annotations)} annotations: pass one per image")
        if annotations is not None and do_center_crop:
            raise ValueError("do_center_crop=True does not work with annotations: it would cut off boxes")

        original_sizes = [image.shape[-2:] for image in images]
        if do_resize:
            images = [self._resized(image, size, resample) for image in images]
        if do_center_crop:
            images = [self.center_crop(image, crop_size) for image in images]
        resized_sizes = [image.shape[-2:] for image in images]

        # (pixel * rescale_factor - mean) / deviation, as one product and one sum per channel
        factor = np.full((1, 1, 1), rescale_factor if do_rescale else 1, np.float32)
        offset = np.zeros((1, 1, 1), np.float32)
        if do_normalize:
            mean, deviation = (np.reshape(np.float32(one), (-1, 1, 1)) for one in (image_mean, image_std))
            factor, offset = factor / deviation, -mean / deviation
        if do_rescale or do_normalize:
            images = [image * factor + offset for image in images]

        data: dict[str, Any] = {}
        if do_pad:
            images, data["pixel_mask"] = self.pad(images, pad_size=pad_size, return_mask=True)
        elif return_tensors is not None and len(set(resized_sizes)) > 1:
            found = ", ".join(f"{height}x{width}" for height, width in sorted(set(resized_sizes)))
            raise ValueError(
                f"images of {found} cannot be one batch: set do_pad=True, or a size with height and width"
            )
        features = BatchFeature({"pixel_values": images, **data}, tensor_type=return_tensors)
        if annotations is not None:
            features["labels"] = [
                BatchFeature(_as_label(*annotated), tensor_type=return_tensors)
                for annotated in zip(annotations, original_sizes, resized_sizes)
            ]
        return features

    def _resized(self, image: np.ndarray, size: SizeDict, resample: PILImageResampling | None) -> np.ndarray:
        if image.shape[-2:] == (size.height, size.width):
            return image
        return self.resize(image, size, resample)

    def to_dict(self) -> dict:
        """Return the settings, with `auto_map` for the backend "pil".

        Without the backend, a pipeline would also ask whether to trust the code of a video processor.
        """
        settings = super().to_dict()
        code = settings.get("auto_map", {}).get("AutoImageProcessor")
        if isinstance(code, str):
            settings["auto_map"] = {"AutoImageProcessor": {"pil": code}}
        return settings

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
        top_k: int = 100,
    ) -> list[dict[str, torch.Tensor]]:
        """Return the detections of each image, best first: `scores`, `labels` and `boxes`.

        Boxes are (left, top, right, bottom).

        Args:
            outputs: the model's outputs: `logits` `(batch, queries, labels)`, whose sigmoid is the score, and
                `pred_boxes` `(batch, queries, 4)` in the format of `preprocess`.
            threshold: return detections with a higher score.
            target_sizes: `(height, width)` of each image, for boxes in pixels. Without them, boxes are
                relative to the image.
            top_k: the most detections per image. A query can be detected with more than one label.

        Raises:
            ValueError: there is not one target size for each image.
        """
        corners: Any = center_to_corners_format(outputs.pred_boxes)
        boxes = corners.clamp(0, 1)  # (batch, queries, 4)
        if target_sizes is not None:
            if len(target_sizes) != len(boxes):
                raise ValueError(f"{len(boxes)} images, but {len(target_sizes)} target_sizes")
            sizes = torch.as_tensor(target_sizes).to(boxes)
            boxes = boxes * sizes.flip(-1).repeat(1, 2)[:, None]
        scores = outputs.logits.sigmoid().flatten(1)  # (batch, queries * labels)
        scores, best = scores.topk(min(top_k, scores.shape[1]))
        queries, labels = best // outputs.logits.shape[-1], best % outputs.logits.shape[-1]
        return [
            {"scores": score[kept], "labels": label[kept], "boxes": box[query[kept]]}
            for score, label, box, query, kept in zip(scores, labels, boxes, queries, scores > threshold)
        ]


def _as_label(annotation: dict, original: tuple[int, int], resized: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return a COCO annotation as the label of a detection model. Sizes are (height, width)."""
    try:
        image_id = annotation["image_id"]
        objects = [one for one in annotation["annotations"] if not one.get("iscrowd", 0)]
        boxes: Any = np.array([one["bbox"] for one in objects], dtype=np.float32).reshape(-1, 4)
        labels = np.array([one["category_id"] for one in objects], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{type(error).__name__} {error} in the annotation {str(annotation)[:200]}; it must look like "
            '{"image_id": 7, "annotations": [{"bbox": [left, top, width, height], "category_id": 2}, ...]}'
        ) from error
    boxes[:, 2:] += boxes[:, :2]  # left, top, right, bottom
    height, width = original
    whole = np.array([width, height, width, height], dtype=np.float32)
    boxes = boxes.clip(0, whole) / whole
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes = corners_to_center_format(boxes[kept])
    return {
        "image_id": np.array([image_id], dtype=np.int64),
        "class_labels": labels[kept],
        "boxes": boxes,
        "area": boxes[:, 2] * boxes[:, 3] * np.float32(resized[0] * resized[1]),
        "iscrowd": np.zeros(int(kept.sum()), dtype=np.int64),
        "orig_size": np.array(original, dtype=np.int64),
        "size": np.array(resized, dtype=np.int64),
    }


__all__ = ["VanillaTransformerImageProcessor"]
