"""Many retrainings at once: one stack of parameters, one `vmap` over the models, the plain loop's own updates.

Small networks spend their steps on overhead, which a stack shares among its models; large ones are bound by
arithmetic and gain nothing. `choose_stacked` measures which it is.
"""

import time
from collections.abc import Sequence

import torch
from pellucid.core.errors import OptionError
from torch import Tensor

from .descent import Optimizer, Recipe, Schedule, Slopes, descend
from .objective import Objective
from .training import NETWORK_TOLERANCE, Fit, ended, fit_network

STACK = 512
"""Most models trained at once; more are trained in several stacks."""


def fit_stacked(
    objective: Objective,
    weights: Tensor,
    start: Tensor | None,
    steps: int,
    lr: float,
    batch: int | None = None,
    optimizer: Optimizer = "adam",
    seed: int = 0,
    schedule: Schedule = "constant",
    tolerance: float = NETWORK_TOLERANCE,
    stack: int = STACK,
) -> list[Fit]:
    """Train many models on differently weighted points at once.

    Each model's parameters are those of `fit_network` with the same arguments, up to the rounding of batched matrix
    products (1e-6 in float64). All models see the same rows in the same order. Memory grows with the stack: each
    model holds its own activations of a chunk of points.

    Args:
        objective: what to minimise.
        weights: one a model and training point, (models, n); 1 minus a group's indicator removes the group.
        start: (dim,) for all models or (models, dim); None for the objective's own parameters.
        steps: see `Recipe`, here and for lr, batch, optimizer and schedule.
        lr: learning rate.
        batch: points a step, None for all.
        optimizer: `adam`, `sgd` or `gd`.
        seed: of the order of batches.
        schedule: of the learning rate.
        tolerance: gradient norm, a training point, for `Fit.converged`.
        stack: most models at once.

    Returns:
        One fit a model, in order.

    Raises:
        OptionError: shapes do not agree, or a number cannot work.
        TrainingError: a loss or gradient is not finite; the message names the step and the model.
    """
    recipe = Recipe(steps, lr, optimizer, batch, schedule)
    starts = _checked(objective, weights, start, stack)
    fits = []
    for at in range(0, len(weights), stack):
        fits += _one_stack(objective, weights[at : at + stack], starts[at : at + stack], recipe, seed, tolerance)
    return fits


def fit_all(
    objective: Objective, weights: Tensor, start: Tensor | None, recipe: Recipe, seed: int = 0, stacked: bool = True
) -> list[Fit]:
    """Train one model for each row of weights, as one stack or one after another.

    Args:
        objective: what to minimise.
        weights: (models, n).
        start: (dim,) for all models or (models, dim); None for the objective's own parameters.
        recipe: how.
        seed: of the order of batches.
        stacked: one stack, or a loop; the results differ by rounding alone.

    Raises:
        OptionError: shapes do not agree, or a number cannot work.
        TrainingError: a loss or gradient is not finite.
    """
    arguments = (recipe.steps, recipe.lr, recipe.batch, recipe.optimizer, seed)
    if stacked:
        return fit_stacked(objective, weights, start, *arguments, schedule=recipe.schedule)
    starts = _checked(objective, weights, start, STACK)
    return [
        fit_network(objective, *arguments, start=begin, weights=row, schedule=recipe.schedule)
        for begin, row in zip(starts, weights, strict=True)
    ]


def choose_stacked(
    objective: Objective, models: int, recipe: Recipe, start: Tensor | None = None, steps: int = 5
) -> bool:
    """Whether a stack of so many models trains faster than a loop, found by timing a few steps of each.

    Measured on one CPU thread: feed-forward networks on Iris gain about 2.4 to 5.5 times at 32 models and 8 at 128;
    convolutional networks 0.6 to 1.5 times. The choice changes results by rounding alone.

    Args:
        objective: what would be minimised.
        models: how many would be trained at once.
        recipe: how; its number of steps does not matter.
        start: (dim,); None for the objective's own parameters.
        steps: gradient steps a timing.
    """
    if models < 2:
        return False
    models = min(models, STACK)
    begin = (objective.theta if start is None else start).detach()
    ones = torch.ones(models, objective.n, dtype=begin.dtype, device=begin.device)

    def seconds(count: int, thetas: Tensor, stacked: bool) -> float:
        slopes = Slopes(objective, ones[: len(thetas)], recipe, 0)
        taken = []
        for _ in range(count + 1):  # the first warms up
            _settle(begin)
            before = time.perf_counter()
            slopes.many(thetas) if stacked else slopes.one(thetas[0])
            _settle(begin)
            taken.append(time.perf_counter() - before)
        return min(taken[1:])

    loop = models * seconds(steps, begin[None], False)
    # Large models are steady enough for one look, and slow enough to be worth no more.
    return seconds(steps if loop < 1 else 1, begin.expand(models, -1).clone(), True) < loop


def removal_weights(groups: Sequence[Sequence[int]], n: int, like: Tensor) -> Tensor:
    """Return weights (groups, n) that are 0 on each group's points and 1 elsewhere, in `like`'s type and place."""
    weights = torch.ones(len(groups), n, dtype=like.dtype, device=like.device)
    for row, group in enumerate(groups):
        weights[row, torch.as_tensor(list(group), dtype=torch.long, device=like.device)] = 0
    return weights


def _one_stack(
    objective: Objective, weights: Tensor, starts: Tensor, recipe: Recipe, seed: int, tolerance: float
) -> list[Fit]:
    thetas = descend(Slopes(objective, weights, recipe, seed).many, starts, recipe)
    return [
        ended(objective, theta, row, recipe.steps, tolerance)
        for theta, row in zip(thetas.unbind(), weights.unbind(), strict=True)
    ]


def _checked(objective: Objective, weights: Tensor, start: Tensor | None, stack: int) -> Tensor:
    """Return the starts, (models, dim)."""
    if weights.ndim != 2 or weights.shape[1] != objective.n or not len(weights):
        raise OptionError(f"weights have shape {tuple(weights.shape)}: give (models, {objective.n}), one model or more")
    if stack < 1:
        raise OptionError(f"stack is {stack}: at least one model is trained at once")
    start = objective.theta.detach() if start is None else start.detach()
    if start.shape not in ((objective.dim,), (len(weights), objective.dim)):
        raise OptionError(
            f"start has shape {tuple(start.shape)}: give ({objective.dim},) or ({len(weights)}, {objective.dim})"
        )
    return start.expand(len(weights), -1)


def _settle(where: Tensor) -> None:
    """Wait until the device has done what it was told, so that a clock means something."""
    if where.is_cuda:
        torch.cuda.synchronize(where.device)
