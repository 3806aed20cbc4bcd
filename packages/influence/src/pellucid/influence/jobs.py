"""From a command's words to a trained job: which data, which model, how it is trained, which test point."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pellucid.core.errors import OptionError

from .datasets import Data, load_data
from .descent import Optimizer, Recipe
from .groups import Group, class_groups, cluster_groups, random_groups
from .models import ModelChoice, build_model, calibrate_batchnorm
from .objective import Convention
from .retraining import TruthJob, objective_of, train_base
from .training import Fit

KINDS = {"random": ("random",), "coherent": ("class",), "both": ("random", "class"), "cluster": ("cluster",)}
"""What `--groups` may say, and the kinds of groups that are then drawn."""
_BY_LOSS = ("highest-loss", "median-loss")


@dataclass(frozen=True)
class Problem:
    """A model to train on data, as the commands' shared options say it.

    Attributes:
        data: a name or a file, see `load_data`.
        model: see `ModelChoice`; `logistic` is trained to its optimum, all others by the recipe.
        options: of the model, such as `{"depth": 2}`.
        l2: strength of the regulariser.
        convention: how it stands to the losses.
        steps: gradient steps of a network's training.
        lr: learning rate.
        optimizer: of a network's training.
        batch: points a step; None for all.
        share: part of the steps for which a network is retrained, from its trained parameters.
        limit: use only so many training points.
        seed: of the split, the initial weights and the order of batches.
    """

    data: str = "digits"
    model: str = "logistic"
    options: dict[str, Any] = field(default_factory=dict)
    l2: float = 0.01
    convention: Convention = "mean"
    steps: int = 3000
    lr: float = 0.01
    optimizer: Optimizer = "adam"
    batch: int | None = None
    share: float = 0.125
    limit: int | None = None
    seed: int = 0


def untrained(problem: Problem, data: Data | None = None) -> tuple[TruthJob, Recipe | None]:
    """Return the job and, for a network, how its base model is to be trained.

    Raises:
        OptionError: the model does not fit, or a number cannot work.
        DataError: the data cannot be used.
    """
    data = data or load_data(problem.data, seed=problem.seed, limit=problem.limit)
    loss = "cross_entropy" if data.classes else "squared"
    choice = ModelChoice(problem.model, data.shape, data.outputs, problem.seed, problem.options)
    if problem.model == "logistic":
        return TruthJob(data, choice, loss=loss, l2=problem.l2, convention=problem.convention), None
    recipe = Recipe(problem.steps, problem.lr, problem.optimizer, problem.batch, "cosine")
    job = TruthJob(
        data,
        choice,
        mode="warm",
        loss=loss,
        l2=problem.l2,
        convention=problem.convention,
        recipe=recipe.share(problem.share),
        state=calibrated(data, choice),
    )
    return job, recipe


def trained(problem: Problem, data: Data | None = None, test_point: str | None = None) -> tuple[TruthJob, Fit]:
    """Return the job with its base model trained, on one test point where it is named, and how training ended.

    Raises:
        OptionError, DataError: as of `untrained` and `pick_test`, before anything is trained.
    """
    job, recipe = untrained(problem, data)
    if test_point is not None:
        _check_test(job, test_point)
    job, fit = train_base(job, recipe, problem.seed)
    return (job if test_point is None else with_test(job, test_point)), fit


def calibrated(data: Data, choice: ModelChoice) -> dict[str, torch.Tensor] | None:
    """Return a new model's state with its BatchNorm set from the data, or None for a model without any."""
    model = build_model(choice, data.inputs.dtype)
    if not calibrate_batchnorm(model, data.inputs):
        return None
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def pick_test(job: TruthJob, which: str) -> int:
    """Return a test point's row: a number, or `highest-loss` or `median-loss` under the job's state.

    Raises:
        OptionError: there is no such test point.
    """
    _check_test(job, which)
    if which in _BY_LOSS:
        objective = objective_of(job)
        losses = objective.with_data(job.data.test_inputs, job.data.test_targets).losses(objective.theta)
        order = losses.argsort(stable=True)
        return int(order[-1] if which == "highest-loss" else order[(len(order) - 1) // 2])
    return int(which)


def _check_test(job: TruthJob, which: str) -> None:
    count = len(job.data.test_inputs)
    if which not in _BY_LOSS and (not which.isdecimal() or int(which) >= count):
        raise OptionError(
            f"there is no test point {which!r}: give {', '.join(_BY_LOSS)}, or a row from 0 to {count - 1}"
        )


def with_test(job: TruthJob, which: str) -> TruthJob:
    """Return the job with one test point; see `pick_test`."""
    return replace(job, tests=(pick_test(job, which),))


def accuracy(job: TruthJob) -> float | None:
    """Return the share of test points that the job's model gets right; None for a regression."""
    if not job.data.classes:
        return None
    return float((predictions(job) == job.data.test_targets).double().mean())


def predictions(job: TruthJob) -> torch.Tensor:
    """Return the class that the job's model gives each test point, shape (m,)."""
    objective = objective_of(job)
    with torch.no_grad():
        parts = [objective.forward(objective.theta, part) for part in job.data.test_inputs.split(job.chunk)]
    return torch.cat(parts).argmax(dim=1)


def draw_groups(data: Data, kinds: str, fractions: Sequence[float], count: int, seed: int) -> list[Group]:
    """Return `count` groups of every fraction and kind.

    Args:
        data: whose training points are meant.
        kinds: random, coherent (of one class), cluster, or both (random and coherent).
        fractions: shares of the training data, each between 0 and 1.
        count: groups of each.
        seed: of the draws.

    Raises:
        OptionError: there is no such kind, or a fraction leaves no group or no data.
    """
    if kinds not in KINDS:
        raise OptionError(f"there are no groups of kind {kinds!r}: choose {', '.join(KINDS)}")
    if "class" in KINDS[kinds] and not data.classes:
        raise OptionError(f"{data.name} has no classes to be coherent by: choose random or cluster")
    groups: list[Group] = []
    for kind in KINDS[kinds]:
        if kind == "random":
            groups += random_groups(len(data.inputs), fractions, repeats=count, seed=seed)
        elif kind == "class":
            groups += class_groups(data.targets.numpy(), fractions, repeats=count, seed=seed)
        else:
            groups += cluster_groups(data.inputs.numpy(), fractions, repeats=count, seed=seed)
    return groups
