"""Converts images to pixel values and COCO annotations to boxes, and back. Needs only Pillow and NumPy."""

import base64
import functools
import os
import sys
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import httpx
from PIL import Image, ImageOps
from transformers import image_utils
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import center_to_corners_format, corners_to_center_format
from transformers.image_utils import ImageInput, PILImageResampling, SizeDict

ORIENTATION = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
HOLDS_ORIENTATION = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type xmp")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image upright, with three channels of 8 bits, and white where it was transparent.

    Takes every mode of Pillow. Levels of more than 8 bits are scaled to 255. EXIF that cannot be read is
    ignored. Of an animation it returns the current frame. Training, the processor and pipelines use it.
    """
    try:
        image.load()  # Pillow turns a TIFF while it decodes, and removes the orientation
    except TypeError:  # a TIFF's tags cannot be written back; its pixels are decoded
        image.load()
    turn = TURNS.get(orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits per pixel: Pillow clips them at 255
        image = _to_8_bits(image)
    if image.mode == "La":  # Pillow converts it to LA alone
        image = image.convert("LA")
    if image.has_transparency_data:
        try:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        except (ValueError, TypeError):  # the transparent color is not one of this mode
            image = image.copy()
            del image.info["transparency"]
    image = image.convert("RGB")
    for key in HOLDS_ORIENTATION:  # a second call turns nothing
        image.info.pop(key, None)
    return image


def orientation(image: Image.Image) -> int:
    """Return the orientation that EXIF states, 1 to 8; 1 (upright) if there is none or it cannot be read."""
    try:
        stated = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF raises errors of many classes, and the pixels do not need it
        return 1
    return stated if stated in TURNS else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of the upright image, without decoding its pixels."""
    if orientation(image) > 4 and image.format != "TIFF":  # Pillow's size of a TIFF is the upright one
        return image.height, image.width
    return image.size


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale levels of 16 or 32 bits, or of real numbers, to 0 to 255. Levels up to 255 stay as they are."""
    levels = np.asarray(image)
    real = levels.dtype.kind == "f"
    if real:
        levels = np.nan_to_num(levels.astype(np.float64))
    highest = levels.max(initial=0)
    if highest > 65535:
        levels = levels / (highest / 255)
    elif highest > 255:
        levels = levels // 256
    elif real and highest <= 1:
        levels = levels * 255
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def open_as_rgb(source: str, timeout: float | None = None) -> Image.Image:
    """Return the image of a file, of a URL, or of text in base64, as `to_rgb` does."""
    return to_rgb(_open(source, timeout))


def _open(source: str, timeout: float | None = None) -> Image.Image:
    if source.startswith(("http://", "https://")):
        answer = httpx.get(source, timeout=timeout, follow_redirects=True)
        return Image.open(BytesIO(answer.content))
    if os.path.isfile(source):  # False, not an error, for a text that is too long for a name
        return Image.open(source)
    try:
        code = source.partition(",")[2] if source.startswith("data:image/") else source
        return Image.open(BytesIO(base64.decodebytes(code.encode())))
    except Exception as error:
        raise ValueError(f"{source[:200]!r} is no image file, no URL, and no image in base64") from error


def _remember_originals() -> None:
    """Make the images that transformers' `load_image` returns refer to their originals.

    transformers' pipelines convert an image before its processor sees it: transparent parts turn black, and
    16 bits are clipped. The pixels that `load_image` returns, and so those of other models, do not change.
    """
    stock = image_utils.load_image
    if hasattr(stock, "remembers"):  # a copy of this file, beside weights, did it
        return

    @functools.wraps(stock)
    def load_image(image: Any, timeout: float | None = None) -> Image.Image:
        original = _open(image, timeout) if isinstance(image, str) else image
        if not isinstance(original, Image.Image):
            return stock(image, timeout)
        try:
            loaded = stock(original)
        except Exception:  # of damaged EXIF, which `to_rgb` ignores
            loaded = to_rgb(original)
        loaded.original = original  # type: ignore[attr-defined]
        return loaded

    load_image.remembers = True  # type: ignore[attr-defined]
    image_utils.load_image = load_image
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and vars(module).get("load_image") is stock:
            module.load_image = load_image  # type: ignore[attr-defined]


def _original(image: Image.Image) -> Image.Image:
    """Return what `load_image` made `image` from, or `image` if it was changed since, or came another way."""
    original = getattr(image, "original", None)
    if original is None:
        return image
    try:
        converted = ImageOps.exif_transpose(original).convert("RGB")
    except Exception:  # of damaged EXIF: `image` is `to_rgb` of it
        return image
    return original if converted.tobytes() == image.tobytes() else image


class VanillaTransformerImageProcessor(PilBackend):
    """Resizes, rescales and normalises images. For detection, it also pads them and reads annotations.

    The settings are those of transformers' image processors. `size` is `{"height": …, "width": …}`, or
    `{"shortest_edge": …, "longest_edge": …}` or `{"max_height": …, "max_width": …}`, which keep the aspect
    ratio. `do_pad` pads images on the right and at the bottom, to `pad_size` or the largest size in the
    batch; `pixel_mask` is 1 for pixels of the image and 0 for padding.

    Example:
        >>> processor = VanillaTransformerImageProcessor(size={"height": 32, "width": 32})
        >>> processor([image], return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 32, 32])
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

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open file names and URLs as `to_rgb` does, also in lists. Return other images as they are."""
        if isinstance(image_url_or_urls, str):
            return open_as_rgb(image_url_or_urls)
        return super().fetch_images(image_url_or_urls)

    def process_image(
        self, image: ImageInput, do_convert_rgb: bool | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Return one image as an array `(channels, height, width)`."""
        if do_convert_rgb and isinstance(image, Image.Image):
            return np.asarray(to_rgb(_original(image))).transpose(2, 0, 1)
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
        top_k: int | None = None,
    ) -> list[dict[str, torch.Tensor]]:
        """Return the detections of each image, best first: `scores`, `labels` and `boxes`.

        Boxes are (left, top, right, bottom).

        Args:
            outputs: the model's outputs: `logits` `(batch, queries, labels)`, whose sigmoid is the score, and
                `pred_boxes` `(batch, queries, 4)` in the format of `preprocess`.
            threshold: return detections with a higher score.
            target_sizes: `(height, width)` of each image, for boxes in pixels. Without them, boxes are
                relative to the image.
            top_k: the most detections per image; 100, or the number of queries if it is higher, if not given.
                A query can be detected with more than one label.

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
        most = max(100, outputs.logits.shape[1]) if top_k is None else top_k
        scores, best = scores.topk(min(most, scores.shape[1]))
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


_remember_originals()

__all__ = ["VanillaTransformerImageProcessor"]
