"""Brings many vectors to the representation's space at once: those that wait for the same maps go together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .components import Component
from .terms import Map, Term

_Key = tuple[int, tuple[int, ...], tuple[int, ...]]


class Waiting:
    """Vectors of components, each before a chain of maps.

    Chains of neighbouring components end alike, since they go the same way to the representation. So the longest chain
    goes first, and from where two chains are the same their vectors are one stack; a component's own are summed there.
    """

    def __init__(self) -> None:
        self._groups: dict[_Key, tuple[tuple[Map, ...], dict[Component, Tensor]]] = {}

    def add(self, component: Component, terms: Sequence[Term], vectors: Sequence[Tensor]) -> None:
        """Put down a vector (heads or 1, samples, *channel sizes) for each term."""
        for term, vector in zip(terms, vectors, strict=True):
            self._put(component, term.maps, vector)

    def mapped(self) -> dict[Component, Tensor]:
        """All of them at the representation's width: (heads or 1, samples, width)."""
        while longest := max((key for key in self._groups if key[0]), default=None, key=lambda key: key[0]):
            maps, vectors = self._groups.pop(longest)
            moved = maps[0](torch.cat(list(vectors.values())))
            for component, one in zip(vectors, moved.split([len(own) for own in vectors.values()]), strict=True):
                self._put(component, maps[1:], one)
        return {component: one for _, vectors in self._groups.values() for component, one in vectors.items()}

    def _put(self, component: Component, maps: tuple[Map, ...], vector: Tensor) -> None:
        key = (len(maps), tuple(map(id, maps)), tuple(vector.shape[2:]))
        vectors = self._groups.setdefault(key, (maps, {}))[1]
        vectors[component] = vectors[component] + vector if component in vectors else vector
