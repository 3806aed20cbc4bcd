"""Which part of the picture an image token stands for, so that its numbers can be laid on the picture (fig. 6.5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class PatchGrid:
    """Those image tokens that cover the whole picture once, row by row.

    Attributes:
        first: the first of them, counted among the image tokens.
        rows: of patches.
        columns: of patches.
    """

    first: int
    rows: int
    columns: int

    def lay(self, numbers: "Tensor") -> "Tensor":
        """Numbers of all image tokens, `(..., image tokens)`, as a grid: `(..., rows, columns)`."""
        part = numbers[..., self.first : self.first + self.rows * self.columns]
        return part.reshape(*part.shape[:-1], self.rows, self.columns)


def patch_grid(config: Any, tokens: int, grid: Sequence[int] | None = None) -> PatchGrid:
    """The grid of a picture's tokens.

    Models that also cut a picture into tiles (LLaVA 1.6 and -OneVision; Idefics3, SmolVLM) show it whole first or last:
    that is the part which is taken.

    Args:
        config: of the multimodal model.
        tokens: how many image tokens the prompt holds for this picture.
        grid: for Qwen2-VL-like models the picture's row of `image_grid_thw`.

    Raises:
        DataError: so many tokens lie on no grid that is known.
    """
    vision = getattr(config, "vision_config", None)
    if grid is not None:
        merge = int(getattr(vision, "spatial_merge_size", 1))
        frames, rows, columns = int(grid[0]), int(grid[1]) // merge, int(grid[2]) // merge
        if frames * rows * columns == tokens:
            return PatchGrid(0, rows, columns)
        raise DataError(f"{tokens} image tokens are not the {frames} x {rows} x {columns} of image_grid_thw")
    side = _side(config, vision)
    whole = side * side
    if whole and tokens == whole + 1 and not hasattr(config, "image_grid_pinpoints"):
        return PatchGrid(1, side, side)  # the tower's class token is in front (LLaVA's "full" features)
    if whole and tokens > whole and hasattr(config, "image_grid_pinpoints"):
        return PatchGrid(0, side, side)
    if whole and tokens % whole == 0 and hasattr(config, "scale_factor"):
        return PatchGrid(tokens - whole, side, side)
    side = math.isqrt(tokens)
    if tokens and side * side == tokens:
        return PatchGrid(0, side, side)
    raise DataError(f"{tokens} image tokens lie on no grid that is known: look at them by number instead")


def seen_picture(picture: "Image", image_processor: Any) -> "Image":
    """The part of a picture that the model sees, padding included, in the picture's own pixels.

    Args:
        picture: as it was given.
        image_processor: the processor's part for pictures: what it crops and pads.
    """
    from PIL import Image

    if getattr(image_processor, "do_pad", False) and "Llava" in type(image_processor).__name__:
        side = max(picture.size)
        square = Image.new("RGB", (side, side), (127, 127, 127))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    if not getattr(image_processor, "do_center_crop", False):
        return picture
    size, crop = dict(image_processor.size), dict(image_processor.crop_size)
    if "shortest_edge" in size:
        across = down = size["shortest_edge"] / min(picture.size)
    else:
        across, down = size["width"] / picture.width, size["height"] / picture.height
    width, height = crop["width"] / across, crop["height"] / down
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return picture.crop((round(left), round(top), round(left + width), round(top + height)))


def _side(config: Any, vision: Any) -> int:
    """How many tokens the whole picture has along each side by the tower's sizes; 0 where these are not fixed."""
    image, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(image, int) or not isinstance(patch, int):
        return 0
    return image // patch // int(getattr(config, "scale_factor", 1))
