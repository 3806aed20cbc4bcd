"""Training to an optimum: Newton's method for convex objectives, seeded gradient descent for networks."""

from dataclasses import dataclass

import torch
from pellucid.core.errors import DataError, OptionError
from torch import Tensor

from .descent import Optimizer, Recipe, Schedule, Slopes, TrainingError, descend
from .objective import Objective

__all__ = ["Fit", "Optimizer", "Recipe", "Schedule", "TrainingError", "fit_convex", "fit_network"]

TOLERANCE = 1e-10
"""Gradient norm, a training point, under which a convex optimum counts as reached."""
NETWORK_TOLERANCE = 1e-3
"""Gradient norm, a training point, under which a network counts as converged."""
DENSE = 2000
"""Up to so many parameters a Hessian is held and factored: 32 MB in float64."""


@dataclass(frozen=True)
class Fit:
    """Where training ended.

    Attributes:
        theta: parameters, shape (dim,).
        gradient_norm: Euclidean norm of the (weighted, whole) objective's gradient there.
        iterations: Newton steps or gradient steps taken.
        converged: whether `gradient_norm` is under the tolerance. In the `sum` convention the tolerance is multiplied
            by the number of points, so that it means the same in both.
    """

    theta: Tensor
    gradient_norm: float
    iterations: int
    converged: bool


def fit_convex(
    objective: Objective,
    weights: Tensor | None = None,
    start: Tensor | None = None,
    *,
    factor: Tensor | None = None,
    tolerance: float = TOLERANCE,
    limit: int = 100,
) -> Fit:
    """Minimise a convex objective in float64 by Newton's method with a line search.

    Each step is solved densely up to `DENSE` parameters; with a `factor`, and beyond, by conjugate gradients on
    Hessian-vector products (truncated Newton; L-BFGS's line search stalls above 1e-10, where differences of the
    objective's values are lost to rounding). Where the optimum is not unique (a softmax without l2), a tiny ridge in
    the step keeps the parameters from wandering.

    Args:
        objective: in float64.
        weights: one a training point, (n,); None for ones.
        start: (dim,); None for the objective's own parameters.
        factor: lower Cholesky factor of a Hessian nearby, (dim, dim), to precondition with: many retrainings from one
            optimum share it, and none needs a Hessian of its own.
        tolerance: of the gradient norm, a training point.
        limit: most Newton steps.

    Raises:
        OptionError: the objective is not in float64.
        DataError: the loss is not finite at the start.
    """
    theta = (objective.theta if start is None else start).detach().clone()
    if theta.dtype != torch.float64:
        raise OptionError(f"fit_convex needs float64, the model is in {theta.dtype}: call model.double() first")
    value, gradient = float(objective.value(theta, weights)), objective.gradient(theta, weights)
    best, stalled, steps = theta, 0, 0
    norm = least = float(gradient.norm())
    # Two steps that gain nothing: what is left is rounding, which in the `sum` convention grows with the data.
    while least > tolerance and steps < limit and stalled < 2:
        step = _newton_step(objective, theta, gradient, weights, factor)
        moved, value = _searched(objective, theta, value, step, float(gradient @ step), weights)
        if moved is theta:
            break
        theta = moved
        gradient, steps = objective.gradient(theta, weights), steps + 1
        norm = float(gradient.norm())
        # Far from the optimum a step may lower the value and raise the gradient.
        stalled = stalled + 1 if norm >= 0.5 * least and least <= 1e3 * tolerance * scale_of(objective, weights) else 0
        if norm < least:
            best, least = theta, norm
    return Fit(best, least, steps, least <= tolerance * scale_of(objective, weights))


