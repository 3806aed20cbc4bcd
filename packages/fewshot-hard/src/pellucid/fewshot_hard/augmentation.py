"""Augmentation of prepared images: colour and translation, as P>M>F fine-tunes with (thesis 4.5.3)."""

import torch
from torch import Tensor

SHIFT = 0.125
"""Largest translation, as a share of each side."""


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images with colours and places changed at random, each image by its own draws.

    The changes are those of "differentiable augmentation" (Zhao et al., NeurIPS 2020), which P>M>F (Hu et al., 2022)
    applies to a support set, in this order: brightness (a shift of up to half a unit), saturation (times 0 to 2),
    contrast (times 0.5 to 1.5), and a translation of up to an eighth of each side. What a translation uncovers
    repeats the border. Nothing is mirrored: that would turn letters and digits into other ones.

    Args:
        images: (n, 3, h, w), already normalised, so that a unit is about a standard deviation.
        generator: of all draws, on the CPU, so that every device draws alike.

    Returns:
        (n, 3, h, w), on the images' device; the given tensor is not changed.
    """
    n = len(images)

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(n, 1, 1, 1).uniform_(low, high, generator=generator).to(images)

    images = images + draw(-0.5, 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * draw(0, 2) + grey
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - middle) * draw(0.5, 1.5) + middle
    return translate(images, generator)


def translate(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images (n, 3, h, w), each moved by up to an eighth of each side; see `augment`."""
    n, _, height, width = images.shape
    rows, columns = (_places(n, side, generator).to(images.device) for side in (height, width))
    each = torch.arange(n, device=images.device)
    return images[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _places(n: int, side: int, generator: torch.Generator) -> Tensor:
    """Return (n, side): from where each image takes each row or column."""
    most = int(side * SHIFT + 0.5)
    shifts = torch.randint(-most, most + 1, (n, 1), generator=generator)
    return (torch.arange(side) + shifts).clamp(0, side - 1)
