"""Rules of operations on tokens: views, permutations, slices, pooling, and what else moves or sums tokens."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .recording import Ref, Step
from .rules import Next, rule
from .terms import SeparationError, Term, permuted, regrouped

if TYPE_CHECKING:
    from .walk import Walk


@rule("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "to", "dropout")
def _same(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    return [(step.args[0], terms)]


@rule("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "_reshape_alias", "unflatten")
def _view(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    after, before = step.shapes[0], walk.shape(step.args[0])
    return [(step.args[0], [new for term in terms for new in regrouped(term, after, before)])]


@rule("as_strided")
def _as_strided(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    """Of the same shape it only names the strides anew, as pooling to one place does."""
    if walk.shape(step.args[0]) != step.shapes[0]:
        raise SeparationError("an as_strided to another shape")
    return [(step.args[0], terms)]


@rule("permute")
def _permute(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    rank = len(step.shapes[0])
    order = tuple(axis % rank for axis in step.args[1])
    return [(step.args[0], [permuted(term, order) for term in terms])]


@rule("transpose", "t", "swapaxes")
def _transpose(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    rank = len(step.shapes[0])
    order = list(range(rank))
    one, two = (axis % rank for axis in (step.args[1:3] if len(step.args) == 3 else (0, rank - 1)))
    order[one], order[two] = two, one
    return [(step.args[0], [permuted(term, tuple(order)) for term in terms])]


@rule("mean", "sum")
def _reduce(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    before = walk.shape(step.args[0])
    dims = step.args[1] if len(step.args) > 1 and step.args[1] is not None else range(len(before))
    dims = tuple(axis % len(before) for axis in ([dims] if isinstance(dims, int) else dims))
    kept = bool(step.args[2]) if len(step.args) > 2 else bool(step.kwargs.get("keepdim", False))
    axes = [axis for axis in range(len(before)) if kept or axis not in dims]
    return [(step.args[0], [_over_tokens(step, term, before, axes, dims) for term in terms])]


@rule("select")
def _select(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    before = walk.shape(step.args[0])
    axis = step.args[1] % len(before)
    axes = [other for other in range(len(before)) if other != axis]
    return [(step.args[0], [_over_tokens(step, term, before, axes, (axis,)) for term in terms])]


@rule("slice", "narrow")
def _slice(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    before = walk.shape(step.args[0])
    axis = (step.args[1] if len(step.args) > 1 else 0) % len(before)
    start = step.args[2] if len(step.args) > 2 and step.args[2] is not None else 0
    start = start + before[axis] if start < 0 else start
    hop = step.args[4] if len(step.args) > 4 else 1
    stop = start + hop * (step.shapes[0][axis] - 1) + 1
    return [(step.args[0], [_taken(walk, step, term, before, axis, slice(start, stop, hop)) for term in terms])]


@rule("split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "unsafe_chunk", "split_copy", "unbind_copy")
def _split(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    before = walk.shape(step.args[0])
    place = 1 if step.name in ("unbind", "unbind_copy") else 2
    axis = (step.args[place] if len(step.args) > place else step.kwargs.get("dim", 0)) % len(before)
    if place == 1:
        lifted = [_with_axis(term, axis) for term in terms]
        return [(step.args[0], [_taken(walk, step, t, before, axis, slice(ref.index, ref.index + 1)) for t in lifted])]
    start = sum(shape[axis] for shape in step.shapes[: ref.index])
    part = slice(start, start + step.shapes[ref.index][axis])
    return [(step.args[0], [_taken(walk, step, term, before, axis, part) for term in terms])]


@rule("cat", "concat", "concatenate")
def _cat(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    parts = step.args[0]
    after = step.shapes[0]
    axis = (step.args[1] if len(step.args) > 1 else 0) % len(after)
    found: Next = []
    start = 0
    for part in parts:
        size = walk.shape(part)[axis]
        own = []
        for term in terms:
            if axis in term.axes:
                own.append(replace(term, maps=term.first(_padded(term, axis, start, after[axis]))))
            else:
                own.append(replace(term, weights=term.weights.narrow(1 + axis, start, size)))
        found.append((part, own))
        start += size
    return found


@rule("stack")
def _stack(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    axis = (step.args[1] if len(step.args) > 1 else 0) % len(step.shapes[0])
    if any(axis in term.axes for term in terms):
        raise SeparationError("a stack of channels")
    return [
        (part, [replace(t, weights=t.weights.select(1 + axis, place), axes=tuple(a - (a > axis) for a in t.axes))
                for t in terms])
        for place, part in enumerate(step.args[0])
    ]  # fmt: skip


@rule(
    "roll", "flip", "constant_pad_nd", "pad", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "index",
    "index_select", "expand", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_nearest2d", "gather", "repeat",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "avg_pool1d", "_adaptive_avg_pool1d",
)  # fmt: skip
def _tokens(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    """Whatever acts on tokens alone, by the adjoint of the operation itself."""
    before = walk.shape(step.args[0])
    lead = len(step.shapes[0]) - len(before)
    axes = [axis - lead for axis in range(len(step.shapes[0]))]
    return [(step.args[0], [_over_tokens(step, term, before, axes, ()) for term in terms])]


def adjoint(function: Callable[[Tensor], Tensor], weights: Tensor, before: tuple[int, ...]) -> Tensor:
    """The transpose of a linear function of tokens.

    Args:
        function: from a tensor of the shape `before` to one of the weights' shape.
        weights: of its result.
        before: of what it reads.
    """
    empty = torch.zeros(before, dtype=weights.dtype, device=weights.device)
    found: Tensor = torch.func.vjp(function, empty)[1](weights)[0]
    return found


def _over_tokens(step: Step, term: Term, before: tuple[int, ...], axes: list[int], gone: Iterable[int]) -> Term:
    """By the adjoint of an operation run on one channel; `axes` are the earlier axes of the result's."""
    own = tuple(axes[axis] for axis in term.axes)
    if not own or set(own) & set(gone) or any(axis < 0 for axis in own):
        raise SeparationError("channels are reduced")
    samples = len(term.weights)  # these stand where a channel axis was, so that all go in one call
    thin = [1 if axis in own else size for axis, size in enumerate(before)]
    thin[own[0]] = samples
    rest = list(step.args[1:])
    if step.name in ("expand", "repeat"):
        sizes = list(rest[0])
        for axis in term.axes:
            sizes[axis] = (samples if axis == term.axes[0] else 1) if step.name == "expand" else 1
        rest[0] = sizes

    def run(x: Tensor) -> Tensor:
        found: Tensor = step.op(x, *rest, **step.kwargs)
        return found

    weights = term.weights.squeeze(1 + term.axes[0]).movedim(0, term.axes[0])
    found = adjoint(run, weights, tuple(thin))
    return replace(term, weights=found.movedim(own[0], 0).unsqueeze(1 + own[0]), axes=own)


