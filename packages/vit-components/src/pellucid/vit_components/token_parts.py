"""What one head takes from each token of its input."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .recording import Ref, Step
from .rules import ATTENTION, RULES
from .terms import SeparationError, Term, linear, mapped
from .walk import Leaf, Walk, attention_weights, held_attention

# Operations that only move tokens about; a head's tokens are told in the order from before them.
_MOVES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "unsqueeze",
        "squeeze",
        "flatten",
        "permute",
        "transpose",
        "t",
        "clone",
        "alias",
        "detach",
        "roll",
        "expand",
    ]
)
_CUTS = frozenset(["select", "slice", "split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "narrow"])


def token_parts(walk: Walk, leaf: Leaf, head: int, samples: int) -> Tensor:
    """Follow a head through its attention, held, and its value projection to the layer's input.

    Returns:
        (tokens, samples, width); summed over tokens it is the head's part.
    """
    source, weights = _attention(walk, leaf)
    found: Tensor | None = None
    for term in held_attention(leaf.terms, weights, [head]):
        part = _spread(walk, source, term, samples)
        found = part if found is None else found + part
    assert found is not None
    return found


def _attention(walk: Walk, leaf: Leaf) -> tuple[Any, Tensor]:
    """The values that an attention reads, (n, heads, keys, channels), and its weights."""
    steps = walk.recording.steps
    step = steps[leaf.source.step]
    if step.name in ATTENTION:
        return step.args[2], attention_weights(walk, step)
    product = steps[step.args[0].step]  # the view of a bmm
    weights, values = product.args[:2]
    shape = step.shapes[0]
    values = _unfolded(walk, values, shape)
    return values, walk.value(weights).reshape(*shape[:2], shape[2], -1)


def _unfolded(walk: Walk, values: Any, shape: tuple[int, ...]) -> Any:
    """Back from (n * heads, keys, channels) over the views that matmul makes to (n, heads, keys, channels)."""
    while isinstance(values, Ref) and len(walk.shape(values)) != len(shape):
        values = walk.recording.steps[values.step].args[0]
    return values


def _spread(walk: Walk, source: Any, term: Term, samples: int) -> Tensor:
    """One term of the values, followed back to before their projection, and told by token: (tokens, samples, width)."""
    pairs: list[tuple[Term, Tensor]] = [(term, term.weights.new_zeros(()))]  # with what the projection's bias adds
    projected = False
    while isinstance(source, Ref):
        step = walk.recording.steps[source.step]
        if step.name in _MOVES or (step.name in _CUTS and not projected):
            moved = [(RULES[step.name](walk, step, source, [own])[0], bias) for own, bias in pairs]
            source, pairs = moved[0][0][0], [(new, bias) for (_, terms), bias in moved for new in terms]
        elif step.name in ("addmm", "mm", "linear") and not projected:
            projected = True
            source, weight, add = _projection(step)
            held = walk.value(weight)
            held = held.T if step.name == "linear" else held
            pairs = [
                (
                    replace(own, maps=own.first(linear(held))),
                    bias if add is None else mapped(own.maps, walk.value(add).to(own.weights.dtype)),
                )
                for own, bias in pairs
            ]
        else:
            break
    value = walk.value(source)
    return torch.stack([_told(own, value, bias, samples) for own, bias in pairs]).sum(0)


def _projection(step: Step) -> tuple[Any, Any, Any]:
    """What a linear operation reads, its weight and its bias."""
    if step.name == "addmm":
        return step.args[1], step.args[2], step.args[0]
    return step.args[0], step.args[1], step.args[2] if step.name == "linear" and len(step.args) > 2 else None


def _told(term: Term, value: Tensor, bias: Tensor, samples: int) -> Tensor:
    """Each token's own part, for each sample from its own tokens: (tokens, samples, width)."""
    axis = next(
        (
            axis
            for axis, size in enumerate(value.shape)
            if size == samples and axis not in term.axes and _own(term.weights, axis, samples)
        ),
        None,
    )
    if axis is None:
        raise SeparationError("the samples do not stand along one axis")
    order = [other for other in range(value.ndim) if other not in (axis, *term.axes)]
    channels = [value.shape[other] for other in term.axes]
    found = []
    for sample in range(samples):
        weights = term.weights[sample].permute(axis, *order, *term.axes)[sample].reshape(-1)
        tokens = value.to(weights.dtype).permute(axis, *order, *term.axes)[sample].reshape(-1, *channels)
        spread = weights.reshape(-1, *[1] * len(channels)) * tokens
        found.append(mapped(term.maps, spread) + weights[:, None] * bias)
    return torch.stack(found, 1)


def _own(weights: Tensor, axis: int, samples: int) -> bool:
    """Whether sample s has weights only at place s of an axis."""
    others = weights.movedim(1 + axis, 1)[~torch.eye(samples, dtype=torch.bool, device=weights.device)]
    return not bool(others.any())
