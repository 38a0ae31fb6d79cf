"""What image classification and object detection share: opening stored images, and building the model."""

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from transformers import PreTrainedModel

from ..configuration_vanilla_transformer import LayersConfig

logger = logging.getLogger(__name__)

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises

MAX_PIXELS = 120_000_000  # 360 MB as RGB; a small file can hold many more


class FileInFolder(NamedTuple):
    """An image file that must be in a folder, also after symbolic links are resolved."""

    folder: Path
    name: str

    def path(self) -> Path:
        """Return the path of the file.

        Raises:
            OSError: it is outside the folder.
        """
        path = (self.folder / self.name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise OSError(
                f"{self.name} is outside {self.folder}; set allow_outside_images to true if you trust it"
            )
        return path


StoredImage = Mapping[str, Any] | str | Path | FileInFolder | io.BytesIO | None


def open_image(stored: StoredImage) -> Image.Image:
    """Open an image without decoding its pixels yet; `to_rgb` decodes them.

    Args:
        stored: `{"bytes": …, "path": …}`, as `datasets` stores an image, or a file, or its path.

    Raises:
        One of `UNREADABLE`: there is no image, Pillow cannot read it, or it has more than `MAX_PIXELS`.
            Decoding may raise them too.
    """
    if isinstance(stored, Mapping):
        stored = stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])
    if isinstance(stored, FileInFolder):
        stored = stored.path()
    if stored is None:
        raise OSError("there is no image")
    if isinstance(stored, str | Path) and not Path(stored).is_file():  # opening a named pipe never ends
        raise OSError(f"{stored} is not a file")
    image = Image.open(stored)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than the limit of {MAX_PIXELS:,}")
    return image


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