def _taken(walk: "Walk", step: Step, term: Term, before: tuple[int, ...], axis: int, part: slice) -> Term:
    """A slice along tokens or along channels."""
    if axis in term.axes:
        at, count = term.axes.index(axis), len(term.axes)

        def take(v: Tensor) -> Tensor:
            place: tuple[Any, ...] = (..., part, *[slice(None)] * (count - 1 - at))
            return v[place]

        return replace(term, maps=term.first(take))
    shape = list(term.weights.shape)
    shape[1 + axis] = before[axis]
    wide = term.weights.new_zeros(shape)
    wide[(slice(None), *[slice(None)] * axis, part)] = term.weights
    return replace(term, weights=wide)


def _with_axis(term: Term, axis: int) -> Term:
    """A term of `x.select(axis, i)` with that axis put back, of size 1."""
    return replace(term, weights=term.weights.unsqueeze(1 + axis), axes=tuple(a + (a >= axis) for a in term.axes))


def _padded(term: Term, axis: int, start: int, total: int) -> Callable[[Tensor], Tensor]:
    at, count = term.axes.index(axis), len(term.axes)

    def pad(v: Tensor) -> Tensor:
        place = v.ndim - count + at
        shape = list(v.shape)
        shape[place] = total
        found = v.new_zeros(shape)
        found.narrow(place, start, v.shape[place]).copy_(v)
        return found

    return pad
