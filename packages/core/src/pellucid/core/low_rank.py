"""The closed form behind every edit: the smallest change of a linear map that sends some inputs to new outputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import DataError, OptionError


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """A change of one linear module, kept as the problem that it solves.

    With keys k_i, wanted outputs v_i (bias taken off) and the base weight W0 of shape `(out, in)`, the new weight
    minimises `sum_i |W k_i - v_i|^2 + ridge |W - W0|^2`, and is exactly `W0 + R' (ridge I + K K')^-1 K`, where the
    rows of K are the keys and those of R the residuals `v_i - W0 k_i` (thesis eq. 5.8 and 5.9 for DiffQuickFix,
    section 5.9.1 for LocoEdit, eq. 6.5 for MultEdit). Keys and residuals are kept because updates that share keys
    cannot be added: see `joined`.

    Attributes:
        module: dotted name of the module; for a pipeline it starts with the component, such as `unet.`.
        keys: `(n, in)` inputs of the module, float64.
        residuals: `(n, out)` wanted minus present output for each key, float64.
        ridge: what a change of the weight costs, above 0.

    Raises:
        OptionError: the ridge is not above 0.
        DataError: keys and residuals do not go together, there are none, or some are not finite.
    """

    module: str
    keys: Tensor
    residuals: Tensor
    ridge: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ridge) and self.ridge > 0):
            raise OptionError(f"the ridge of {self.module} is {self.ridge}: give a number above 0")
        for name in ("keys", "residuals"):
            rows = getattr(self, name).detach().to(device="cpu", dtype=torch.float64).contiguous()
            object.__setattr__(self, name, rows)
            if rows.ndim != 2 or rows.numel() == 0:
                raise DataError(f"the {name} of {self.module} have shape {tuple(rows.shape)}: give one row a key")
            if not torch.isfinite(rows).all():
                raise DataError(f"the {name} of {self.module} are not all finite: look for NaN in the activations")
        if len(self.keys) != len(self.residuals):
            raise DataError(
                f"{self.module} has {len(self.keys)} keys and {len(self.residuals)} residuals: give one for each"
            )

    @property
    def down(self) -> Tensor:
        """`(rank, in)`, float64; the rank is the number of keys, or the smaller side of the weight if that is less."""
        return self._factors[0]

    @property
    def up(self) -> Tensor:
        """`(out, rank)`, float64; the change of the weight is `up @ down`."""
        return self._factors[1]

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        keys, residuals = self.keys, self.residuals
        gram = keys @ keys.T
        gram.diagonal().add_(self.ridge)
        lower, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise OptionError(
                f"the {len(keys)} keys of {self.module} depend on each other too closely for ridge {self.ridge}: "
                "raise the ridge"
            )
        # The inverse is split evenly over both factors, so that neither overflows in half precision.
        down = torch.linalg.solve_triangular(lower, keys, upper=False)
        up = torch.linalg.solve_triangular(lower, residuals, upper=False).T
        inputs, outputs = down.shape[1], up.shape[0]
        if len(keys) <= min(inputs, outputs):
            return down, up.contiguous()
        if inputs <= outputs:
            return torch.eye(inputs, dtype=torch.float64), up @ down
        return up @ down, torch.eye(outputs, dtype=torch.float64)

    def same(self, other: "LowRankUpdate") -> bool:
        """Tell whether the other update is the same to the bit."""
        return (
            (self.module, self.ridge) == (other.module, other.ridge)
            and torch.equal(self.keys, other.keys)
            and torch.equal(self.residuals, other.residuals)
        )

    def without(self, other: "LowRankUpdate") -> "LowRankUpdate | None":
        """Return the update solved without the other's keys, or None if no key is left.

        Raises:
            OptionError: the other update has another ridge, or a key and residual that are not among these.
        """
        _check_together(self, other)
        ours = torch.cat([self.keys, self.residuals], dim=1)
        left = list(range(len(ours)))
        for row in torch.cat([other.keys, other.residuals], dim=1):
            # The last one first: `(a + b).without(b)` then keeps a's rows and their order.
            found = next((i for i in reversed(left) if torch.equal(ours[i], row)), None)
            if found is None:
                raise OptionError(f"at {self.module} the edit to take out is not part of this one")
            left.remove(found)
        return LowRankUpdate(self.module, self.keys[left], self.residuals[left], self.ridge) if left else None


def joined(updates: Sequence[LowRankUpdate]) -> LowRankUpdate:
    """Solve several updates of one module as one: all keys, one residual each, over the same base weight.

    Adding the updates' matrices instead counts what their keys have in common twice: with six of eight keys shared
    the outputs are far from those wanted.

    Raises:
        OptionError: the updates are of different modules, sizes or ridges.
    """
    first, *others = updates
    if not others:
        return first
    for other in others:
        _check_together(first, other)
    keys, residuals = (torch.cat([getattr(u, name) for u in updates]) for name in ("keys", "residuals"))
    return LowRankUpdate(first.module, keys, residuals, first.ridge)


def _check_together(a: LowRankUpdate, b: LowRankUpdate) -> None:
    if a.module != b.module:
        raise OptionError(f"updates of two modules, {a.module} and {b.module}, cannot be solved as one")
    if a.ridge != b.ridge:
        raise OptionError(f"two edits of {a.module} have ridges {a.ridge} and {b.ridge}: solve both with one")
    if (a.keys.shape[1], a.residuals.shape[1]) != (b.keys.shape[1], b.residuals.shape[1]):
        raise OptionError(f"two edits of {a.module} are made for weights of different shapes: use one base model")
