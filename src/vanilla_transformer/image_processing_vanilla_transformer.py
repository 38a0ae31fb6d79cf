"""Images to arrays of numbers, COCO annotations to boxes, on Pillow and NumPy alone; and boxes back again."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import center_to_corners_format, corners_to_center_format
from transformers.image_utils import ImageInput, PILImageResampling, SizeDict


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as the eye sees it: upright, three channels of 8 bits, transparent parts on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 or 32 bits a pixel, which Pillow would cut at 255
        levels = np.asarray(image)
        levels = levels // 256 if levels.max() > 255 else levels
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


class VanillaTransformerImageProcessor(PilBackend):
    """Resizes, rescales to [0, 1] and normalises images; for detection, pads them and reads annotations.

    The settings are those of transformers' image processors. `size` is `{"height": …, "width": …}`, or
    `{"shortest_edge": …, "longest_edge": …}` or `{"max_height": …, "max_width": …}`, which keep the aspect
    ratio. With `do_pad` a batch of different sizes is padded on the right and at the bottom, to `pad_size` or
    the largest of the batch, and `pixel_mask` is 1 where there is an image.
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

    def process_image(self, image: ImageInput, do_convert_rgb: bool | None = None, **kwargs) -> np.ndarray:
        """One image to `(channels, height, width)`."""
        if do_convert_rgb and isinstance(image, Image.Image):
            return np.asarray(to_rgb(image)).transpose(2, 0, 1)
        return super().process_image(image, do_convert_rgb=do_convert_rgb, **kwargs)

    def preprocess(
        self, images: ImageInput, annotations: dict | Sequence[dict] | None = None, **kwargs
    ) -> BatchFeature:
        """
        Args:
            images: one or many: Pillow's, arrays, tensors, file names or addresses.
            annotations: one for each image, as COCO has them: `{"image_id": 7, "annotations": [{"bbox":
                [left, top, width, height], "category_id": 2}, …]}` in pixels of the image given. Boxes are
                clipped to the image; what has no area then is left out, and so are crowds (`iscrowd`).

        Returns:
            `pixel_values` `(batch, channels, height, width)`; with `do_pad`, `pixel_mask` `(batch, height,
            width)`; with annotations, `labels`, a dictionary for each image: `class_labels` `(boxes,)`,
            `boxes` `(boxes, 4)` as (center x, center y, width, height) in shares of the image without its
            padding, `area` in pixels of the resized image, `iscrowd`, `image_id`, and the sizes `(height,
            width)` before and after resizing, `orig_size` and `size`.
        """
        return super().preprocess(images, annotations, **kwargs)

    def _preprocess(
        self,
        images: list[np.ndarray],
        annotations: dict | Sequence[dict] | None,
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | None,
        do_center_crop: bool | None,
        crop_size: SizeDict | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float],
        image_std: float | Sequence[float],
        do_pad: bool | None,
        pad_size: SizeDict | None,
        return_tensors: str | None,
        **kwargs,
    ) -> BatchFeature:
        if isinstance(annotations, dict):
            annotations = [annotations]
        if annotations is not None and len(annotations) != len(images):
            raise ValueError(f"{len(images)} images, but {len(annotations)} annotations; give one for each")
        if annotations is not None and do_center_crop:
            raise ValueError("do_center_crop would cut boxes off: leave it out where there are annotations")

        original_sizes = [image.shape[-2:] for image in images]
        if do_resize:
            images = [self._resized(image, size, resample) for image in images]
        if do_center_crop:
            images = [self.center_crop(image, crop_size) for image in images]
        resized_sizes = [image.shape[-2:] for image in images]

        # For each channel, pixel * factor + offset rescales, takes off the mean and divides by the deviation.
        factor = np.float32(rescale_factor if do_rescale else 1)
        offset = np.float32(0)
        if do_normalize:
            mean, deviation = (np.reshape(np.float32(one), (-1, 1, 1)) for one in (image_mean, image_std))
            factor, offset = factor / deviation, -mean / deviation
        if do_rescale or do_normalize:
            images = [image * factor + offset for image in images]

        data = {}
        if do_pad:
            images, data["pixel_mask"] = self.pad(images, pad_size=pad_size, return_mask=True)
        elif return_tensors is not None and len(set(resized_sizes)) > 1:
            found = ", ".join(f"{height}x{width}" for height, width in sorted(set(resized_sizes)))
            raise ValueError(
                f"images of {found} cannot be one batch: set do_pad=True, or a size of height and width"
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
        """The code that `auto_map` names is for the backend "pil". Named without its backend, pipelines would
        ask whether a video processor's code of that name may be trusted."""
        settings = super().to_dict()
        code = settings.get("auto_map", {}).get("AutoImageProcessor")
        if isinstance(code, str):
            settings["auto_map"] = {"AutoImageProcessor": {"pil": code}}
        return settings

    def post_process_object_detection(
        self,
        outputs,
        threshold: float = 0.5,
        target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
        top_k: int = 100,
    ) -> list[dict[str, torch.Tensor]]:
        """What was found in each image, the surest first: `scores`, `labels` and `boxes` as (left, top,
        right, bottom).

        Args:
            outputs: with `logits` `(batch, queries, labels)`, of which a sigmoid makes scores, and
                `pred_boxes` `(batch, queries, 4)` as the labels of `preprocess` have them.
            threshold: what is told has a higher score.
            target_sizes: `(height, width)` of each image; without them boxes are in shares of the image.
            top_k: how much is told of an image at most; a query may count with more than one label.
        """
        boxes = center_to_corners_format(outputs.pred_boxes).clamp(0, 1)  # (batch, queries, 4)
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
    """An annotation of COCO as the label of a detection model; sizes are (height, width)."""
    try:
        image_id = annotation["image_id"]
        objects = [one for one in annotation["annotations"] if not one.get("iscrowd", 0)]
        boxes = np.array([one["bbox"] for one in objects], dtype=np.float32).reshape(-1, 4)
        labels = np.array([one["category_id"] for one in objects], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            'an annotation is {"image_id": 7, "annotations": [{"bbox": [left, top, width, height], '
            f'"category_id": 2}}, ...]}}, but {type(error).__name__} {error} in {str(annotation)[:200]}'
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
