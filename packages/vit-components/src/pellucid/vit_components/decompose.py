"""RepDecompose: a representation as the exact sum of what each head and MLP writes into it (thesis, algorithm 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pellucid.core.errors import ModelError, OptionError
from torch import Tensor, nn

from .components import LAYERED, Component, Kind, is_input, module_of
from .mapping import Waiting
from .recording import Recording, Ref, record
from .representations import Forward, representation_of
from .terms import Term, reduced
from .token_parts import token_parts
from .walk import Leaf, Walk

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_PLANS: WeakKeyDictionary[nn.Module, dict[Any, frozenset[Ref]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Decomposition:
    """A representation and its parts.

    Attributes:
        components: what the parts belong to; the last are `embedding` and `bias`, or the one `init`.
        parts: (components, batch, width); their sum is the representation.
        representation: (batch, width), as the model gave it.
        tokens: for each head that was asked for by name, (tokens, batch, width): what it took from each token of its
            input, in the order in which the layer reads them.
        error: the largest difference of the parts' sum from the representation, in shares of its largest entry.
    """

    components: tuple[Component, ...]
    parts: Tensor
    representation: Tensor
    tokens: dict[str, Tensor] = field(default_factory=dict)
    error: float = 0.0


@torch.no_grad()
def rep_decompose(
    model: nn.Module,
    images: Tensor,
    *,
    last_layers: int | None = None,
    tokens: Sequence[str] = (),
    forward: Forward | None = None,
) -> Decomposition:
    """Decompose a model's representation of images into the direct contributions of its components.

    The forward pass is recorded as it runs, and the representation is followed back through all linear operations to
    the non-linear ones; norms by their own statistics, attention (where a pooling head is followed) by its own weights.
    The model is not changed. The first call for a model and a size of images runs two images more, to learn
    what to keep.

    Args:
        model: a vision transformer of timm, open_clip or transformers, or any other that is made of known operations;
            in eval mode.
        images: (batch, channels, height, width), preprocessed, on the model's device.
        last_layers: how many layers to take apart, counted from the last, attention, MLP and convolution layers apart;
            the rest is one component `init` (thesis 7.4). None takes all apart.
        tokens: names of heads whose parts are wanted for each token, too.
        forward: from model and images to the representation (batch, width); what the model's class calls its pooled
            features where it is not given.

    Returns:
        The parts, in float32 (float64 for a model in float64).

    Raises:
        ModelError: the model is in train mode or quantized, an operation is not known, or the parts do not sum to the
            representation within `TOLERANCES`.
        OptionError: a name in `tokens` is no head of the layers taken apart; `last_layers` is below 1.
    """
    if last_layers is not None and last_layers < 1:
        raise OptionError(f"last_layers={last_layers}: give 1 or more, or None for all")
    forward = forward or representation_of(model)
    dtype = _checked(model, images)
    recording = record(model, forward, images, _plan(model, forward, images, dtype, tuple(tokens)))
    try:
        return _decomposed(model, recording, dtype, last_layers, tokens, images)
    except KeyError:  # this many images take another path through the model than two: keep everything
        return _decomposed(model, record(model, forward, images), dtype, last_layers, tokens, images)


def components_of(model: nn.Module, images: Tensor, forward: Forward | None = None) -> tuple[Component, ...]:
    """All components of a model, by running it on the first of the images."""
    return rep_decompose(model, images[:1], forward=forward).components


def _plan(
    model: nn.Module, forward: Forward, images: Tensor, dtype: torch.dtype, tokens: tuple[str, ...]
) -> frozenset[Ref]:
    """Which values a walk asks for, learnt from two images."""
    known = _PLANS.setdefault(model, {})
    key = (forward, tuple(images.shape[1:]), images.dtype, tokens, len(images) == 1)
    if key not in known:
        some = images[:2]  # one image alone makes axes of size one, which views treat in another way
        recording = record(model, forward, some)
        walk = Walk(recording, dtype)
        leaves = walk.run()
        for leaf in leaves:
            walk.value(leaf.source)
        for name in tokens:
            token_parts(walk, *_found(model, leaves, name), len(some))
        known[key] = frozenset(walk.asked)
    return known[key]


def _decomposed(
    model: nn.Module, recording: Recording, dtype: torch.dtype, last: int | None, tokens: Sequence[str], images: Tensor
) -> Decomposition:
    assert recording.output_value is not None
    walk = Walk(recording, dtype)
    leaves = walk.run()
    named = [(leaf, *_named(model, leaf)) for leaf in leaves]
    layers = list(dict.fromkeys((module, kind) for _, module, kind in named if kind in LAYERED))
    kept = set(layers if last is None else layers[-last:])
    waiting = Waiting()
    by_head: dict[tuple[str, int], int] = {}
    for leaf, module, kind in named:
        if kind == "bias":
            module = next((name for name, other in layers if other != "head" and _within(leaf.path, name)), "")
            kind = next((other for name, other in layers if name == module and other != "head"), "bias")
        if kind not in LAYERED or (module, kind) not in kept:
            rest: Kind = "init" if last is not None else kind if kind not in LAYERED else "init"
            waiting.add(Component(rest, rest), leaf.terms, [one[None] for one in _whole(walk, leaf)])
            continue
        layer = layers.index((module, kind))
        if kind == "head":
            apart = _by_head(walk, leaf)
            by_head[module, layer] = len(apart[0])
            waiting.add(Component(module, kind, layer), leaf.terms, apart)
        else:
            waiting.add(Component(module, kind, layer), leaf.terms, [one[None] for one in _whole(walk, leaf)])
    sums: dict[Component, Tensor] = {}
    for component, found_parts in waiting.mapped().items():
        if (component.name, component.layer) not in by_head:
            sums[component] = found_parts[0]
            continue
        for head, part in enumerate(found_parts):
            sums[Component(f"{component.name}.head{head}", "head", component.layer, head)] = part
    components = tuple(sorted(sums, key=lambda one: (one.layer < 0, one.layer, one.head or 0, one.kind == "bias")))
    parts = torch.stack([sums[component] for component in components])
    whole = recording.output_value
    error = float((parts.sum(0) - whole.to(dtype)).abs().max() / whole.abs().max().clamp_min(1e-30))
    if not error <= TOLERANCES[whole.dtype]:
        raise ModelError(
            f"the parts sum to the representation only to {error:.1e} of its size ({TOLERANCES[whole.dtype]:.0e} is "
            "allowed): the model does something between its components that was taken for linear and is not"
        )
    names = {component.name for component in components if component.kind == "head"}
    found = {}
    for name in tokens:
        if name not in names:
            raise OptionError(f"tokens names {name!r}: the heads taken apart are {', '.join(sorted(names)[:3])}, ...")
        found[name] = token_parts(walk, *_found(model, leaves, name), len(images))
    return Decomposition(components, parts, whole, found, error)


def _whole(walk: Walk, leaf: Leaf) -> list[Tensor]:
    """What a leaf's terms take of it: for each (samples, *channel sizes)."""
    return reduced(leaf.terms, walk.value(leaf.source))


