"""The judge's network: a small convolutional one with a linear head for each attribute."""

import torch
from torch import Tensor, nn

from .labels import HEADS


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class JudgeNet(nn.Module):
    """Reads 32x32 pictures; about 0.7 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), _block(12, 64))
        self.fine = _block(64, 64)
        self.halve = _block(64, 128, 2)
        self.middle = _block(128, 128)
        self.coarse = nn.Sequential(_block(128, 160, 2), nn.Conv2d(160, 64, 1, bias=False), nn.BatchNorm2d(64))
        self.heads = nn.Linear(64 * 4 * 4, sum(map(len, HEADS.values())))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Return each head's logits, in the order of `HEADS`.

        Args:
            pictures: (n, 3, 32, 32) from -1 to 1.

        Returns:
            One (n, choices) tensor a head.
        """
        found = self.stem(pictures)
        found = found + self.fine(found)
        found = self.halve(found)
        found = found + self.middle(found)
        logits = self.heads(torch.relu(self.coarse(found)).flatten(1))
        return list(logits.split([len(names) for names in HEADS.values()], 1))
