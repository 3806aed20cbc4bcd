"""How the dependence on an operation's result becomes the dependence on what it read, for each linear operation.

A rule gets the walk, the step and the terms of its result, and says which inputs to go on with; constants that it adds
are given to the walk at once. To teach a new linear operation: write such a function and put it under `@rule("name")`.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .recording import Ref, Step
from .terms import SeparationError, Term, centre, linear, permuted, placed, regrouped, scale, unbroadcast

if TYPE_CHECKING:
    from .walk import Walk

Next = list[tuple[Any, list[Term]]]
Rule = Callable[["Walk", Step, Ref, list[Term]], Next]
RULES: dict[str, Rule] = {}

# What no dependence goes through: a component ends here.
_CURVED = """gelu relu silu sigmoid tanh elu leaky_relu hardswish hardtanh hardsigmoid mish softplus erf clamp clamp_min
exp log pow sqrt rsqrt abs reciprocal softmax _softmax _safe_softmax _log_softmax max_pool2d amax max
max_pool2d_with_indices maximum minimum var var_mean std linalg_vector_norm norm native_group_norm"""
_FUSED = """scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math
_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps"""
ATTENTION = frozenset(_FUSED.split())
NONLINEAR = frozenset(_CURVED.split()) | ATTENTION


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of one or more operations, by their names without overloads."""

    def put(found: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, found))
        return found

    return put


@rule("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "to", "dropout", "copy", "_conj")
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
    held = walk.value(weight)
    return [(one, [replace(_last(term, last), maps=term.first(linear(held.T))) for term in terms])]


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
    for term in terms:
        maps = term.maps if weight is None else term.first(scale(walk.value(weight)))
        found.append(replace(_last(term, last), weights=term.weights * spread, maps=(centre, *maps)))
    return [(source, found)]


@rule("_fused_rms_norm", "rms_norm")
def _rms_norm(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    source, sizes, weight = step.args[:3]
    eps = step.args[3] if len(step.args) > 3 and step.args[3] is not None else torch.finfo(walk.dtype).eps
    if len(sizes) != 1:
        raise SeparationError("an RMSNorm over several axes")
    spread = (walk.value(source).to(walk.dtype).square().mean(-1, keepdim=True) + eps).rsqrt()
    found = [
        replace(
            term,
            weights=term.weights * spread,
            maps=term.first(scale(walk.value(weight))) if weight is not None else term.maps,
        )
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
    return [(source, [replace(term, maps=term.first(scale(by))) for term in terms])]


@rule("convolution", "conv2d", "mkldnn_convolution")
def _convolution(walk: "Walk", step: Step, ref: Ref, terms: list[Term]) -> Next:
    """A sum over the kernel's places, each a channel map of the shifted picture; one of the images ends here."""
    source, kernel, bias, stride, padding, dilation = step.args[:6]
    transposed = bool(step.args[6]) if len(step.args) > 6 else False
    groups = int(step.args[-1]) if len(step.args) > 6 else 1
    if not walk.recorded(source):
        return walk.end(step, ref, terms)
    weight = walk.value(kernel).to(walk.dtype)
    if transposed or weight.ndim != 4 or groups not in (1, weight.shape[0]):
        raise SeparationError("a transposed or grouped convolution")
    if bias is not None:
        walk.constant(step, bias, [_summed(term, step.shapes[0]) for term in terms])
    before = walk.shape(source)
    found = []
    for term in terms:
        for row in range(weight.shape[2]):
            for column in range(weight.shape[3]):
                hot = torch.zeros(1, 1, *weight.shape[2:], dtype=walk.dtype, device=weight.device)
                hot[0, 0, row, column] = 1

                def place(x: Tensor, hot: Tensor = hot) -> Tensor:
                    return torch.nn.functional.conv2d(x, hot, None, stride, padding, dilation)

                map_ = scale(weight[:, 0, row, column]) if groups > 1 else linear(weight[:, :, row, column].T)
                flat = adjoint(place, term.weights.flatten(0, 1), (len(term.weights) * before[0], 1, *before[2:]))
                found.append(replace(term, weights=flat.unflatten(0, (-1, before[0])), maps=term.first(map_)))
    return [(source, found)]


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
        lifted = [regroup for term in terms for regroup in _with_axis(term, axis)]
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


def _with_axis(term: Term, axis: int) -> list[Term]:
    """A term of `x.select(axis, i)` with that axis put back, of size 1."""
    return [replace(term, weights=term.weights.unsqueeze(1 + axis), axes=tuple(a + (a >= axis) for a in term.axes))]


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


def _matrix(walk: "Walk", step: Step, ref: Ref, terms: list[Term], one: Any, two: Any) -> Next:
    """A product of two matrices of which one is constant."""
    if walk.fed(one) and walk.fed(two):
        return walk.end(step, ref, terms)
    if not walk.fed(one):
        raise SeparationError("a constant matrix times tokens")
    held = walk.value(two)
    return [(one, [replace(_last(term, 1), maps=term.first(linear(held))) for term in terms])]


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
