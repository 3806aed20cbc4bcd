"""The walk back from a representation, algorithm 3 of the thesis: through linear operations to the non-linear ones."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pellucid.core.errors import ModelError
from torch import Tensor
from torch.utils._pytree import tree_leaves

from . import channel_rules, token_rules  # noqa: F401  # they register the rules
from .recording import Recording, Ref, Step
from .rules import ATTENTION, NONLINEAR, RULES, Next
from .terms import Map, SeparationError, Term, identity

_HEADS = 4  # axes of an attention's output: samples (and windows), heads, tokens, channels


@dataclass(frozen=True)
class Leaf:
    """An activation at which the walk ended.

    Attributes:
        source: the recorded value, or a constant tensor.
        path: the module that it was computed in.
        terms: how the representation depends on it.
        kind: `attention`, `product` (any other activation) or `constant`.
    """

    source: Any
    path: str
    terms: tuple[Term, ...]
    kind: str


@dataclass
class Walk:
    """One walk over a recording.

    Attributes:
        recording: with the values that the walk asks for.
        dtype: that weights and sums are held in.
        asked: which values were asked for.
        leaves: what was found.
    """

    recording: Recording
    dtype: torch.dtype
    asked: set[Ref] = field(default_factory=set)
    leaves: list[Leaf] = field(default_factory=list)

    def run(self) -> list[Leaf]:
        """Walk back, and return the leaves in the order of execution.

        Raises:
            ModelError: an operation is not known, or is not a short sum of token weights times channel maps.
        """
        output, value = self.recording.output, self.recording.output_value
        assert output is not None
        assert value is not None
        waiting: dict[Ref, list[Term]] = defaultdict(list)
        waiting[output] = [identity(value.shape[0], self.dtype, value.device)]
        while waiting:
            ref = max(waiting, key=lambda one: (one.step, one.index))
            terms, step = waiting.pop(ref), self.recording.steps[ref.step]
            for source, own in self._through(step, ref, terms):
                if not own:
                    continue
                if isinstance(source, Ref) and self.recording.steps[source.step].fed:
                    waiting[source] += own
                elif isinstance(source, Ref | Tensor):
                    self._constant(source, step.module, own)
        return self.leaves[::-1]

    def value(self, source: Any) -> Any:
        """A recorded value, or the constant itself."""
        if not isinstance(source, Ref):
            return source
        self.asked.add(source)
        return self.recording.values[source]

    def shape(self, source: Any) -> tuple[int, ...]:
        """The shape of what an operation read; of a number ()."""
        if isinstance(source, Ref):
            return self.recording.steps[source.step].shapes[source.index]
        return tuple(source.shape) if isinstance(source, Tensor) else ()

    def fed(self, source: Any) -> bool:
        """Whether an operation wrote it that read what came from the images."""
        return isinstance(source, Ref) and self.recording.steps[source.step].fed

    def constant(self, step: Step, source: Any, terms: list[Term]) -> None:
        """Put down what a constant that an operation adds brings."""
        self._constant(source, step.module, terms)

    def end(self, step: Step, ref: Ref, terms: list[Term]) -> Next:
        """End here: the operation's result is a component's activation."""
        self.asked.add(ref)
        kind = "attention" if step.name in ATTENTION or step.name in ("bmm", "baddbmm") else "product"
        self.leaves.append(Leaf(ref, step.module, tuple(terms), kind))
        return []

    def pools(self, attention: Any) -> bool:
        """Whether the queries behind attention weights are constants: a pooling head asks the same of every image."""
        seen, waiting = set(), [attention]
        while waiting:
            ref = waiting.pop()
            if not self.fed(ref) or ref in seen:
                continue
            seen.add(ref)
            step = self.recording.steps[ref.step]
            if step.name in ("bmm", "baddbmm"):
                return not self.fed(step.args[-2])
            waiting += [source for source in _sources(step) if self.fed(source)]
        return False

    def _through(self, step: Step, ref: Ref, terms: list[Term]) -> Next:
        if step.name in ATTENTION and not self.fed(step.args[0]) and self.fed(step.args[2]):
            return through_heads(self, step, terms)
        if step.name in NONLINEAR:
            return self.end(step, ref, terms)
        if step.name in ("view", "_unsafe_view", "reshape") and self._heads_of(step):
            self.asked.add(ref)
            self.leaves.append(Leaf(ref, step.module, tuple(terms), "attention"))
            return []
        found = RULES.get(step.name)
        where = f"{step.op} in {step.module or 'the model itself'}"
        if found is None:
            raise ModelError(
                f"{where} is not known: teach it with pellucid.vit_components.rules.rule if it is linear, "
                "or add it to NONLINEAR there"
            )
        try:
            return found(self, step, ref, terms)
        except SeparationError as error:
            raise ModelError(f"{where} cannot be followed back: {error}") from error

    def _heads_of(self, step: Step) -> bool:
        """Whether a view splits the heads of an attention from its samples again."""
        source = step.args[0]
        if len(step.shapes[0]) != _HEADS or not isinstance(source, Ref):
            return False
        before = self.recording.steps[source.step]
        return (
            before.name == "bmm"
            and len(before.shapes[0]) == _HEADS - 1
            and all(self.fed(part) for part in before.args[:2])
            and not self.pools(before.args[0])
        )

    def _constant(self, source: Any, path: str, terms: list[Term]) -> None:
        if isinstance(source, Ref):
            self.asked.add(source)
        if terms:
            self.leaves.append(Leaf(source, path, tuple(terms), "constant"))


def _sources(step: Step) -> Iterator[Any]:
    yield from (leaf for leaf in tree_leaves((step.args, step.kwargs), is_leaf=lambda x: isinstance(x, Ref)))


def attention_weights(walk: Walk, step: Step) -> Tensor:
    """The attention of a fused operation, recomputed: (n, heads, queries, keys)."""
    query, key = (walk.value(part).to(walk.dtype) for part in step.args[:2])
    mask = next((part for part in (step.kwargs.get("attn_mask"), step.kwargs.get("attn_bias"), *step.args[3:4])
                 if isinstance(part, Tensor | Ref)), None)  # fmt: skip
    factor = step.kwargs.get("scale") or query.shape[-1] ** -0.5
    logits = query @ key.transpose(-1, -2) * factor
    if mask is not None:
        held = walk.value(mask)
        logits = logits.masked_fill(~held, -torch.inf) if held.dtype == torch.bool else logits + held.to(walk.dtype)
    return logits.softmax(-1)


def through_heads(walk: Walk, step: Step, terms: list[Term], heads: Sequence[int] | None = None) -> Next:
    """Through a fused attention to its values, the attention held: for each head its own term.

    Args:
        walk: that asks for queries and keys.
        step: the attention; its result is (n, heads, queries, channels).
        terms: of the result.
        heads: which ones; None takes all.
    """
    weights = attention_weights(walk, step)
    return [(step.args[2], held_attention(terms, weights, heads))]


def held_attention(terms: Sequence[Term], weights: Tensor, heads: Sequence[int] | None = None) -> list[Term]:
    """Terms of attention times values as terms of the values.

    Args:
        terms: of the result (n, heads, queries, channels).
        weights: (n, heads, queries, keys).
        heads: which ones; None takes all.
    """
    found = []
    for term in terms:
        whole = _with_heads(term)
        for head in range(weights.shape[1]) if heads is None else heads:
            own = whole.weights[:, :, 0 if 1 in term.axes else head, :, 0]
            spread = torch.einsum("snq,nqk->snk", own, weights[:, head].to(own.dtype))
            maps = (_only(head, whole.axes.index(1)), *whole.maps)
            found.append(Term(spread[:, :, None, :, None], whole.axes, maps))
    return found


def _with_heads(term: Term) -> Term:
    """A term of (n, heads, queries, channels) whose heads are channels."""
    if set(term.axes) == {1, 3}:
        return term
    if term.axes != (3,):
        raise SeparationError("an attention in a layout that is not known")
    return Term(term.weights, (1, 3), (_summed_heads, *term.maps))


def _summed_heads(v: Tensor) -> Tensor:
    return v.sum(-2)


def _only(head: int, place: int) -> Map:
    """Vectors (..., heads, channels), or the other way round, with all heads but one at zero."""

    def keep(v: Tensor) -> Tensor:
        found = torch.zeros_like(v)
        axis = v.ndim - 2 + place
        found.select(axis, head).copy_(v.select(axis, head))
        return found

    return keep
