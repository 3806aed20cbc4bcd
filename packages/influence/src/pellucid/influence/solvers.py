"""Inverse-Hessian products (H + damping I)^-1 v over the whole data set, each with its residual.

Three ways, all of one form: `solver(objective, theta, damping=...)` prepares what does not depend on the right-hand
sides and returns a function from vectors (dim, k) to a `Solution`.

- `exact`: the dense Hessian and a float64 Cholesky factor, for some thousands of parameters.
- `conjugate_gradient`: many right-hand sides at once, one batched Hessian-vector product an iteration.
- `lissa`: the thesis's stochastic estimation (section 3.4 and Koh and Liang, 2017), for large networks.

The residual is always measured with the true operator, whatever the solver saw: |b - (H + damping I) x| / |b|.
"""

from collections.abc import Callable
from functools import partial

import torch
from pellucid.core.errors import OptionError
from torch import Tensor

from .objective import Objective
from .solution import Inverse as Inverse
from .solution import Solution as Solution
from .solution import SolveError as SolveError
from .solution import Solver as Solver
from .solution import check_options, finite, judged, not_definite, right_hand_sides
from .stochastic import lissa as lissa
from .stochastic import top_eigenvalue as top_eigenvalue

EXACT_UP_TO = 2000
"""`auto` forms the dense Hessian up to this many parameters."""

_DENSE_LIMIT = 20_000
"""Above this a dense float64 Hessian takes more than 3 GB."""


def resolve(solver: str | Solver, objective: Objective) -> Solver:
    """Return the solver of a name: "exact", "cg", "lissa", or "auto" (exact for up to 2000 parameters, else cg)."""
    if not isinstance(solver, str):
        return solver
    if solver == "auto":
        return exact if objective.dim <= EXACT_UP_TO else conjugate_gradient
    named: dict[str, Solver] = {"exact": exact, "cg": conjugate_gradient, "lissa": lissa}
    if solver not in named:
        raise OptionError(f"there is no solver {solver!r}: choose auto, {', '.join(named)}, or pass a function")
    return named[solver]


def exact(objective: Objective, theta: Tensor, *, damping: float = 0.0, tolerance: float = 1e-6) -> Inverse:
    """Prepare products with the inverse by a dense Hessian and its Cholesky factor in float64.

    Args:
        objective: up to 20,000 parameters.
        theta: shape (dim,).
        damping: added to the Hessian's diagonal, 0 or more.
        tolerance: residual above which a column counts as not converged (a Hessian too ill-conditioned for float64).

    Raises:
        OptionError: for too many parameters, or a negative damping.
        SolveError: if the damped Hessian is not positive definite, with its smallest eigenvalue.
    """
    check_options(damping, tolerance)
    if objective.dim > _DENSE_LIMIT:
        raise OptionError(
            f"{objective.dim} parameters are too many for a dense Hessian (at most {_DENSE_LIMIT}): use solver 'cg', "
            "or select fewer parameters"
        )
    hessian = objective.hessian(theta).double()
    hessian.diagonal().add_(damping)
    factor = cholesky(hessian)

    def solve(vectors: Tensor) -> Solution:
        right = right_hand_sides(vectors, objective.dim)
        x = torch.cholesky_solve(right, factor)
        return judged(x, hessian @ x, right, vectors, 0, tolerance, "raise the damping")

    return solve


