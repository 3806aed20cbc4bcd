"""What removing training points or groups does to the parameters and to test quantities, by influence functions.

A test quantity is given by its gradient in theta, one column each, so that all groups and all quantities share the
same solves. Conventions and signs, for both kinds of L2 (see `objective`), with A = H + damping I at the optimum:

`mean`, where each point carries its share of the regulariser (and of the damping): g_U = sum_U (grad l + l2 theta) and
H_U = sum_U (hess l + (l2 + damping) I). Removal is epsilon = -1 in thesis eq. 3.7, so that the change is
-theta1 + theta2, with eq. 3.12 and 3.15:

    theta1 = -1/(1-p) 1/n A^-1 g_U                theta2 = p/(1-p) (I - A^-1 H_U / |U|) theta1        p = |U|/n

With positive semi-definite Hessians the series that this begins contracts for p < 1/2; above that it may diverge, and
the coefficient 1 - 2p of the first-order direction turns negative: such groups are logged as a warning.

`sum`, where the regulariser (and the damping) stays as it is and g_U, H_U are bare sums. The perturbed objective is
F + epsilon sum_U l; its stationary point is theta + epsilon theta1 + epsilon^2 theta2 + ..., and comparing orders of
grad F + epsilon g_U = 0 as the thesis does for eq. 3.13 and 3.14 (third derivatives dropped) gives

    theta1 = -A^-1 g_U                            theta2 = -A^-1 H_U theta1 = A^-1 H_U A^-1 g_U

and, at epsilon = -1, the change A^-1 g_U + A^-1 H_U A^-1 g_U: the first terms of the Neumann series of one-step Newton,
(A - H_U)^-1 g_U, which converges for every group of a convex model that has l2 or damping.

One-step Newton is the baseline of both: (n A - H_U)^-1 g_U for `mean`, (A - H_U)^-1 g_U for `sum`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.progress import progress
from torch import Tensor

from .expansion import carried, coefficients, group_gradients, group_hvp, newton_steps, warn_of_large_groups
from .objective import Objective
from .solution import Solver, log
from .solvers import resolve


@dataclass(frozen=True)
class PointInfluence:
    """Influence of single training points on test quantities.

    Attributes:
        influence: d quantity / d epsilon as the point is up-weighted (eq. 3.5, 3.21), shape (k, q).
        change: predicted change of the quantity when the point is removed, shape (k, q): -1/n times the influence for
            `mean` (epsilon = -1/n, eq. 3.3), -1 times it for `sum`.
        gradient_norm: see `gradient_norm`.
        residual: the worst relative residual of the solves.
    """

    influence: Tensor
    change: Tensor
    gradient_norm: float
    residual: float


@dataclass(frozen=True)
class ParameterChanges:
    """Predicted changes of the parameters when each group is removed, shape (g, dim) each."""

    first: Tensor
    second: Tensor
    newton: Tensor | None


@dataclass(frozen=True)
class GroupInfluence:
    """Predicted change of each test quantity when each group is removed, shape (g, q) each.

    Attributes:
        first: to first order, -theta1 (eq. 3.12, with its 1/(1-p) for `mean`).
        second: to second order, -theta1 + theta2 (theorem 1, eq. 3.15 and 3.16).
        newton: one Newton step of the objective without the group; None where it was not asked for.
        fraction: p = |U| / n, shape (g,).
        gradient_norm: see `gradient_norm`.
        residual: the worst relative residual of the solves.
        parameters: the changes of theta themselves, where they were asked for.
    """

    first: Tensor
    second: Tensor
    newton: Tensor | None
    fraction: Tensor
    gradient_norm: float
    residual: float
    parameters: ParameterChanges | None = None


def loss_gradients(test: Objective, theta: Tensor, rows: Sequence[int] | None = None) -> Tensor:
    """Return the gradient of each test point's unregularised loss as a column, shape (dim, q).

    Args:
        test: the objective on test points (`objective.with_data(inputs, targets)`).
        theta: shape (dim,).
        rows: which test points; all where not given.
    """
    return test.per_example_gradients(theta, rows).T


def mean_loss_gradient(test: Objective, theta: Tensor) -> Tensor:
    """Return the gradient of the mean unregularised loss over the test points, shape (dim, 1)."""
    return test.summed_gradient(theta, theta.new_full((test.n, 1), 1 / test.n))


def quantity_gradient(
    objective: Objective, theta: Tensor, fn: Callable[[Callable[[Tensor], Tensor]], Tensor]
) -> Tensor:
    """Return the gradient of any function of the model's outputs as a column, shape (dim, 1).

    Args:
        objective: whose model and parameters are meant.
        theta: shape (dim,).
        fn: fn(forward) -> a scalar, where forward(inputs) runs the model at theta; for a margin, say,
            `lambda forward: forward(x)[0, 3] - forward(x)[0, 5]`.

    Raises:
        OptionError: if fn does not give a scalar.
        DataError: if its gradient is not finite.
    """

    def value(t: Tensor) -> Tensor:
        out = fn(lambda inputs: objective.forward(t, inputs))
        if out.ndim != 0:
            raise OptionError(f"the quantity has shape {tuple(out.shape)}: it must be one number")
        return out

    gradient = torch.func.grad(value)(theta.detach())
    if not bool(torch.isfinite(gradient).all()):
        raise DataError("the quantity's gradient is not finite: check the function at theta")
    return gradient[:, None]


def gradient_norm(objective: Objective, theta: Tensor, tolerance: float | None = 1e-4) -> float:
    """Return |grad F| at theta (over n for `sum`, so that both conventions are on the scale of one example).

    Influence functions expand around an optimum. A norm above the tolerance is logged as a warning; None says nothing.
    """
    norm = float(objective.gradient(theta).norm()) / (objective.n if objective.convention == "sum" else 1)
    if tolerance is not None and norm > tolerance:
        log.warning(
            "the model has not converged: the gradient norm is %.2g (over %.0e); influence functions expand around an "
            "optimum, so train on, or read the estimates as rough",
            norm,
            tolerance,
        )
    return norm


def point_influence(
    objective: Objective,
    theta: Tensor,
    quantities: Tensor,
    *,
    rows: Sequence[int] | None = None,
    solver: str | Solver = "auto",
    damping: float = 0.0,
    chunk: int = 4096,
    tolerance: float | None = 1e-4,
) -> PointInfluence:
    """Return the influence of single training points on test quantities (thesis eq. 3.5 and 3.21).

    influence[i, j] = -quantity_j' A^-1 g_i, where g_i is the point's loss gradient (plus l2 theta for `mean`). Only the
    quantities are solved for: the points cost one gradient each.

    Args:
        objective: the empirical risk on the training data.
        theta: the optimum, shape (dim,).
        quantities: gradients of the test quantities, shape (dim, q).
        rows: which training points; all where not given.
        solver: "auto", "exact", "cg", "lissa" or a prepared function (see `solvers`).
        damping: added to the Hessian's diagonal.
        chunk: points whose gradients are held at once.
        tolerance: see `gradient_norm`.

    Raises:
        OptionError: for rows or quantities that do not fit.
        DataError: for a loss, gradient or product that is not finite.
        SolveError: if the damped Hessian is not positive definite.
    """
    index = torch.arange(objective.n) if rows is None else torch.as_tensor(list(rows))
    as_rows(index, objective.n, "rows")
    _check(objective, quantities, chunk)
    norm = gradient_norm(objective, theta, tolerance)
    solved = resolve(solver, objective)(objective, theta, damping=damping)(quantities)
    share = carried(objective, objective.l2) * (theta @ solved.x)
    parts = [objective.per_example_gradients(theta, part) @ solved.x for part in index.split(chunk)]
    influence = -(torch.cat(parts) + share)
    weight = objective.n if objective.convention == "mean" else 1
    return PointInfluence(influence, -influence / weight, norm, float(solved.residual.max()))


def parameter_influence(
    objective: Objective,
    theta: Tensor,
    rows: Sequence[int],
    *,
    solver: str | Solver = "auto",
    damping: float = 0.0,
) -> Tensor:
    """Return d theta / d epsilon as each point is up-weighted, -A^-1 g_i (eq. 3.4 and 3.20), shape (k, dim).

    Removing the point changes theta by -1/n times this (`mean`) or by -1 times it (`sum`), to first order.
    """
    as_rows(rows, objective.n, "rows")
    gradients = objective.per_example_gradients(theta, rows) + carried(objective, objective.l2) * theta
    return -resolve(solver, objective)(objective, theta, damping=damping)(gradients.T).x.T


def group_influence(
    objective: Objective,
    theta: Tensor,
    groups: Sequence[Sequence[int]],
    quantities: Tensor,
    *,
    solver: str | Solver = "auto",
    damping: float = 0.0,
    newton: bool = True,
    parameters: bool = False,
    chunk: int = 64,
    tolerance: float | None = 1e-4,
) -> GroupInfluence:
    """Return the predicted change of every test quantity on the removal of every group (the module's formulas).

    The quantities are solved for once, groups `chunk` at a time: memory does not grow with the number of groups
    (unless `parameters` are kept), and results depend on neither chunk nor order, beyond rounding.

    Args:
        objective: the empirical risk on the training data.
        theta: the optimum, shape (dim,).
        groups: each a set of training rows; they may overlap.
        quantities: gradients of the test quantities, shape (dim, q).
        solver: "auto", "exact", "cg", "lissa" or a prepared function (see `solvers`).
        damping: added to the Hessian's diagonal, and carried as l2 is.
        newton: also take one-step Newton, whose cost is a solve of its own for every group.
        parameters: keep the changes of theta themselves, shape (g, dim) each.
        chunk: groups solved for at once.
        tolerance: see `gradient_norm`.

    Raises:
        OptionError: for an empty group, duplicate or unknown rows, a group that leaves no data, or quantities that do
            not fit.
        DataError: for a loss, gradient or product that is not finite.
        SolveError: if the damped Hessian, or for Newton that without a group, is not positive definite.
    """
    members = [as_rows(group, objective.n, f"group {i}") for i, group in enumerate(groups)]
    if not members:
        raise OptionError("there are no groups: give at least one")
    for i, group in enumerate(members):
        if len(group) == objective.n:
            raise OptionError(f"group {i} is all of the {objective.n} examples: removing it leaves none to train on")
    _check(objective, quantities, chunk)
    sizes = torch.tensor([len(group) for group in members], dtype=torch.float64)
    warn_of_large_groups(objective, sizes / objective.n)
    norm = gradient_norm(objective, theta, tolerance)
    inverse = resolve(solver, objective)(objective, theta, damping=damping)
    steps = newton_steps(objective, theta, damping) if newton else None
    solved = inverse(quantities)
    residual = float(solved.residual.max())
    effects: list[list[Tensor]] = []
    changes: list[list[Tensor]] = []
    with progress("group influence", len(members)) as advance:
        for start in range(0, len(members), chunk):
            part = members[start : start + chunk]
            a, b, c = (k.to(theta) for k in coefficients(objective, sizes[start : start + chunk]))
            g = group_gradients(objective, theta, part)
            solution = inverse(g)
            h = group_hvp(objective, theta, part, solution.x, damping)
            # A^-1 is symmetric: the second solve of eq. 3.15 is the one already made for the quantities.
            effects.append([a * (solved.x.T @ g), b * (solved.x.T @ g) + c * (solved.x.T @ h)])
            residual = max(residual, float(solution.residual.max()))
            if parameters:
                again = inverse(h)
                residual = max(residual, float(again.residual.max()))
                changes.append([a * solution.x, b * solution.x + c * again.x])
            if steps is not None:
                moved = steps(part, g)
                effects[-1].append(quantities.to(moved).T @ moved)
                if parameters:
                    changes[-1].append(moved)
            advance(len(part))
    results = [torch.cat(parts, dim=1).T for parts in zip(*effects, strict=True)]
    vectors = [torch.cat(parts, dim=1).T for parts in zip(*changes, strict=True)]
    return GroupInfluence(
        first=results[0],
        second=results[1],
        newton=results[2] if newton else None,
        fraction=sizes / objective.n,
        gradient_norm=norm,
        residual=residual,
        parameters=ParameterChanges(vectors[0], vectors[1], vectors[2] if newton else None) if parameters else None,
    )


def moved_losses(test: Objective, theta: Tensor, changes: Tensor) -> Tensor:
    """Return how much each test point's loss changes when theta moves by each predicted change, shape (g, q).

    Where a removal moves a test loss far, most of the error of eq. 3.16 is that the loss is taken to be linear in
    theta. This evaluates the loss itself at theta + change instead; the change stays an estimate.

    Args:
        test: the objective on test points.
        theta: the optimum, shape (dim,).
        changes: shape (g, dim), such as `GroupInfluence.parameters.second`.
    """
    before = test.losses(theta)
    return torch.stack([test.losses(theta + change) - before for change in changes])


def as_rows(indices: Sequence[int] | Tensor, n: int, name: str) -> Tensor:
    """Return distinct row numbers as a sorted tensor, or raise an OptionError that calls them `name`."""
    rows = torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices)).cpu()
    if not len(rows):
        raise OptionError(f"{name} is empty: give at least one training row")
    if rows.ndim != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise OptionError(f"{name} is not a list of whole numbers (it is {rows.dtype} of shape {tuple(rows.shape)})")
    rows = rows.to(torch.long).sort().values
    if int(rows[0]) < 0 or int(rows[-1]) >= n:
        wrong = int(rows[0]) if int(rows[0]) < 0 else int(rows[-1])
        raise OptionError(f"{name} names row {wrong}: there are {n} examples, numbered from 0 to {n - 1}")
    twice = rows[1:][rows[1:] == rows[:-1]]
    if len(twice):
        raise OptionError(f"{name} names row {int(twice[0])} twice: name each row once")
    return rows


def _check(objective: Objective, quantities: Tensor, chunk: int) -> None:
    if quantities.ndim != 2 or len(quantities) != objective.dim or not quantities.shape[1]:
        raise OptionError(
            f"quantities have shape {tuple(quantities.shape)}: give the gradients of the test quantities as columns of "
            f"{objective.dim} numbers"
        )
    if chunk < 1:
        raise OptionError(f"chunk is {chunk}: it must be 1 or more")
