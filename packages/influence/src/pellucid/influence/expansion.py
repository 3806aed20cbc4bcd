"""The terms that group influence is made of: g_U, H_U v, the expansion's coefficients, and one-step Newton.

"Carried" means with the shares of regulariser and damping that the points of U take with them: all of it for the
convention `mean`, none for `sum` (see `scores`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .objective import Objective
from .solution import log
from .solvers import block_cg, cholesky

_ALONE = 64
"""Groups larger than this are summed one by one: a batch would pay for all rows of the union in every column."""

_DENSE_NEWTON = 200
"""Up to this many parameters a dense Hessian without the group costs less than conjugate gradients."""


def coefficients(objective: Objective, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (a, b, c) for which the change is a A^-1 g_U, or to second order b A^-1 g_U + c A^-1 H_U A^-1 g_U.

    From thesis eq. 3.12 and 3.15 with epsilon = -1 (`mean`): a = 1 / ((1-p) n), b = a (1-2p) / (1-p) and
    c = a / ((1-p) n). For `sum` all three are 1.

    Args:
        objective: whose convention and size count.
        sizes: sizes of the groups, shape (g,).
    """
    sizes = sizes.to(torch.float64)
    if objective.convention == "sum":
        ones = torch.ones_like(sizes)
        return ones, ones, ones
    rest = 1 - sizes / objective.n
    first = 1 / (rest * objective.n)
    return first, first * (2 * rest - 1) / rest, first / (rest * objective.n)


def carried(objective: Objective, strength: float) -> float:
    """Return how much of a regulariser's strength each removed point takes with it."""
    return strength if objective.convention == "mean" else 0.0


def group_gradients(objective: Objective, theta: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Return each group's summed and carried gradient g_U, shape (dim, g)."""
    sizes = _sizes(objective, groups)
    if float(sizes.mean()) > _ALONE:
        columns = [objective.summed_gradient(theta, sizes.new_ones(len(rows), 1), rows) for rows in groups]
        sums = torch.cat(columns, dim=1)
    else:
        rows, weights = _union(objective, groups)
        sums = objective.summed_gradient(theta, weights, rows)
    return sums + carried(objective, objective.l2) * sizes * theta[:, None]


def group_hvp(objective: Objective, theta: Tensor, groups: Sequence[Tensor], vectors: Tensor, damping: float) -> Tensor:
    """Return H_U v with each group's own summed and carried Hessian and its own vector, (dim, g) to (dim, g)."""
    sizes = _sizes(objective, groups)
    if float(sizes.mean()) > _ALONE:
        columns = [objective.summed_hvp(theta, vectors[:, [i]], rows=rows) for i, rows in enumerate(groups)]
        sums = torch.cat(columns, dim=1)
    else:
        rows, weights = _union(objective, groups)
        sums = objective.summed_hvp(theta, vectors, weights, rows)
    return sums + carried(objective, objective.l2 + damping) * sizes * vectors


def newton_steps(objective: Objective, theta: Tensor, damping: float) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
    """Prepare one-step Newton: (groups, their g_U (dim, g)) -> the parameters' changes on removal, (dim, g).

    The change is (n A - H_U)^-1 g_U for `mean` and (A - H_U)^-1 g_U for `sum`: by a dense Hessian for few parameters,
    otherwise by conjugate gradients, all groups at once. SolveError where the Hessian without a group is not positive
    definite.
    """
    divide = objective.convention == "mean"

    def left(rows: Tensor) -> int:
        return objective.n - len(rows) if divide else 1

    def iterative(groups: Sequence[Tensor], gradients: Tensor) -> Tensor:
        weights = theta.new_ones(objective.n, len(groups))
        for i, rows in enumerate(groups):
            weights[rows.to(weights.device), i] = 0

        def apply(vectors: Tensor, columns: Tensor) -> Tensor:
            product = objective.hvp(theta, vectors.to(objective.dtype), weights[:, columns])
            return product.double() + damping * vectors

        noise = torch.finfo(objective.dtype).eps
        steps = block_cg(apply, gradients, dim=objective.dim, tolerance=noise**0.5, iterations=1000, noise=noise).x
        return steps / torch.tensor([left(rows) for rows in groups]).to(steps)

    if objective.dim > _DENSE_NEWTON:
        return iterative
    eye = torch.eye(objective.dim, dtype=objective.dtype, device=objective.device)
    whole = objective.summed_hvp(theta, eye).double()

    def dense(groups: Sequence[Tensor], gradients: Tensor) -> Tensor:
        steps = torch.empty_like(gradients)
        for i, rows in enumerate(groups):
            matrix = whole - objective.summed_hvp(theta, eye, rows=rows).double()
            matrix = (matrix + matrix.T) / 2
            matrix.diagonal().add_((objective.l2 + damping) * left(rows))
            steps[:, i] = torch.cholesky_solve(gradients[:, [i]].double(), cholesky(matrix))[:, 0].to(steps)
        return steps

    return dense


def warn_of_large_groups(objective: Objective, fractions: Tensor) -> None:
    """Log a warning where groups hold more than half of the data and the regulariser is renormalised with it."""
    over = int((fractions > 0.5).sum())
    if over and objective.convention == "mean":
        log.warning(
            "%d of %d groups hold more than half of the data: their second-order estimates may be worse than the "
            "first-order ones (the expansion is sure to contract for p < 1/2 only); look at the Newton estimates, or "
            "retrain",
            over,
            len(fractions),
        )


def _sizes(objective: Objective, groups: Sequence[Tensor]) -> Tensor:
    return torch.tensor([len(rows) for rows in groups], dtype=objective.dtype, device=objective.device)


def _union(objective: Objective, groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the rows in any group, shape (r,), and who holds them, shape (r, g)."""
    rows = torch.unique(torch.cat(list(groups)))
    weights = torch.zeros(len(rows), len(groups), dtype=objective.dtype)
    for i, members in enumerate(groups):
        weights[torch.searchsorted(rows, members), i] = 1
    return rows, weights.to(objective.device)
