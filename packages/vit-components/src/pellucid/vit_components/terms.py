"""How a representation depends linearly on one activation: a few terms, each of token weights times a channel map.

Between a component and the representation nearly all operations act either on tokens (pooling, rolling, partitions) or
on channels (linear maps, scales). So the dependence of a sample's representation on an activation is a short sum of
`weights[s, tokens] * map(channels)`, and a component's contribution costs one reduction over tokens BEFORE any map: no
stack of components is ever pushed through the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]
_MOST_TERMS = 512


class SeparationError(Exception):
    """The dependence is not a short sum of token weights times channel maps."""


@dataclass(frozen=True)
class Term:
    """One summand.

    Attributes:
        weights: (samples, *shape of the activation, with 1 at the channel axes).
        axes: the activation's channel axes, in the order that `maps` wants them.
        maps: what brings a vector (..., *channel sizes) to the representation's width, one after the other.
    """

    weights: Tensor
    axes: tuple[int, ...]
    maps: tuple[Map, ...] = ()

    def first(self, map_: Map) -> "tuple[Map, ...]":
        """The maps with one put before them."""
        return (map_, *self.maps)


def reduced(terms: Sequence[Term], value: Tensor) -> list[Tensor]:
    """The activation summed over tokens by each term's weights: for each (samples, *channel sizes)."""
    found: list[Tensor | None] = [None] * len(terms)
    for axes in dict.fromkeys(term.axes for term in terms):
        own = [place for place, term in enumerate(terms) if term.axes == axes]
        channels = [value.shape[axis] for axis in axes]
        tokens = [axis for axis in range(value.ndim) if axis not in axes]
        weights = torch.cat([terms[place].weights.flatten(1) for place in own])
        moved = value.to(weights.dtype).permute(*tokens, *axes).reshape(-1, prod(channels))
        sums = (weights @ moved).reshape(len(own), -1, *channels)
        for place, one in zip(own, sums, strict=True):
            found[place] = one
    return [one for one in found if one is not None]


def mapped(maps: tuple[Map, ...], vectors: Tensor) -> Tensor:
    """Vectors (..., *channel sizes) in the representation's space (..., width)."""
    for map_ in maps:
        vectors = map_(vectors)
    return vectors


def linear(weight: Tensor) -> Map:
    """`v @ weight`, weight (in, out)."""
    return lambda v: v @ weight.to(v.dtype)


def scale(by: Tensor) -> Map:
    """Channel-wise factors."""
    return lambda v: v * by.to(v.dtype)


def centre(v: Tensor) -> Tensor:
    """Without the mean over channels, as a LayerNorm does."""
    return v - v.mean(-1, keepdim=True)


def shaped(sizes: tuple[int, ...], of: int) -> Map:
    """The last `of` dimensions in other sizes."""
    return lambda v: v.reshape(*v.shape[: v.ndim - of], *sizes)


def placed(axis: int, count: int, index: int, size: int) -> Map:
    """A new channel axis of a size, zero but at one index; vectors come without it, and then have `count` axes."""

    def put(v: Tensor) -> Tensor:
        at = v.ndim - (count - 1) + axis
        found = v.new_zeros(*v.shape[:at], size, *v.shape[at:])
        found.select(at, index).copy_(v)
        return found

    return put


def regrouped(term: Term, after: tuple[int, ...], before: tuple[int, ...]) -> list[Term]:
    """A term of a view's result as terms of what was viewed.

    Where the view joined or split an axis of tokens and channels together, the channels are told apart, a term for
    each; or the tokens, where only one of them has any weight, such as the values among queries, keys and values.

    Raises:
        SeparationError: the two shapes have no common refinement, or too many terms arise.
    """
    sizes, outer, inner = _refined(after, before)
    order = [factor for axis in term.axes for factor in outer[axis]]
    weights = term.weights.reshape(len(term.weights), *(1 if f in order else size for f, size in enumerate(sizes)))
    own = [after[axis] for axis in term.axes]
    maps = term.first(shaped(tuple(own), len(order))) if [sizes[f] for f in order] != own else term.maps
    found = [_Parts(weights, tuple(order), maps)]
    for group in inner:
        channels = [f for f in group if f in order]
        tokens = [f for f in group if f not in order]
        if channels and tokens:
            found = [new for parts in found for new in _split(parts, tokens, channels, sizes)]
        if len(found) > _MOST_TERMS:
            raise SeparationError("too many channels are joined with tokens")
    return [_joined(Term(parts.weights, (), parts.maps), list(parts.order), sizes, inner, before) for parts in found]


@dataclass(frozen=True)
class _Parts:
    """A term over the factors of a refinement: `order` are those that are channels."""

    weights: Tensor
    order: tuple[int, ...]
    maps: tuple[Map, ...]


