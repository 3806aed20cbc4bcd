"""Contributions as a CLIP sees them: each part through its own map."""

from dataclasses import dataclass

import numpy as np
from pellucid.core.errors import DataError

from .compalign import Alignment
from .store import Contributions


@dataclass(frozen=True)
class Mapped:
    """Parts and their maps; nothing of (components, pictures, clip width) is ever held at once.

    Attributes:
        found: the parts in the model's space.
        maps: (components, width, clip width); None for a CLIP's own parts, which need no map.
    """

    found: Contributions
    maps: np.ndarray | None = None

    @property
    def width(self) -> int:
        """Of the CLIP's space."""
        return int((self.found.parts if self.maps is None else self.maps).shape[2])

    def part(self, place: int) -> np.ndarray:
        """f_i(c_i): (pictures, clip width) float64."""
        part = self.found.parts[place].astype(np.float64)
        return part if self.maps is None else np.asarray(part @ self.maps[place].astype(np.float64))

    def total(self, places: np.ndarray | range | None = None) -> np.ndarray:
        """The sum of some mapped parts, or of all: (pictures, clip width) float64."""
        chosen = range(len(self.found.components)) if places is None else places
        whole = np.zeros((self.found.parts.shape[1], self.width))
        for place in chosen:
            whole += self.part(int(place))
        return whole


def through(found: Contributions, alignment: Alignment | None) -> Mapped:
    """Join contributions and maps; no alignment for a CLIP's own contributions.

    Raises:
        DataError: the alignment was made for other weights or another number of layers.
    """
    if alignment is None:
        return Mapped(found)
    names = tuple(one.name for one in found.components)
    if alignment.model != found.revision or alignment.components != names:
        raise DataError("the alignment was made for another model, or for other layers: make it for this one")
    return Mapped(found, alignment.maps.numpy())