def cholesky(matrix: Tensor) -> Tensor:
    """Return the Cholesky factor of a symmetric matrix (dim, dim); a SolveError names its smallest eigenvalue."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        smallest = float(torch.linalg.eigvalsh(matrix)[0])
        raise SolveError(
            f"the Hessian is not positive definite: its smallest eigenvalue is {smallest:.3g}; raise the damping by "
            f"more than {abs(smallest):.3g}, or train with l2"
        )
    return factor


def conjugate_gradient(
    objective: Objective,
    theta: Tensor,
    *,
    damping: float = 0.0,
    tolerance: float | None = None,
    iterations: int = 1000,
) -> Inverse:
    """Prepare products with the inverse by conjugate gradients, for many right-hand sides at once.

    All columns share one batched Hessian-vector product over the whole data set an iteration; each stops for itself,
    so that a column's solution does not depend on its company. Vectors are kept in float64 and multiplied in the
    model's dtype; where rounding has let the recurrence drift from the true residual, it starts again from there.

    Args:
        objective: any size.
        theta: shape (dim,).
        damping: added to the Hessian's diagonal, 0 or more.
        tolerance: relative residual at which a column stops; by default the root of the dtype's rounding (1.5e-8 in
            float64, 3.5e-4 in float32), about what its products allow.
        iterations: how many at most.

    Raises:
        SolveError: (from the product) on meeting a direction without positive curvature.
    """
    noise = torch.finfo(objective.dtype).eps
    tolerance = cg_tolerance(objective.dtype) if tolerance is None else tolerance
    check_options(damping, tolerance, iterations)

    def apply(vectors: Tensor, columns: Tensor) -> Tensor:
        return objective.hvp(theta, vectors.to(objective.dtype)).double() + damping * vectors

    return partial(block_cg, apply, dim=objective.dim, tolerance=tolerance, iterations=iterations, noise=noise)


def cg_tolerance(dtype: torch.dtype) -> float:
    """Return the relative residual at which conjugate gradients stop by default: the root of the dtype's rounding."""
    return torch.finfo(dtype).eps ** 0.5


def block_cg(
    apply: Callable[[Tensor, Tensor], Tensor],
    vectors: Tensor,
    *,
    dim: int,
    tolerance: float,
    iterations: int,
    noise: float,
) -> Solution:
    """Solve A_j x_j = b_j for many columns j at once by conjugate gradients; A_j may differ from column to column.

    Args:
        apply: apply(vectors (dim, a), columns (a,)) -> A_j v_j for the columns named.
        vectors: right-hand sides, shape (dim, k).
        dim: number of rows to expect.
        tolerance: relative residual at which a column stops.
        iterations: how many at most, restarts included.
        noise: relative rounding of `apply`; curvature below some of it is none.

    Raises:
        SolveError: if some A_j is not positive definite in a direction met, with the curvature there.
        DataError: if a product is not finite.
    """
    right = right_hand_sides(vectors, dim)
    scale = right.norm(dim=0)
    x, product = torch.zeros_like(right), torch.zeros_like(right)
    residual = right.clone()
    largest, flattest, done = 0.0, float("inf"), 0
    active = (scale > 0).nonzero()[:, 0]
    while len(active) and done < iterations:
        before = residual[:, active].norm(dim=0)
        live = active
        r = residual[:, live]
        p, rr = r.clone(), r.square().sum(dim=0)
        while len(live) and done < iterations:
            done += 1
            ap = finite(apply(p, live))
            curve, size = (p * ap).sum(dim=0), p.square().sum(dim=0)
            along = curve / size
            largest = max(largest, float(along.max()))
            flattest = min(flattest, float(along.min()))
            if float(along.min()) < -10 * noise * largest or largest <= 0:
                not_definite(float(along.min()))
            # A direction that is flat to rounding: that column stops here, and its true residual is judged below.
            sound = along > 10 * noise * largest
            step = torch.where(sound, rr / torch.where(sound, curve, 1), 0)
            x[:, live] += step * p
            r = r - step * ap
            fresh = r.square().sum(dim=0)
            p = r + fresh / rr * p
            keep = sound & (fresh.sqrt() > tolerance / 2 * scale[live]) & (fresh > 0)
            live, r, p, rr = live[keep], r[:, keep], p[:, keep], fresh[keep]
        product[:, active] = finite(apply(x[:, active], active))
        residual[:, active] = right[:, active] - product[:, active]
        after = residual[:, active].norm(dim=0)
        # Go on from the true residual while that helps: past the attainable accuracy it does not.
        active = active[(after > tolerance * scale[active]) & (after < before / 2)]
    if flattest <= 10 * noise * largest and bool((residual.norm(dim=0) > tolerance * scale).any()):
        not_definite(flattest)
    advice = "raise `iterations` or the damping, or loosen `tolerance`; a float64 model reaches further"
    return judged(x, product, right, vectors, done, tolerance, advice)
