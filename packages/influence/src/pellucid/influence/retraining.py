"""One retraining: what it needs to know, and how it is done; `truth` does many of them, as a sweep."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.sweeps import Context
from torch import Tensor

from .datasets import Data
from .descent import Recipe
from .models import ModelChoice, build_loss, build_model
from .objective import Convention, Objective
from .stacked import choose_stacked, fit_all, removal_weights
from .training import DENSE, NETWORK_TOLERANCE, TOLERANCE, Fit, fit_convex, fit_network, scale_of

log = logging.getLogger("pellucid.influence")

Mode = Literal["convex", "warm", "cold"]
Group = tuple[int, ...]


@dataclass(frozen=True)
class TruthJob:
    """What all retrainings of one model have in common; all of it but the last three fields enters their keys.

    Attributes:
        data: the points; its dtype is the model's.
        model: which model.
        mode: how it is retrained: to the optimum, from the state, or from new initial weights; see `truth`.
        loss: `cross_entropy`, `squared`, or `module:function`.
        l2: strength of the regulariser (l2 / 2) |theta|^2.
        convention: how it stands to the losses, `mean` or `sum`; see `Objective`.
        parameters: which are trained: "all", "last" or names; the others stay as they are in `state`.
        recipe: of one retraining, None in `convex` mode.
        state: the trained model's parameters and buffers (`state_dict`), which `train_base` finds.
        tests: rows of the test points whose losses are measured; None for all.
        keep_theta: keep every retrained parameter vector in the ledger.
        stacked: train a batch of cells as one stack, or one after another; None times both once a process and takes
            the faster. Results differ by rounding alone.
        chunk: most points in one forward pass.
        device: where to compute.
    """

    data: Data
    model: ModelChoice
    mode: Mode = "convex"
    loss: str = "cross_entropy"
    l2: float = 0.01
    convention: Convention = "mean"
    parameters: str | tuple[str, ...] = "all"
    recipe: Recipe | None = None
    state: dict[str, Tensor] | None = None
    tests: tuple[int, ...] | None = None
    keep_theta: bool = False
    stacked: bool | None = field(default=None, compare=False)
    chunk: int = field(default=1024, compare=False)
    device: str = field(default="cpu", compare=False)

    def __post_init__(self) -> None:
        if self.mode not in ("convex", "warm", "cold"):
            raise OptionError(f"there is no mode {self.mode!r}: choose convex, warm or cold")
        if (self.recipe is None) != (self.mode == "convex"):
            raise OptionError(f"mode {self.mode} with recipe={self.recipe}: warm and cold need one, convex takes none")
        check_rows("tests", self.tests or (), len(self.data.test_inputs), "test points")


@dataclass(frozen=True)
class Removal:
    """A cell: train without these points (none: the control), with this seed."""

    removed: Group
    seed: int


@dataclass(frozen=True)
class TruthRow:
    """What a retraining found.

    Attributes:
        removed: the points left out.
        seed: of the order of batches, and in `cold` mode of the initial weights.
        before: losses of the test points under the job's state.
        after: the same after retraining.
        gradient_norm: of the objective without the points, after retraining.
        parameter_norm: distance of the parameters from the job's state.
        converged: whether the gradient is under the tolerance of the mode.
        theta: the parameters, where they are kept.
    """

    removed: list[int]
    seed: int
    before: list[float]
    after: list[float]
    gradient_norm: float
    parameter_norm: float
    converged: bool
    theta: list[float] | None


def objective_of(job: TruthJob) -> Objective:
    """Return the job's objective on its training points; `theta` is that of the job's state, if it has one.

    Raises:
        OptionError: the state is another model's, or something of the job cannot work.
    """
    model = build_model(job.model, job.data.inputs.dtype, job.device)
    if job.state is not None:
        try:
            model.load_state_dict(job.state)
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise OptionError(f"the job's state is not that of model {job.model.name!r}: {text}") from error
    data, loss = job.data, build_loss(job.loss)
    return Objective(
        model, loss, data.inputs, data.targets,
        l2=job.l2, convention=job.convention, parameters=job.parameters, chunk=job.chunk,
    )  # fmt: skip


def train_base(job: TruthJob, recipe: Recipe | None = None, seed: int = 0) -> tuple[TruthJob, Fit]:
    """Train the job's model on all points, from the state the job has, else from the model's initial weights.

    Args:
        job: what to train.
        recipe: how, in `warm` mode usually with many more steps than a retraining; None for the job's own.
        seed: of the order of batches.

    Returns:
        The job with the trained state, and how training ended (a warning is logged where it did not converge).

    Raises:
        TrainingError: the loss is not finite.
    """
    objective = objective_of(job)
    recipe = recipe or job.recipe
    if job.mode == "convex":
        fit = fit_convex(objective)
    else:
        assert recipe is not None
        fit = fit_network(
            objective, recipe.steps, recipe.lr, recipe.batch, recipe.optimizer, seed, schedule=recipe.schedule
        )
    objective.install(fit.theta)
    warn_unconverged(job, objective, fit.gradient_norm)
    state = {name: value.detach().cpu().clone() for name, value in objective.model.state_dict().items()}
    return replace(job, state=state), fit


@dataclass
class _State:
    """What a process prepares once: the objective, the test points', the start, and what was found out on the way."""

    objective: Objective
    tests: Objective
    start: Tensor
    before: list[float]
    factor: Tensor | None
    stacked: bool | None


