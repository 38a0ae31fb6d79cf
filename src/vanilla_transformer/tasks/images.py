"""What image classification and object detection share: finding and opening images, building the model."""

import io
import logging
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow.compute as pc
from datasets import Dataset
from datasets import Image as ImageFeature
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image
from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedModel

from ..configuration_vanilla_transformer import LayersConfig
from .settings import InputError
from .sources import Rows, SourceArguments, matching_files
from .text import loading

logger = logging.getLogger(__name__)

# What Pillow raises for damaged images.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError),
    *(struct.error, zlib.error, NotImplementedError, Image.DecompressionBombError),
)

MAX_PIXELS = 120_000_000  # 360 MB as RGB; a small file can hold many more
TRUSTED = "set allow_outside_images to true if you trust it"


@dataclass
class StoredImageArguments(SourceArguments):
    """The column of the images, and which files its names may mean."""

    image_column: str = field(default="image", metadata={"help": "column of the images, or of their names"})
    allow_outside_images: bool = field(
        default=False,
        metadata={"help": "open images that the data name outside their folder (train_file's, by default)"},
    )


class OutsideError(OSError):
    """An image is outside the folder of the data."""


class FileInFolder(NamedTuple):
    """An image file that must be in one of the folders, also after symbolic links are resolved.

    A relative name is relative to a folder; it may have backslashes, as on Windows.
    """

    folders: tuple[Path, ...]
    name: str

    def path(self) -> Path:
        """Return the path of the file.

        Raises:
            OSError: there is no such file. It is an `OutsideError` if it is outside the folders.
        """
        roots = [folder.resolve() for folder in self.folders]
        outside = False
        for name in dict.fromkeys((self.name, self.name.replace("\\", "/"))):
            for root in roots:
                try:
                    path = (root / name).resolve()
                except RuntimeError as error:  # symbolic links that form a circle
                    raise OSError(f"{name}: {error}") from error
                if any(path.is_relative_to(one) for one in roots):
                    if path.is_file():  # opening a named pipe never ends
                        return path
                else:
                    outside = True
        if outside:
            raise OutsideError(f"{self.name} is outside {self.folders[0]}; {TRUSTED}")
        raise OSError(f"{self.name} is not a file in {self.folders[0]}")


StoredImage = Mapping[str, Any] | str | Path | FileInFolder | io.BytesIO | None


def image_folders(data: StoredImageArguments, name: str) -> tuple[Path, ...]:
    """Return the folders that may hold the images of a split: those of its files, or of the data set."""
    if files := getattr(data, f"{name}_file"):
        paths = [path for pattern in files for path in matching_files(name, pattern)]
        return tuple(dict.fromkeys(Path(path).parent for path in paths))
    caches = (HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
    own = [data.dataset] if data.dataset and Path(data.dataset).is_dir() else []
    return tuple(map(Path, (*own, *caches)))


def with_paths(rows: Rows, where: str, data: StoredImageArguments, name: str) -> Rows:
    """Return the rows with stored images, `{bytes, path}`, not decoded, whose paths are absolute.

    The path of a file that does not exist, or that may not be opened, becomes None. Images outside their
    folder are counted.

    Raises:
        InputError: the column does not hold images.
    """
    column, folders = data.image_column, image_folders(data, name)
    kind = rows.features[column]
    if not isinstance(kind, ImageFeature) and not _is_encoded(kind):
        raise InputError(
            f"image_column: {column!r} of {where} holds {kind}, not images. Images are stored as "
            "{bytes, path}, as bytes, or as file names"
        )
    rows = rows.cast_column(column, ImageFeature(decode=False))
    if not isinstance(rows, Dataset):

        def located(row: dict[str, Any]) -> dict[str, Any]:
            return {column: _located(row[column], folders, data.allow_outside_images)[0]}

        return rows.map(located, features=rows.features)
    if not pc.any(pc.is_null(pc.struct_field(rows.data.column(column), "bytes"))).as_py():
        return rows
    images, outside, first = [], 0, ""
    for stored in rows[column]:
        image, why = _located(stored, folders, data.allow_outside_images)
        images.append(image)
        outside += bool(why)
        first = first or why
    if outside:
        logger.warning("%s: skipped %d images outside their folder: %s", where, outside, first)
    return rows.remove_columns(column).add_column(column, images, feature=ImageFeature(decode=False))


def _is_encoded(kind: Any) -> bool:
    """Return whether `datasets` reads a column of this kind as images."""
    if isinstance(kind, dict):
        kinds = {key: getattr(one, "dtype", None) for key, one in kind.items()}
        texts, blobs = ("string", "large_string", "null"), ("binary", "large_binary", "null")
        return kinds.keys() == {"bytes", "path"} and kinds["bytes"] in blobs and kinds["path"] in texts
    return getattr(kind, "dtype", None) in ("binary", "large_binary", "string", "large_string")


def _located(
    stored: dict[str, Any] | None, folders: tuple[Path, ...], anywhere: bool
) -> tuple[dict[str, Any] | None, str]:
    """Return the image with an absolute path or none, and why it may not be opened, if it is outside."""
    if stored is None or stored["bytes"] is not None or stored["path"] is None:
        return stored, ""
    name, why = stored["path"], ""
    try:
        path: str | None = str(FileInFolder(folders, name).path())
    except OutsideError as error:
        path, why = None, str(error)
        if anywhere:
            path, why = str((folders[0] / name).resolve()), ""
    except (OSError, ValueError):  # a name may hold characters that no path holds
        path = None
    return {"bytes": None, "path": path}, why


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
    if isinstance(stored, str | Path) and not Path(stored).is_file():
        raise OSError(f"{stored} is not a file")
    image = Image.open(stored)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than the limit of {MAX_PIXELS:,}")
    return image


def trained_processor(folder: str) -> BaseImageProcessor:
    """Return the image processor that was saved with a model."""
    with loading("output_dir", folder):
        return AutoImageProcessor.from_pretrained(folder)


def get_model(
    auto_class: Any,
    config_class: type[LayersConfig],
    settings: Mapping[str, Any],
    names: Sequence[str],
    trained: str | None = None,
) -> PreTrainedModel:
    """Build a model with random weights, or load the one in the folder `trained`.

    Args:
        auto_class: the Auto class of the model's head.
        settings: the `model:` block of a recipe. Its `preset` is `base` by default.
        names: the names of the labels.
    """
    if trained is not None:
        with loading("output_dir", trained):
            return auto_class.from_pretrained(trained)
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
