"""What image classification and object detection share: opening stored images, and building the model."""

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import PreTrainedModel

from ..configuration_vanilla_transformer import LayersConfig

logger = logging.getLogger(__name__)

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises

StoredImage = Mapping[str, Any] | str | Path | io.BytesIO | None


def open_image(stored: StoredImage) -> Image.Image:
    """Open an image without decoding its pixels yet; `to_rgb` decodes them.

    Args:
        stored: `{"bytes": …, "path": …}`, as `datasets` stores an image, or a file, or its path.

    Raises:
        One of `UNREADABLE`: there is no image, or Pillow cannot read it. Decoding may raise them too.
    """
    if isinstance(stored, Mapping):
        stored = stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])
    if stored is None:
        raise OSError("there is no image")
    return Image.open(stored)


def get_model(
    auto_class: Any, config_class: type[LayersConfig], settings: Mapping[str, Any], names: Sequence[str]
) -> PreTrainedModel:
    """Build a model with random weights.

    Args:
        auto_class: the Auto class of the model's head.
        settings: the `model:` block of a recipe. Its `preset` is `base` by default.
        names: the names of the labels.
    """
    sizes = {"preset": "base", **settings}
    config = config_class.from_preset(
        sizes.pop("preset"),
        **sizes,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    model = auto_class.from_config(config)
    logger.info("%s parameters, %d labels", f"{model.num_parameters():,}", len(names))
    return model