def _split(parts: _Parts, tokens: list[int], channels: list[int], sizes: list[int]) -> list[_Parts]:
    chosen = [_tokens_split(parts, factor, sizes[factor]) for factor in tokens]
    if all(len(some) == 1 for some in chosen):
        for factor in tokens:
            [parts] = _tokens_split(parts, factor, sizes[factor])
        return [parts]
    found = [parts]
    for factor in channels:
        found = [new for one in found for new in _channels_split(one, factor, sizes[factor])]
        if len(found) > _MOST_TERMS:
            raise SeparationError("too many channels are joined with tokens")
    return found


def _channels_split(parts: _Parts, factor: int, size: int) -> list[_Parts]:
    """A channel factor as tokens: a term for each of its places."""
    at, count = parts.order.index(factor), len(parts.order)
    found = []
    for place in range(size):
        shape = [1] * parts.weights.ndim
        shape[1 + factor] = size
        hot = parts.weights.new_zeros(size)
        hot[place] = 1
        maps = (placed(at, count, place, size), *parts.maps)
        found.append(_Parts(parts.weights * hot.reshape(shape), parts.order[:at] + parts.order[at + 1 :], maps))
    return found


def _tokens_split(parts: _Parts, factor: int, size: int) -> list[_Parts]:
    """A token factor as channels: a term for each of its places that has any weight."""
    found = []
    for place in range(size):
        weights = parts.weights.narrow(1 + factor, place, 1)
        if weights.any():
            count = len(parts.order)
            found.append(_Parts(weights, (factor, *parts.order), (_one_of(place, count + 1), *parts.maps)))
    return found


def _one_of(place: int, count: int) -> Map:
    """One place of the first of so many channel axes."""
    return lambda v: v.select(v.ndim - count, place)


def _joined(term: Term, order: list[int], sizes: list[int], inner: list[list[int]], before: tuple[int, ...]) -> Term:
    """Put the factors of a refinement together to the axes of the earlier shape."""
    axes, rest = [], list(order)
    for axis, group in enumerate(inner):
        own = [factor for factor in group if factor in rest]
        if own and all(sizes[factor] == 1 or factor in rest for factor in group):
            axes.append((axis, own))
    wanted = [factor for _, own in axes for factor in own]
    maps = term.maps
    if wanted != order:
        back = [wanted.index(factor) for factor in order]
        maps = (_permuted(back), *maps)
    if [before[axis] for axis, _ in axes] != [sizes[factor] for factor in wanted]:
        maps = (shaped(tuple(sizes[factor] for factor in wanted), len(axes)), *maps)
    dims = [1 if axis in [a for a, _ in axes] else size for axis, size in enumerate(before)]
    return Term(term.weights.reshape(len(term.weights), *dims), tuple(axis for axis, _ in axes), maps)


def _permuted(order: list[int]) -> Map:
    count = len(order)
    return lambda v: v.permute(*range(v.ndim - count), *(v.ndim - count + place for place in order))


def _refined(after: tuple[int, ...], before: tuple[int, ...]) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """The common refinement of two shapes: factors, and which of them make up each axis of the one and the other."""
    sizes: list[int] = []
    groups: tuple[list[list[int]], list[list[int]]] = ([[] for _ in after], [[] for _ in before])
    left = [[(axis, size) for axis, size in enumerate(shape) if size != 1] for shape in (after, before)]
    while left[0] and left[1]:
        (one, a), (two, b) = left[0].pop(0), left[1].pop(0)
        step = min(a, b)
        if a % step or b % step:
            raise SeparationError(f"a view from {before} to {after} splits axes unevenly")
        groups[0][one].append(len(sizes))
        groups[1][two].append(len(sizes))
        sizes.append(step)
        if a > step:
            left[0].insert(0, (one, a // step))
        if b > step:
            left[1].insert(0, (two, b // step))
    return sizes, *groups


def permuted(term: Term, order: tuple[int, ...]) -> Term:
    """A term of `x.permute(order)` as one of x."""
    back = [order.index(axis) for axis in range(len(order))]
    weights = term.weights.permute(0, *(1 + place for place in back))
    return replace(term, weights=weights, axes=tuple(order[axis] for axis in term.axes))


def unbroadcast(term: Term, after: tuple[int, ...], before: tuple[int, ...]) -> Term:
    """A term of a result as one of an operand that was broadcast to it.

    Raises:
        SeparationError: channels were broadcast.
    """
    lead = len(after) - len(before)
    if any(axis < lead or before[axis - lead] != after[axis] for axis in term.axes):
        raise SeparationError("an operand is broadcast over channels")
    weights = term.weights.sum(tuple(range(1, 1 + lead))) if lead else term.weights
    thin = tuple(1 + axis for axis, size in enumerate(before) if size == 1 and after[axis + lead] != 1)
    weights = weights.sum(thin, keepdim=True) if thin else weights
    return replace(term, weights=weights, axes=tuple(axis - lead for axis in term.axes))


def identity(samples: int, dtype: torch.dtype, device: torch.device) -> Term:
    """The representation itself, (samples, width)."""
    return Term(torch.eye(samples, dtype=dtype, device=device)[..., None], (1,))
