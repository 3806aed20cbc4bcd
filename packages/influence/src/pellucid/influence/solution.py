"""What every inverse-Hessian solver takes and gives: one form, one residual, one way to say what went wrong."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from pellucid.core.errors import DataError, OptionError, PellucidError
from torch import Tensor

from .objective import Objective

log = logging.getLogger("pellucid.influence")


class SolveError(PellucidError):
    """A linear system has no solution that means anything: its matrix is not positive definite."""


@dataclass(frozen=True)
class Solution:
    """Solutions of (H + damping I) x = b for k right-hand sides.

    Attributes:
        x: shape (dim, k), in the dtype of the right-hand sides.
        residual: |b - (H + damping I) x| / |b| with the true operator, shape (k,); 0 for b = 0.
        iterations: Hessian-vector products taken one after another (0 for a factorisation).
        converged: whether the residual is within the tolerance, shape (k,).
    """

    x: Tensor
    residual: Tensor
    iterations: int
    converged: Tensor


Inverse = Callable[[Tensor], Solution]
"""A prepared solver: right-hand sides (dim, k) -> Solution."""


class Solver(Protocol):
    """What prepares an inverse for one objective at one theta; bind further options with `functools.partial`."""

    def __call__(self, objective: Objective, theta: Tensor, *, damping: float = 0.0) -> Inverse:
        """Return the inverse of the objective's Hessian at theta plus damping."""


def check_options(damping: float, tolerance: float, iterations: int = 1) -> None:
    """Raise an OptionError for a damping, tolerance or number of steps that cannot work."""
    if not 0 <= damping < float("inf"):
        raise OptionError(f"damping is {damping}: it must be a finite number, 0 or more")
    if not 0 < tolerance < 1:
        raise OptionError(f"tolerance is {tolerance}: it must lie between 0 and 1, such as 1e-8")
    if iterations < 1:
        raise OptionError(f"the number of steps or iterations is {iterations}: it must be 1 or more")


def right_hand_sides(vectors: Tensor, dim: int) -> Tensor:
    """Return right-hand sides (dim, k) in float64, or raise what is wrong with them."""
    if vectors.ndim != 2 or len(vectors) != dim:
        raise OptionError(f"right-hand sides have shape {tuple(vectors.shape)}: they must be columns of {dim} numbers")
    if not bool(torch.isfinite(vectors).all()):
        raise DataError("a right-hand side is not finite: check the losses and gradients it comes from")
    return vectors.detach().double()


def finite(product: Tensor) -> Tensor:
    """Return a product unless a number in it is not finite, which is a DataError."""
    if not bool(torch.isfinite(product).all()):
        raise DataError("a Hessian-vector product is not finite: check the model's weights and the losses at theta")
    return product


def not_definite(curvature: float) -> None:
    """Raise a SolveError that names the curvature met and the damping that would do."""
    raise SolveError(
        f"the Hessian is not positive definite: a direction of curvature {curvature:.3g} was met; raise the damping "
        f"by more than {abs(curvature):.3g}, or train with l2"
    )


def judged(
    x: Tensor, product: Tensor, right: Tensor, vectors: Tensor, iterations: int, tolerance: float, advice: str
) -> Solution:
    """Judge a solution by its true residual; what has not converged is logged with what to change."""
    scale = right.norm(dim=0)
    residual = (finite(product) - right).norm(dim=0) / torch.where(scale > 0, scale, 1)
    converged = residual <= tolerance
    if not bool(converged.all()):
        log.warning(
            "%d of %d inverse-Hessian products did not converge (worst relative residual %.2g, tolerance %.2g): %s",
            int((~converged).sum()),
            len(converged),
            float(residual.max()),
            tolerance,
            advice,
        )
    return Solution(x.to(vectors.dtype), residual, iterations, converged)
