"""Pictures read from files, with one line for each way in which that fails."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
"""Of the files that are taken for pictures where a folder is listed."""

MOST_PIXELS = 50_000_000
"""Of a picture; models shrink pictures to well under a million, and larger files are mostly mistakes or bombs."""


@dataclass(frozen=True)
class PictureFile:
    """A picture's file as part of a sweep's cell: known by its content, so that rows outlive its being moved.

    Attributes:
        content: SHA-256 of the file; empty where there is none.
        path: where it lies.
    """

    content: str = ""
    path: str = field(default="", compare=False)


def picture_file(path: str | Path) -> PictureFile:
    """Hash a picture's file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return PictureFile(hashlib.sha256(Path(path).read_bytes()).hexdigest(), str(path))
    except OSError as error:
        raise DataError(f"the picture {path} cannot be read ({type(error).__name__}): give its path") from error


def open_picture(path: str | Path) -> "Image":
    """Read a picture whole, as red, green and blue, turned upright as its camera says.

    Raises:
        DataError: it cannot be read, or has more than `MOST_PIXELS`, which is told from its header.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise DataError(
                    f"the picture {path} has {width} x {height} pixels, more than {MOST_PIXELS:,}: make it smaller"
                )
            upright = ImageOps.exif_transpose(picture)
            return (upright or picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"the picture {path} cannot be read ({line}): give a PNG or JPEG file") from error