def _by_head(walk: Walk, leaf: Leaf) -> list[Tensor]:
    """The same of an attention (n, heads, queries, channels), heads apart: for each term (heads, samples, ...)."""
    value = walk.value(leaf.source)
    if value.ndim != 4:
        return [one[None] for one in reduced(leaf.terms, value)]
    found: list[Tensor | None] = [None] * len(leaf.terms)
    for axes in dict.fromkeys(term.axes for term in leaf.terms):
        own = [place for place, term in enumerate(leaf.terms) if term.axes == axes]
        for place, one in zip(own, _heads([leaf.terms[place] for place in own], value), strict=True):
            found[place] = one
    return [one for one in found if one is not None]


def _heads(terms: list[Term], value: Tensor) -> list[Tensor]:
    """Terms of the same channel axes."""
    axes, count = terms[0].axes, value.shape[1]
    if 1 not in axes:
        order = [axis for axis in (0, 2, 3) if axis not in axes]
        moved = value.to(terms[0].weights.dtype).permute(1, *order, *axes).flatten(1, len(order))
        weights = torch.cat([_spread(term.weights, count, order, axes) for term in terms], 1)
        sums = (weights @ moved).unflatten(1, (len(terms), -1))
        return list(sums.unbind(1))
    apart = []
    for one in reduced(terms, value):  # (samples, *channel sizes, heads among them)
        place = 1 + axes.index(1)
        heads = one.new_zeros(count, *one.shape)
        for head in range(count):
            heads[head].select(place, head).copy_(one.select(place, head))
        apart.append(heads)
    return apart


def _spread(weights: Tensor, heads: int, order: list[int], axes: tuple[int, ...]) -> Tensor:
    """Weights (samples, n, heads or 1, queries, 1) with the heads in front: (heads, samples, tokens)."""
    whole = weights.expand(-1, -1, heads, -1, -1) if weights.shape[2] == 1 else weights
    return whole.permute(2, 0, *(1 + axis for axis in order), *(1 + axis for axis in axes)).flatten(2)


def _named(model: nn.Module, leaf: Leaf) -> tuple[str, Kind]:
    """A leaf's module and kind."""
    if leaf.kind == "constant":
        return "", "embedding" if is_input(leaf.path) or not leaf.path else "bias"
    path = leaf.path
    part = model.get_submodule(path)
    if path and not any(True for _ in part.children()) and not any(True for _ in part.parameters()):
        path = path.rpartition(".")[0]
    if leaf.kind == "attention":
        return path, "head"
    if is_input(path) or not path:
        return "", "embedding"
    convolved = all(term.axes == (1,) for term in leaf.terms)
    kind: Kind = "conv" if convolved and leaf.terms[0].weights.ndim == 5 else "mlp"
    return module_of(path, kind), kind


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(module + ".")


def _found(model: nn.Module, leaves: list[Leaf], name: str) -> tuple[Leaf, int]:
    module, _, head = name.rpartition(".head")
    for leaf in leaves:
        if leaf.kind == "attention" and _named(model, leaf)[0] == module and head.isdigit():
            return leaf, int(head)
    raise OptionError(f"tokens names {name!r}: it is no head, such as blocks.11.attn.head3; see components_of")


def _checked(model: nn.Module, images: Tensor) -> torch.dtype:
    """The dtype to hold weights and sums in."""
    for name, part in model.named_modules():
        if type(part).__module__.startswith("bitsandbytes") or getattr(part, "weight_scale", None) is not None:
            raise ModelError(f"{name} is quantized: load the model without quantization to decompose it")
    if images.ndim != 4 or not len(images):
        raise OptionError(f"images have shape {tuple(images.shape)}: give (batch, channels, height, width)")
    return torch.float64 if images.dtype == torch.float64 else torch.float32
