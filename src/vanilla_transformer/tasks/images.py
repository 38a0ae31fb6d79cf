"""What image classification and object detection share: the one function that opens a stored image."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises

StoredImage = Mapping[str, Any] | str | Path | io.BytesIO | None


def open_image(stored: StoredImage) -> Image.Image:
    """Opens an image without decoding its pixels yet; `to_rgb` decodes them.

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
