"""Where in a picture a head finds what a text says: its tokens' contributions along the text (thesis figure 7.5)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pellucid.core.errors import OptionError
from torch import Tensor, nn

from .decompose import rep_decompose


def heat_maps(
    model: nn.Module,
    images: Tensor,
    heads: Sequence[str],
    maps: Sequence[np.ndarray | None],
    direction: np.ndarray,
    last_layers: int | None = None,
) -> np.ndarray:
    """How much each place of a picture adds to a text through some heads.

    Args:
        model: a vision transformer.
        images: (batch, channels, height, width), preprocessed.
        heads: their names, as `components_of` gives them.
        maps: each one's map into CLIP's space (width, clip width); None for a CLIP's own.
        direction: (clip width,), the text's embedding.
        last_layers: as in `rep_decompose`.

    Returns:
        (heads, batch, height, width) float64: each token's part along the text, spread over the picture (bilinear).
        Class tokens, registers and what a bias adds to them are left out.

    Raises:
        OptionError: a name is no head, or its tokens do not form a grid over the picture.
    """
    found = rep_decompose(model, images, last_layers=last_layers, tokens=list(heads))
    size = (int(images.shape[2]), int(images.shape[3]))
    drawn = []
    for head, one in zip(heads, maps, strict=True):
        tokens = found.tokens[head].double().cpu().numpy()
        along = tokens @ (direction if one is None else one.astype(np.float64) @ direction)
        drawn.append(spread(along, size, head))
    return np.stack(drawn)


def spread(values: np.ndarray, size: tuple[int, int], name: str = "the head") -> np.ndarray:
    """Values of tokens (tokens, batch) as pictures (batch, height, width).

    Raises:
        OptionError: the tokens form no grid of the picture's proportions.
    """
    height, width = grid_of(len(values), size, name)
    grid = torch.from_numpy(values[len(values) - height * width :].T.reshape(-1, 1, height, width).copy())
    found: Any = nn.functional.interpolate(grid, size, mode="bilinear", align_corners=False)
    return np.asarray(found[:, 0].numpy())


def grid_of(tokens: int, size: tuple[int, int], name: str = "the head") -> tuple[int, int]:
    """Rows and columns of a head's tokens; what comes before them (class token, registers) is not of the grid."""
    for extra in range(min(tokens, 17)):  # so many class tokens and registers at most
        for rows in range(1, tokens - extra + 1):
            columns, rest = divmod(tokens - extra, rows)
            if not rest and rows * size[1] == columns * size[0]:
                return rows, columns
    raise OptionError(f"{name} reads {tokens} tokens, which are no grid over {size[0]}x{size[1]} pixels")
