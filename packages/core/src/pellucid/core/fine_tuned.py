"""New weights for some of a model's parameters, put in and out of place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What a training leaves.

    Attributes:
        weights: by the parameters' dotted names in the model; in a pipeline they begin with the component ("unet.").
        losses: as the training tells them.
        seconds: that it took.
    """

    weights: "Mapping[str, Tensor]"
    losses: tuple[float, ...]
    seconds: float

    @property
    def touched(self) -> int:
        """How many numbers differ from the model's, or may."""
        return sum(weight.numel() for weight in self.weights.values())

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Use the new weights in a module or pipeline while the block runs; then the old ones are back to the bit."""
        held = {name: attrgetter(name)(model) for name in self.weights}
        old = {name: part.data for name, part in held.items()}
        try:
            for name, weight in self.weights.items():
                held[name].data = weight.to(old[name])
            yield
        finally:
            for name, weight in old.items():
                held[name].data = weight
