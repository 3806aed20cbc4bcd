"""The nodes of a circuit: attention heads, attention layers and MLPs (thesis 8.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from pellucid.core.errors import OptionError

Kind = Literal["head", "attention", "mlp"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, order=True)
class Component:
    """One node: `index` is the head's number for heads and None for whole attention layers and MLPs."""

    kind: Kind
    layer: int
    index: int | None = None

    def __str__(self) -> str:
        return f"head {self.layer}.{self.index}" if self.kind == "head" else f"{self.kind} {self.layer}"


ComponentSet = tuple[Component, ...]


def check_kinds(names: Sequence[str]) -> tuple[Kind, ...]:
    """Return kinds of components that were given as text; an unknown one, or none at all, is an OptionError."""
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names:
        what = f"no component kind {unknown[0]!r}" if unknown else "no component kind is given"
        raise OptionError(f"{what}: choose from {', '.join(KINDS)}")
    return cast(tuple[Kind, ...], tuple(dict.fromkeys(names)))


def all_components(layers: int, heads: int, kinds: Sequence[Kind] = KINDS) -> list[Component]:
    """Every component of the given kinds, kind by kind, in execution order."""
    found: list[Component] = []
    for kind in check_kinds(kinds):
        for layer in range(layers):
            found += [Component(kind, layer, i) for i in range(heads)] if kind == "head" else [Component(kind, layer)]
    return found


def check_sets(sets: Sequence[ComponentSet], layers: int, heads: int) -> None:
    """Refuse a set that names a component the model lacks, or an attention layer together with a head of it.

    Raises:
        OptionError: with the component's name.
    """
    known = set(all_components(layers, heads))
    for members in sets:
        for component in members:
            if component not in known:
                raise OptionError(f"the model has no {component}: it has {layers} layers of {heads} heads, from 0")
        if len(set(members)) != len(members):
            raise OptionError("a set of components names one of them twice")
        blocks = {c.layer for c in members if c.kind == "attention"}
        both = [c for c in members if c.kind == "head" and c.layer in blocks]
        if both:
            raise OptionError(f"a set holds both {both[0]} and its whole attention layer: name one of them")
