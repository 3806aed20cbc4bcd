"""Training to an optimum: Newton's method for convex objectives, seeded gradient descent for networks.

The arithmetic of a gradient step (`descend`) works on one parameter vector and on a stack of them alike, so that
`stacked` trains many models with the very same updates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Literal

import torch
from torch import Tensor

from pellucid.core.errors import OptionError, PellucidError

from .objective import Objective

Optimizer = Literal["adam", "sgd", "gd"]
Schedule = Literal["constant", "cosine"]

TOLERANCE = 1e-10
"""Gradient norm, a training point, under which a convex optimum counts as reached."""
NETWORK_TOLERANCE = 1e-3
"""Gradient norm, a training point, under which a network counts as converged."""
DENSE = 2000
"""Up to so many parameters a Hessian is held and factored: 32 MB in float64."""

_MOMENTUM, _BETAS, _EPSILON = 0.9, (0.9, 0.999), 1e-8


class TrainingError(PellucidError):
    """Training cannot go on: the loss or its gradient is not a finite number."""


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


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; every number of it enters the key of a retraining in the ledger.

    Attributes:
        steps: gradient steps.
        lr: learning rate.
        optimizer: `gd` is plain gradient descent; `sgd` has momentum 0.9; `adam` is Kingma and Ba's with their
            constants. Weight decay is the objective's l2, never the optimizer's.
        batch: points a step, drawn without replacement in each epoch; None for all of them (thesis 3.10.1).
        schedule: `cosine` takes the learning rate down to 0 over the steps, which leaves a smaller gradient.
    """

    steps: int
    lr: float
    optimizer: Optimizer = "adam"
    batch: int | None = None
    schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.lr < float("inf") or (self.batch is not None and self.batch < 1):
            raise OptionError(
                f"steps={self.steps}, lr={self.lr}, batch={self.batch}: give at least one step, a learning rate above "
                "0, and a batch of at least 1 (or None for all points)"
            )
        if self.optimizer not in ("adam", "sgd", "gd"):
            raise OptionError(f"there is no optimizer {self.optimizer!r}: choose adam, sgd or gd")
        if self.schedule not in ("constant", "cosine"):
            raise OptionError(f"there is no schedule {self.schedule!r}: choose constant or cosine")

    def share(self, part: float) -> "Recipe":
        """Return the same recipe for a part of its steps: thesis 3.10 retrains for 12.5% (Iris), 6% (CNNs), 5%."""
        if not 0 < part <= 1:
            raise OptionError(f"a share of {part} of the training steps: give a number above 0 and up to 1")
        return replace(self, steps=max(1, round(part * self.steps)))


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
        TrainingError: the loss is not finite.
    """
    theta = (objective.theta if start is None else start).detach().clone()
    if theta.dtype != torch.float64:
        raise OptionError(f"fit_convex needs float64, the model is in {theta.dtype}: call model.double() first")
    goal = tolerance * _scale(objective, weights)
    value, gradient = _value(objective, theta, weights), objective.gradient(theta, weights)
    best, stalled, steps = theta, 0, 0
    norm = least = float(gradient.norm())
    while norm > 0 and steps < limit and stalled < 3:
        if norm <= goal and stalled:  # one step more than needed is nearly free and gains several digits
            break
        step = _newton_step(objective, theta, gradient, weights, factor)
        theta, value = _searched(objective, theta, value, step, float(gradient @ step), weights)
        gradient, steps = objective.gradient(theta, weights), steps + 1
        norm = float(gradient.norm())
        if norm < 0.5 * least:
            stalled = 1 if norm <= goal else 0
        else:
            stalled += 1
        if norm < least:
            best, least = theta, norm
    return Fit(best, least, steps, least <= goal)


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
    rows = batches(objective.n, recipe, seed)

    def gradient(theta: Tensor) -> Tensor:
        chosen = next(rows)
        if chosen is None:
            return objective.gradient(theta, weights)
        return batch_gradient(part_of(objective, chosen), theta, _rows_of(weights, chosen), objective.n)

    theta = descend(gradient, objective.theta if start is None else start, recipe)
    return ended(objective, theta, weights, steps, tolerance)


def descend(gradient: Callable[[Tensor], Tensor], start: Tensor, recipe: Recipe) -> Tensor:
    """Take a recipe's gradient steps.

    Args:
        gradient: called once a step, from parameters to gradients of the same shape.
        start: (dim,), or a stack (models, dim); it is not changed.
        recipe: how.

    Raises:
        TrainingError: a gradient is not finite.
    """
    theta = start.detach().clone()
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    for step in range(1, recipe.steps + 1):
        slope = gradient(theta)
        if not bool(torch.isfinite(slope).all()):
            _blame(slope, f"step {step} of {recipe.steps}", recipe.lr)
        lr = recipe.lr
        if recipe.schedule == "cosine":
            lr *= 0.5 * (1 + cos(pi * (step - 1) / recipe.steps))
        if recipe.optimizer == "gd":
            theta.add_(slope, alpha=-lr)
        elif recipe.optimizer == "sgd":
            first.mul_(_MOMENTUM).add_(slope)
            theta.add_(first, alpha=-lr)
        else:
            one, two = _BETAS
            first.mul_(one).add_(slope, alpha=1 - one)
            second.mul_(two).addcmul_(slope, slope, value=1 - two)
            below = second.sqrt().div_((1 - two**step) ** 0.5).add_(_EPSILON)
            theta.addcdiv_(first, below, value=-lr / (1 - one**step))
    return theta


def batches(n: int, recipe: Recipe, seed: int) -> Iterator[Tensor | None]:
    """Yield each step's rows, shape (batch,), or None for all; every epoch is a new permutation, its rest dropped.

    Raises:
        OptionError: the batch is larger than the data, or the seed negative.
    """
    if seed < 0:
        raise OptionError(f"seed is {seed}: it must be 0 or more")
    if recipe.batch is not None and recipe.batch > n:
        raise OptionError(f"batch is {recipe.batch}, but there are {n} training points: give at most as many, or None")
    return _batches(n, recipe.batch, seed)


def _batches(n: int, batch: int | None, seed: int) -> Iterator[Tensor | None]:
    random = torch.Generator().manual_seed(seed)
    while True:
        if batch is None:
            yield None
        else:
            yield from torch.randperm(n, generator=random)[: n - n % batch].split(batch)


def part_of(objective: Objective, rows: Tensor) -> Objective:
    """Return the objective on some of its points."""
    rows = rows.to(objective.inputs.device)
    return objective.with_data(objective.inputs[rows], objective.targets[rows])


def batch_gradient(part: Objective, theta: Tensor, weights: Tensor | None, n: int) -> Tensor:
    """Return a batch's estimate of the whole objective's gradient; works under `vmap` over theta and weights.

    Args:
        part: the objective on the batch's points.
        theta: (dim,).
        weights: of the batch's points, (batch,), or None.
        n: points of the whole objective.
    """
    if weights is None:
        slope = part.gradient(theta)
        kept: Tensor | float = 1.0
    else:
        # Where all weights are 0 the mean would be 0 / 0: take ones, and drop the loss's part below.
        kept = (weights.sum() > 0).to(theta.dtype)
        slope = part.gradient(theta, weights + (1 - kept))
    decay = part.l2 * theta
    share = n / part.n if part.convention == "sum" else 1.0
    return (slope - decay) * (kept * share) + decay


def ended(objective: Objective, theta: Tensor, weights: Tensor | None, steps: int, tolerance: float) -> Fit:
    """Return the `Fit` of parameters where training ended.

    Raises:
        TrainingError: the loss or its gradient there is not finite.
    """
    gradient = objective.gradient(theta, weights)
    norm = float(gradient.norm())
    if not norm < float("inf"):
        _blame(gradient, f"the end of {steps} steps", None)
    _value(objective, theta, weights)
    return Fit(theta.detach(), norm, steps, norm <= tolerance * _scale(objective, weights))


def _blame(slope: Tensor, where: str, lr: float | None) -> None:
    model = ""
    if slope.ndim == 2:
        model = f" of model {int((~torch.isfinite(slope).all(dim=1)).nonzero()[0])} of the stack"
    rate = "" if lr is None else f" than {lr:g}"
    raise TrainingError(
        f"the loss{model} is not finite at {where}: give a lower learning rate{rate}, or look for extreme inputs"
    )


def _value(objective: Objective, theta: Tensor, weights: Tensor | None) -> float:
    value = float(objective.value(theta, weights))
    if not abs(value) < float("inf"):
        raise TrainingError(
            f"the loss is {value}, not a finite number: start elsewhere, give a lower learning rate, or look for "
            "extreme inputs"
        )
    return value


def _scale(objective: Objective, weights: Tensor | None) -> float:
    if objective.convention == "mean":
        return 1.0
    return max(1.0, float(objective.n if weights is None else weights.sum()))


def _rows_of(weights: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if weights is None else weights[rows.to(weights.device)]


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
        bent = objective.hvp(theta, ahead[None], weights)[0]
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
        found = float(objective.value(moved, weights))
        if found <= value + 1e-4 * length * slope + slack:
            return moved, found
        length /= 2
    return theta, value
