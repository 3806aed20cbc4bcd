"""Rules of operations on channels: sums, products, linear maps, norms, convolutions, and held attention."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .recording import Ref, Step
from .rules import Next, rule
from .terms import SeparationError, Term, centre, linear, placed, scale, unbroadcast
from .token_rules import adjoint

if TYPE_CHECKING:
    from .walk import Walk


@rule("add", "sub")
def _add(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    factor = float(step.kwargs.get("alpha", 1)) * (-1 if step.name == "sub" else 1)
    return [
        (part, [_times(unbroadcast(term, step.shapes[0], walk.shape(part)), by) for term in terms])
        for part, by in zip(step.args[:2], (1.0, factor), strict=True)
    ]


@rule("neg")
def _neg(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    return [(step.args[0], [_times(term, -1.0) for term in terms])]


@rule("mul", "div")
def _mul(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    """Of a product one side is held: the constant, or the one that is the same for all channels (a norm's divisor)."""
    one, two = step.args[:2]
    if step.name == "mul" and not walk.fed(one):
        one, two = two, one
    if walk.fed(one) and walk.fed(two):
        thin = [_thin(walk.shape(part), terms, step.shapes[0]) for part in (one, two)]
        if thin[0] == thin[1] or (step.name == "div" and thin[0]):
            return walk.end(step, ref, terms)
        if thin[0]:
            one, two = two, one
    elif not walk.fed(one):
        return walk.end(step, ref, terms)
    held = walk.value(two)
    held = 1 / held if step.name == "div" else held
    spread = [unbroadcast(term, step.shapes[0], walk.shape(one)) for term in _weighted(terms, held, step.shapes[0])]
    return [(one, spread)]


@rule("addmm")
def _addmm(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    bias, one, two = step.args[:3]
    own = [(bias, [unbroadcast(term, step.shapes[0], walk.shape(bias)) for term in _channels_apart(terms)])]
    walk.constant(step, own[0][0], own[0][1])
    return _matrix(walk, step, ref, terms, one, two)


@rule("mm")
def _mm(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    return _matrix(walk, step, ref, terms, *step.args[:2])


@rule("linear")
def _linear(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    one, weight = step.args[:2]
    if walk.fed(weight):
        return walk.end(step, ref, terms)
    if len(step.args) > 2 and step.args[2] is not None:
        bias = step.args[2]
        walk.constant(step, bias, [unbroadcast(term, step.shapes[0], walk.shape(bias)) for term in terms])
    last = len(step.shapes[0]) - 1
    by = linear(walk.value(weight).T)  # one map for all terms: vectors that wait for it go through it together
    return [(one, [replace(_last(term, last), maps=term.first(by)) for term in terms])]


@rule("bmm", "baddbmm")
def _bmm(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    """Attention times values: a component, or for a pooling head the way to all components, its attention held."""
    one, two = step.args[-2:]
    if step.name == "bmm" and walk.fed(one) and walk.fed(two) and walk.pools(one):
        held = walk.value(one)
        return [(two, [new for term in terms for new in _attended(term, held)])]
    return walk.end(step, ref, terms)


@rule("native_layer_norm", "layer_norm")
def _layer_norm(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    """Centring and scaling are linear; the division by the standard deviation is held, recomputed in full precision."""
    source, sizes, weight, bias = step.args[:4]
    eps = step.args[4] if len(step.args) > 4 else 1e-5
    last = len(step.shapes[0]) - 1
    if len(sizes) != 1:
        raise SeparationError("a LayerNorm over several axes")
    if bias is not None:
        walk.constant(step, bias, [unbroadcast(_last(t, last), step.shapes[0], walk.shape(bias)) for t in terms])
    value = walk.value(source).to(walk.dtype)
    spread = (value.var(-1, unbiased=False, keepdim=True) + eps).rsqrt()
    found = []
    by = None if weight is None else scale(walk.value(weight))
    for term in terms:
        maps = term.maps if by is None else term.first(by)
        found.append(replace(_last(term, last), weights=term.weights * spread, maps=(centre, *maps)))
    return [(source, found)]


@rule("_fused_rms_norm", "rms_norm")
def _rms_norm(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    source, sizes, weight = step.args[:3]
    eps = step.args[3] if len(step.args) > 3 and step.args[3] is not None else torch.finfo(walk.dtype).eps
    if len(sizes) != 1:
        raise SeparationError("an RMSNorm over several axes")
    spread = (walk.value(source).to(walk.dtype).square().mean(-1, keepdim=True) + eps).rsqrt()
    by = None if weight is None else scale(walk.value(weight))
    found = [
        replace(term, weights=term.weights * spread, maps=term.maps if by is None else term.first(by))
        for term in (_last(term, len(step.shapes[0]) - 1) for term in terms)
    ]
    return [(source, found)]


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "batch_norm",
    "_native_batch_norm_legit",
)
def _batch_norm(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    """In eval mode a scale and a shift of each channel, by the running statistics."""
    source, weight, bias, mean, variance = (
        part if part is None or index == 0 else walk.value(part).to(walk.dtype)
        for index, part in enumerate(step.args[:5])
    )
    eps = float(step.args[-1])
    by = (variance + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * by
    for term in terms:
        if term.axes != (1,):
            raise SeparationError("a BatchNorm whose channels are not the second axis")
    walk.constant(step, shift, [_summed(term, step.shapes[0]) for term in terms])
    map_ = scale(by)
    return [(source, [replace(term, maps=term.first(map_)) for term in terms])]


@rule("convolution", "conv2d", "mkldnn_convolution")
def _convolution(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    """A sum over the kernel's places, each a channel map of the shifted picture; one of the images ends here."""
    source, kernel, bias, stride, padding, dilation = step.args[:6]
    transposed = bool(step.args[6]) if len(step.args) > 6 else False
    groups = int(step.args[-1]) if len(step.args) > 6 else 1
    if not walk.fed(source):
        return walk.end(step, ref, terms)
    weight = walk.value(kernel).to(walk.dtype)
    if transposed or weight.ndim != 4 or groups not in (1, weight.shape[0]):
        raise SeparationError("a transposed or grouped convolution")
    if bias is not None:
        walk.constant(step, bias, [_summed(term, step.shapes[0]) for term in terms])
    before = walk.shape(source)
    found = []
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            map_ = scale(weight[:, 0, row, column]) if groups > 1 else linear(weight[:, :, row, column].T)
            for term in terms:
                hot = torch.zeros(1, 1, *weight.shape[2:], dtype=walk.dtype, device=weight.device)
                hot[0, 0, row, column] = 1

                def place(x: Tensor, hot: Tensor = hot) -> Tensor:
                    return torch.nn.functional.conv2d(x, hot, None, stride, padding, dilation)

                flat = adjoint(place, term.weights.flatten(0, 1), (len(term.weights) * before[0], 1, *before[2:]))
                found.append(replace(term, weights=flat.unflatten(0, (-1, before[0])), maps=term.first(map_)))
    return [(source, found)]


def _matrix(walk: "Walk", step: Step, ref: Ref, terms: list[Term], one: Any, two: Any) -> Next:
    """A product of two matrices of which one is constant."""
    if walk.fed(one) and walk.fed(two):
        return walk.end(step, ref, terms)
    if not walk.fed(one):
        raise SeparationError("a constant matrix times tokens")
    by = linear(walk.value(two))
    return [(one, [replace(_last(term, 1), maps=term.first(by)) for term in terms])]


def _attended(term: Term, attention: Tensor) -> list[Term]:
    """Through attention (n, queries, keys) times values (n, keys, channels), the attention held."""
    if term.axes == (2,):
        weights = torch.einsum("snq,nqk->snk", term.weights[..., 0], attention.to(term.weights.dtype))
        return [replace(term, weights=weights[..., None])]
    if set(term.axes) != {0, 2}:
        raise SeparationError("a pooling head whose channels are not its last axis")
    found, size = [], len(attention)  # of one image the first axis is heads alone, which are channels
    for place in range(size):
        hot = term.weights.new_zeros(1, size, 1, 1)
        hot[0, place] = 1
        maps = term.first(placed(term.axes.index(0), 2, place, size))
        found += _attended(Term(term.weights * hot, (2,), maps), attention)
    return found


def _last(term: Term, last: int) -> Term:
    if term.axes != (last,):
        raise SeparationError("channels that are not the last axis")
    return term


def _channels_apart(terms: list[Term]) -> list[Term]:
    return [_last(term, 1) for term in terms]


def _summed(term: Term, after: tuple[int, ...]) -> Term:
    """A term of a result (n, channels, ...) as one of a constant (channels,)."""
    tokens = tuple(1 + axis for axis in range(len(after)) if axis not in term.axes)
    return replace(term, weights=term.weights.sum(tokens, keepdim=True).reshape(len(term.weights), 1), axes=(0,))


def _times(term: Term, by: float) -> Term:
    return term if by == 1 else replace(term, weights=term.weights * by)


def _thin(shape: tuple[int, ...], terms: list[Term], after: tuple[int, ...]) -> bool:
    """Whether an operand is the same for all channels."""
    lead = len(after) - len(shape)
    return all(axis < lead or shape[axis - lead] == 1 for term in terms for axis in term.axes)


def _weighted(terms: list[Term], held: Any, after: tuple[int, ...]) -> list[Term]:
    """Terms of a product as terms of one factor, the other held: a number, token weights or channel factors."""
    if not isinstance(held, Tensor):
        return [replace(term, weights=term.weights * held) for term in terms]
    found = []
    for term in terms:
        full = held.reshape(*[1] * (len(after) - held.ndim), *held.shape)
        tokens = [axis for axis in range(len(after)) if axis not in term.axes]
        if all(full.shape[axis] == 1 for axis in term.axes):
            found.append(replace(term, weights=term.weights * full.to(term.weights.dtype)))
        elif all(full.shape[axis] == 1 for axis in tokens):
            by = full.permute(*tokens, *term.axes).reshape([full.shape[axis] for axis in term.axes])
            found.append(replace(term, maps=term.first(scale(by))))
        else:
            raise SeparationError("factors that differ by token and by channel")
    return found