def prepare(job: TruthJob) -> _State:
    """Set a process up for `retrain`."""
    objective = objective_of(job)
    rows = torch.arange(len(job.data.test_inputs)) if job.tests is None else torch.tensor(job.tests)
    tests = objective.with_data(job.data.test_inputs[rows], job.data.test_targets[rows])
    start, factor = objective.theta, None
    if job.mode == "convex" and objective.dim <= DENSE:
        lower, failed = torch.linalg.cholesky_ex(objective.hessian(start))
        factor = None if int(failed) else lower
    return _State(objective, tests, start, tests.losses(start).tolist(), factor, job.stacked)


def retrain(cells: Sequence[Removal], context: Context) -> list[TruthRow]:
    """Retrain once for each cell, and measure."""
    job, state = context.shared, context.state
    weights = removal_weights([cell.removed for cell in cells], state.objective.n, state.start)
    if job.mode == "convex":
        fits = [fit_convex(state.objective, row, state.start, factor=state.factor) for row in weights]
    else:
        fits = _descended(job, state, cells, weights)
    return [
        TruthRow(
            removed=list(cell.removed),
            seed=cell.seed,
            before=state.before,
            after=state.tests.losses(fit.theta).tolist(),
            gradient_norm=fit.gradient_norm,
            parameter_norm=float((fit.theta - state.start).norm()),
            converged=fit.converged,
            theta=fit.theta.tolist() if job.keep_theta else None,
        )
        for cell, fit in zip(cells, fits, strict=True)
    ]


def _descended(job: TruthJob, state: _State, cells: Sequence[Removal], weights: Tensor) -> list[Fit]:
    """Train the cells' models; those with the same order of batches may go as one stack."""
    recipe = job.recipe
    assert recipe is not None
    starts = state.start.expand(len(cells), -1)
    if job.mode == "cold":
        starts = torch.stack([_initial(job, cell.seed) for cell in cells])
    fits: dict[int, Fit] = {}
    # With all points in every step a seed has no order to give, so that seeds may share a stack.
    orders = [cell.seed if recipe.batch is not None else 0 for cell in cells]
    for order in dict.fromkeys(orders):
        places = [place for place, other in enumerate(orders) if other == order]
        if state.stacked is None and len(places) > 1:
            state.stacked = choose_stacked(state.objective, len(places), recipe, state.start)
        together = bool(state.stacked) and len(places) > 1
        got = fit_all(state.objective, weights[places], starts[places], recipe, order, together)
        fits |= dict(zip(places, got, strict=True))
    return [fits[place] for place in range(len(cells))]


def _initial(job: TruthJob, seed: int) -> Tensor:
    return objective_of(replace(job, model=replace(job.model, seed=seed), state=None)).theta


def warn_unconverged(job: TruthJob, objective: Objective, norm: float) -> None:
    """Log a warning where a base model's gradient norm is above its mode's tolerance."""
    goal = (TOLERANCE if job.mode == "convex" else NETWORK_TOLERANCE) * scale_of(objective, None)
    if norm > goal:
        mend = "train_base reaches it" if job.mode == "convex" else "train for longer, or with schedule='cosine'"
        log.warning("the base model has not converged: its gradient norm is %.3g, above %.3g; %s", norm, goal, mend)


def check_rows(what: str, rows: Sequence[int], n: int, of: str) -> None:
    """Raise where row numbers lie outside 0 .. n - 1 or repeat.

    Raises:
        DataError: naming the row.
    """
    numbers = [int(row) for row in rows]
    outside = [row for row in numbers if not 0 <= row < n]
    if outside:
        raise DataError(f"{what} holds {outside[0]}: there are {n} {of}, 0 to {n - 1}")
    if len(set(numbers)) < len(numbers):
        twice = next(row for row in numbers if numbers.count(row) > 1)
        raise DataError(f"{what} holds {twice} more than once: give each of the {of} once")
