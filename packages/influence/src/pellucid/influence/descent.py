"""Gradient descent, step by step: which points make a step, its gradient, and the update.

The arithmetic works on one parameter vector and on a stack of them alike, so that `stacked` trains many models with the
very updates of `training`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Literal

import torch
from pellucid.core.errors import OptionError, PellucidError
from torch import Tensor
from torch.func import grad_and_value, vmap

from .objective import Objective

Optimizer = Literal["adam", "sgd", "gd"]
Schedule = Literal["constant", "cosine"]

ACTIVATIONS_AT_ONCE = 1 << 25
"""Activations (models x rows x one example's) that a training step holds at once: some 1 GiB at peak."""

_MOMENTUM, _BETAS, _EPSILON = 0.9, (0.9, 0.999), 1e-8


class TrainingError(PellucidError):
    """Training cannot go on: the loss or its gradient is not a finite number."""


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


class Slopes:
    """A recipe's successive gradients, of one model (`one`) or of a stack (`many`): the same sums in both.

    Args:
        objective: whose points, loss and regulariser are meant.
        weights: one a model and training point, (models, n).
        recipe: says which rows make a step.
        seed: of the order of batches.

    Raises:
        OptionError: weights have another shape, a model has no point left, or the batch is larger than the data.
    """

    def __init__(self, objective: Objective, weights: Tensor, recipe: Recipe, seed: int) -> None:
        if weights.ndim != 2 or weights.shape[1] != objective.n:
            raise OptionError(f"weights have shape {tuple(weights.shape)}: give (models, {objective.n})")
        if not bool((weights.sum(dim=1) > 0).all()):
            raise OptionError("a model's weights sum to 0: leave it at least one point to learn")
        self._objective = objective
        self._weights = weights.detach().to(objective.device, objective.dtype)
        self._inputs, self._targets = (
            data.to(objective.device, objective.dtype if data.is_floating_point() else data.dtype)
            for data in (objective.inputs, objective.targets)
        )
        self._rows = batches(objective.n, recipe, seed)
        # As many rows go through a model at once as the objective's own passes would take, shared among the models.
        room = ACTIVATIONS_AT_ONCE // (objective._example_width() * len(weights))
        self._height = max(1, min(objective.chunk, room))

    def one(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next step's loss, a scalar without the regulariser, and gradient, (dim,)."""
        total, slope = theta.new_zeros(()), torch.zeros_like(theta)
        theta = theta.detach().requires_grad_()
        pieces, scale = self._step()
        for inputs, targets, weights in pieces:
            loss = self._loss(theta, weights[0], inputs, targets)
            slope += torch.autograd.grad(loss, theta)[0]
            total += loss.detach()
        theta = theta.detach()
        return total * scale[0], slope * scale[0] + self._objective.l2 * theta

    def many(self, thetas: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next step's losses, (models,), and gradients, (models, dim)."""
        total, slopes = thetas.new_zeros(len(thetas)), torch.zeros_like(thetas)
        pieces, scale = self._step()
        for inputs, targets, weights in pieces:
            each = vmap(grad_and_value(self._loss), in_dims=(0, 0, None, None))
            slope, loss = each(thetas, weights, inputs, targets)
            slopes += slope
            total += loss
        return total * scale, slopes * scale[:, None] + self._objective.l2 * thetas

    def _loss(self, theta: Tensor, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return (weights * self._objective.loss(self._objective.forward(theta, inputs), targets)).sum()

    def _step(self) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
        """Return the next rows in pieces, and what each model's sum over them is multiplied by, (models,)."""
        inputs, targets, weights, share = self._inputs, self._targets, self._weights, 1.0
        chosen = next(self._rows)
        if chosen is not None:
            chosen = chosen.to(self._weights.device)
            inputs, targets, weights = inputs[chosen], targets[chosen], weights[:, chosen]
            share = self._objective.n / len(chosen)
        if self._objective.convention == "sum":
            scale = weights.new_full((len(weights),), share)
        else:
            # A batch of nothing but removed points has no mean: its sum, 0, stands for it.
            left = weights.sum(dim=1)
            scale = 1 / torch.where(left > 0, left, 1.0)
        if len(inputs) <= self._height:
            return [(inputs, targets, weights)], scale
        parts = (inputs.split(self._height), targets.split(self._height), weights.split(self._height, dim=1))
        return list(zip(*parts, strict=True)), scale


def descend(slopes: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, recipe: Recipe) -> Tensor:
    """Take a recipe's gradient steps.

    Args:
        slopes: called once a step, from parameters to losses and gradients: `Slopes.one` or `Slopes.many`.
        start: (dim,), or a stack (models, dim); it is not changed.
        recipe: how.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    theta = start.detach().clone()
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    for step in range(1, recipe.steps + 1):
        loss, slope = slopes(theta)
        if not bool(torch.isfinite(loss).all() & torch.isfinite(slope).all()):
            _blame(loss, slope, f"step {step} of {recipe.steps}", recipe.lr)
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


def _blame(loss: Tensor, slope: Tensor, where: str, lr: float) -> None:
    model = ""
    if slope.ndim == 2:
        fine = torch.isfinite(slope).all(dim=1) & torch.isfinite(loss)
        model = f" of model {int((~fine).nonzero()[0])} of the stack"
    raise TrainingError(
        f"the loss{model} is not finite at {where}: give a lower learning rate than {lr:g}, or look for extreme inputs"
    )
