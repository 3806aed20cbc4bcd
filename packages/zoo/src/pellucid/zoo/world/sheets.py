"""Contact sheets: many small pictures on one large one."""

from pathlib import Path

import numpy as np


def contact_sheet(pictures: np.ndarray, columns: int, scale: int = 4, gap: int = 2) -> np.ndarray:
    """Lay pictures out in rows, enlarged without smoothing.

    Args:
        pictures: (n, h, w, 3) uint8.
        columns: how many stand in a row.
        scale: how many pixels a side each pixel becomes.
        gap: white pixels around each picture, before enlarging.

    Returns:
        A uint8 array (rows, columns, 3); places without a picture are white.
    """
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = place // columns * (height + gap) + gap, place % columns * (width + gap) + gap
        sheet[top : top + height, left : left + width] = picture
    return sheet.repeat(scale, 0).repeat(scale, 1)


def save_sheet(pictures: np.ndarray, path: Path, columns: int, scale: int = 4) -> None:
    """Write a contact sheet as an image file; see `contact_sheet`."""
    from PIL import Image

    Image.fromarray(contact_sheet(pictures, columns, scale)).save(path)
