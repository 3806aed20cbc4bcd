"""Pictures read from files, with one line for each way in which that fails."""

from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 50_000_000
"""Of a picture; models shrink pictures to well under a million, and larger files are mostly mistakes or bombs."""


def open_image(path: str | Path) -> "Image":
    """Read a picture as RGB, turned upright as its camera says.

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