def fit_network(
    objective: Objective,
    steps: int,
    lr: float,
    batch: int | None = None,
    optimizer: Optimizer = "adam",
    seed: int = 0,
    start: Tensor | None = None,
    weights: Tensor | None = None,
    schedule: Schedule = "constant",
    tolerance: float = NETWORK_TOLERANCE,
) -> Fit:
    """Train by gradient steps; the same arguments give the same parameters to the bit on the same machine.

    A batch has the same rows whatever the weights, so that retrainings without some points see the rest in the same
    order. In the `mean` convention a batch's loss is the mean over its remaining points; a batch of removed points
    alone leaves the regulariser's step.

    Args:
        objective: what to minimise.
        steps: see `Recipe`, here and for lr, batch, optimizer and schedule.
        lr: learning rate.
        batch: points a step, None for all.
        optimizer: `adam`, `sgd` or `gd`.
        seed: of the order of batches (of nothing else: the start is given).
        start: (dim,); None for the objective's own parameters.
        weights: one a training point, (n,); None for ones.
        schedule: of the learning rate.
        tolerance: gradient norm, a training point, for `Fit.converged`.

    Raises:
        OptionError: a number cannot work.
        TrainingError: the loss or gradient is not finite; the message names the step.
    """
    recipe = Recipe(steps, lr, optimizer, batch, schedule)
    begin = (objective.theta if start is None else start).detach()
    if begin.shape != (objective.dim,):
        raise OptionError(f"start has shape {tuple(begin.shape)}: it must be ({objective.dim},)")
    row = torch.ones(objective.n, dtype=objective.dtype, device=objective.device) if weights is None else weights
    slopes = Slopes(objective, row[None], recipe, seed)
    theta = descend(slopes.one, begin, recipe)
    return ended(objective, theta, weights, steps, tolerance)


def ended(objective: Objective, theta: Tensor, weights: Tensor | None, steps: int, tolerance: float) -> Fit:
    """Return the `Fit` of parameters where training ended.

    Raises:
        TrainingError: the loss or its gradient there is not finite.
    """
    try:
        norm = float(objective.gradient(theta, weights).norm())
    except DataError as error:
        raise TrainingError(f"after {steps} steps, {error}") from error
    return Fit(theta.detach(), norm, steps, norm <= tolerance * scale_of(objective, weights))


def scale_of(objective: Objective, weights: Tensor | None) -> float:
    """Return what a tolerance a point is multiplied by: 1 (`mean`), or the weights' sum (`sum`)."""
    if objective.convention == "mean":
        return 1.0
    return max(1.0, float(objective.n if weights is None else weights.sum()))


def _newton_step(
    objective: Objective, theta: Tensor, gradient: Tensor, weights: Tensor | None, factor: Tensor | None
) -> Tensor:
    if factor is not None or objective.dim > DENSE:
        return _conjugate(objective, theta, gradient, weights, factor)
    hessian = objective.hessian(theta, weights)
    ridge = 1e-12 * float(hessian.diagonal().abs().mean()) or 1e-12
    identity = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    while True:
        lower, failed = torch.linalg.cholesky_ex(hessian + ridge * identity)
        if not int(failed):
            return -torch.cholesky_solve(gradient[:, None], lower)[:, 0]
        ridge *= 100


def _conjugate(
    objective: Objective, theta: Tensor, gradient: Tensor, weights: Tensor | None, factor: Tensor | None
) -> Tensor:
    """Solve H step = -gradient to a thousandth by preconditioned conjugate gradients."""

    def prepared(vector: Tensor) -> Tensor:
        return vector if factor is None else torch.cholesky_solve(vector[:, None], factor)[:, 0]

    step, residual = torch.zeros_like(theta), -gradient
    towards = ahead = prepared(residual)
    product = residual @ towards
    enough = 1e-3 * gradient.norm()
    for _ in range(min(2 * len(theta), 1000)):
        bent = objective.hvp(theta, ahead[:, None], weights)[:, 0]
        curvature = ahead @ bent
        if curvature <= 0:  # rounding, or no convex objective: what there is so far goes downhill
            return step if bool(step.any()) else towards
        length = product / curvature
        step, residual = step + length * ahead, residual - length * bent
        if residual.norm() <= enough:
            break
        towards = prepared(residual)
        product, before = residual @ towards, product
        ahead = towards + (product / before) * ahead
    return step


def _searched(
    objective: Objective, theta: Tensor, value: float, step: Tensor, slope: float, weights: Tensor | None
) -> tuple[Tensor, float]:
    """Go along the step by 1, 1/2, 1/4 ... until the value falls enough, as far as rounding lets that be seen."""
    slack = 1e-13 * max(1.0, abs(value))
    length = 1.0
    for _ in range(40):
        moved = theta + length * step
        try:
            found = float(objective.value(moved, weights))
        except DataError:  # the step went so far that the loss overflows
            found = float("inf")
        if found <= value + 1e-4 * length * slope + slack:
            return moved, found
        length /= 2
    return theta, value
