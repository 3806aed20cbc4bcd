"""The parts of a vision transformer that write into its representation."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["head", "mlp", "conv", "embedding", "bias", "init"]
LAYERED: tuple[Kind, ...] = ("head", "mlp", "conv")


@dataclass(frozen=True)
class Component:
    """One part.

    Attributes:
        name: its module, and its head where it is one: `blocks.11.attn.head3`, `blocks.11.mlp`; or `embedding`
            (what patches and tokens bring without any layer), `bias` (all constants) or `init` (the rest: layers not
            asked for).
        kind: `head`, `mlp`, `conv`, `embedding`, `bias` or `init`.
        layer: attention, MLP and convolution layers counted apart in the order of execution, from 0; -1 for no layer.
        head: which head of its layer; None where it is none.
    """

    name: str
    kind: Kind
    layer: int = -1
    head: int | None = None


_INPUT = re.compile(r"(^|\.)(patch_embed\w*|stem|\w*embeddings?|conv1|conv_stem|ln_pre|norm_pre|pos_drop)(\.|$)")


def module_of(path: str, kind: Kind) -> str:
    """The module that a component is named after: a convolution block's as a whole, else without its activation."""
    if kind == "conv":
        parts = path.split(".")
        last = max((place for place, part in enumerate(parts) if part.isdigit()), default=len(parts) - 1)
        return ".".join(parts[: last + 2])
    return path


def is_input(path: str) -> bool:
    """Whether a module belongs to the embedding of the patches."""
    return _INPUT.search(path) is not None
