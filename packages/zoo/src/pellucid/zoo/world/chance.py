"""Seeded chance in whole numbers only, so that every machine and every version of every library agrees.

The generator is SplitMix64 (Steele, Lea and Flood, 2014).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def mixed(number: int) -> int:
    """SplitMix64's output for a state: 64 bits that look random."""
    number = ((number ^ (number >> 30)) * _FIRST) & _MASK
    number = ((number ^ (number >> 27)) * _SECOND) & _MASK
    return number ^ (number >> 31)


class Chance:
    """A stream of whole numbers that its seed and its purpose fix.

    Args:
        seed: any whole number.
        purpose: a word; streams of one seed and several purposes are independent.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        state = mixed(seed & _MASK)
        for letter in purpose.encode():
            state = mixed((state + letter + _GOLDEN) & _MASK)
        self._state = state

    def bits(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + _GOLDEN) & _MASK
        return mixed(self._state)

    def below(self, limit: int) -> int:
        """A whole number from 0 up to, not including, `limit`."""
        return (self.bits() * limit) >> 64

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def one_in(self, limit: int) -> bool:
        """True once in `limit` times."""
        return self.below(limit) == 0

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of the choices, all equally likely."""
        return choices[self.below(len(choices))]

    def shuffled(self, items: Sequence[Any]) -> list[Any]:
        """The items in a new order (Fisher and Yates)."""
        found = list(items)
        for last in range(len(found) - 1, 0, -1):
            other = self.below(last + 1)
            found[last], found[other] = found[other], found[last]
        return found


def noise(seed: int, *shape: int) -> np.ndarray:
    """White noise of whole numbers from 0 to 255.

    Args:
        seed: any whole number.
        shape: of the result.

    Returns:
        An int32 array of that shape.
    """
    state = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(mixed(seed & _MASK))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    return (state >> np.uint64(56)).astype(np.int32).reshape(shape)


def smooth_noise(seed: int, side: int, cell: int, layers: int = 1) -> np.ndarray:
    """Noise without edges: random values on a grid, joined by straight lines.

    Args:
        seed: any whole number.
        side: of the square result.
        cell: how far apart the grid's points are, in pixels.
        layers: how many independent ones.

    Returns:
        An int32 array (side, side, layers) from 0 to 255.
    """
    points = side // cell + 2
    grid = noise(seed, points, points, layers)
    place = np.arange(side)
    cut, rest = place // cell, place % cell
    rows = grid[cut] * (cell - rest)[:, None, None] + grid[cut + 1] * rest[:, None, None]
    found = rows[:, cut] * (cell - rest)[None, :, None] + rows[:, cut + 1] * rest[None, :, None]
    return found // (cell * cell)
