"""Estimates beside the truth: what removing groups does to test losses, predicted three ways and retrained."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.errors import DataError
from pellucid.core.statistics import Estimate, pearson, relative_error, spearman
from torch import Tensor

from .groups import Group
from .objective import Objective
from .retraining import TruthJob, objective_of
from .scores import GroupInfluence, group_influence, loss_gradients
from .solution import SolveError, Solver
from .truth import Truth, leave_out

log = logging.getLogger("pellucid.influence")

Method = Literal["first", "second", "newton"]
METHODS: tuple[Method, ...] = ("first", "second", "newton")
FEWEST_PAIRS = 3


@dataclass(frozen=True)
class GroupRecord:
    """One group's effect on one test point's loss: positive where the loss rises when the group is removed.

    Attributes:
        size: training points in the group.
        fraction: share of the training data.
        kind: how the group was drawn (see `groups`), or another name for it.
        test: row of the test point.
        first: to first order (eq. 3.12).
        second: to second order (theorem 1).
        newton: by one Newton step; None where there is none.
        truth: by retraining without the group.
    """

    size: int
    fraction: float
    kind: str
    test: int
    first: float
    second: float
    newton: float | None
    truth: float


@dataclass(frozen=True)
class Agreement:
    """How well one estimate agrees with the truth over the groups of a kind and size.

    Attributes:
        method: which estimate.
        kind: of the groups; None for all.
        fraction: of the groups; None for all.
        pairs: how many (group, test point) pairs.
        pearson: None for fewer than three pairs, or where either side is constant.
        spearman: likewise.
        relative_error: |estimate - truth| / |truth|, Euclidean over the pairs; None where the truth is all zeros.
    """

    method: Method
    kind: str | None
    fraction: float | None
    pairs: int
    pearson: Estimate | None
    spearman: Estimate | None
    relative_error: float | None


@dataclass(frozen=True)
class Comparison:
    """Estimates and truth for the same groups and test points.

    Attributes:
        records: one a group and test point: groups in the order given, test points within each.
        tests: rows of the test points.
        gradient_norm: of the objective at the base model; estimates expand around a point where it is 0.
        residual: the worst relative residual of the inverse-Hessian products.
        drift: what training on with all points changes of each test loss; truths below it are noise.
        seed: of the bootstrap intervals.
        notes: what a reader should know besides.
    """

    records: tuple[GroupRecord, ...]
    tests: tuple[int, ...]
    gradient_norm: float
    residual: float
    drift: tuple[float, ...]
    seed: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def methods(self) -> tuple[Method, ...]:
        """The estimates that there are for every record."""
        return tuple(m for m in METHODS if all(getattr(r, m) is not None for r in self.records))

    def select(self, kind: str | None = None, fraction: float | None = None) -> list[GroupRecord]:
        """Return the records of one kind and size; None for all."""
        return [r for r in self.records if kind in (None, r.kind) and fraction in (None, r.fraction)]

    def agreement(self, method: Method, kind: str | None = None, fraction: float | None = None) -> Agreement:
        """Return how well an estimate agrees with the truth over some groups.

        Raises:
            DataError: there are no such groups, or no such estimate for them.
        """
        chosen = self.select(kind, fraction)
        if not chosen or method not in self.methods:
            raise DataError(f"there is no {method} estimate of groups of kind {kind} and fraction {fraction}")
        estimate = np.array([getattr(r, method) for r in chosen], dtype=np.float64)
        truth = np.array([r.truth for r in chosen])
        error = relative_error(estimate, truth) if np.any(truth) else None
        return Agreement(
            method,
            kind,
            fraction,
            len(chosen),
            correlation("pearson", estimate, truth, self.seed),
            correlation("spearman", estimate, truth, self.seed),
            error,
        )

    def agreements(self) -> list[Agreement]:
        """Return the agreement of every estimate: over all groups, by kind, and by kind and fraction."""
        return [self.agreement(m, kind, fraction) for kind, fraction in self._parts() for m in self.methods]

    def results(self) -> dict[str, Any]:
        """What `result.json` holds under `results`."""
        return {
            "groups": self.records,
            "agreement": self.agreements(),
            "tests": self.tests,
            "gradient_norm": self.gradient_norm,
            "residual": self.residual,
            "drift": self.drift,
            "notes": self.notes,
        }

    def _parts(self) -> Iterator[tuple[str | None, float | None]]:
        kinds = list(dict.fromkeys(r.kind for r in self.records))
        if len(kinds) > 1:
            yield None, None
        for kind in kinds:
            fractions = sorted({r.fraction for r in self.records if r.kind == kind})
            yield kind, None
            if len(fractions) > 1:
                yield from ((kind, fraction) for fraction in fractions)


def compare(
    job: TruthJob,
    groups: Sequence[Group],
    ledger: str | os.PathLike[str],
    *,
    solver: str | Solver = "auto",
    damping: float = 0.0,
    newton: bool = True,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Estimate what removing each group does to the job's test points, and retrain without it.

    Args:
        job: trained already (`train_base`); its `tests` are the test points, its state the optimum.
        groups: what to remove, each by itself.
        ledger: folder or fsspec url where finished retrainings are kept.
        solver: "auto", "exact", "cg", "lissa" or a prepared function; see `solvers`.
        damping: added to the Hessian's diagonal.
        newton: also take one Newton step for each group.
        seed: of the bootstrap intervals.
        options: of `leave_out`, such as `workers`, `seeds` and `relative_to`.

    Raises:
        DataError: a group cannot be left out.
        OptionError: the job has not been trained.
        SolveError: the damped Hessian is not positive definite.
    """
    # The cheap part first: a group that cannot be, or a Hessian that cannot be inverted, costs no retraining.
    estimate, notes = estimates(job, groups, solver=solver, damping=damping, newton=newton)
    truth = leave_out(job, [group.indices for group in groups], ledger, **options)
    return joined(groups, estimate, truth, _tests(job), seed=seed, notes=notes)


def estimates(
    job: TruthJob, groups: Sequence[Group], *, solver: str | Solver = "auto", damping: float = 0.0, newton: bool = True
) -> tuple[GroupInfluence, tuple[str, ...]]:
    """Return the estimates alone, and notes on what could not be had; arguments and errors as for `compare`."""
    objective = objective_of(job)
    theta = objective.theta
    quantities = test_gradients(job, objective, theta)
    rows = [group.indices for group in groups]
    try:
        return group_influence(objective, theta, rows, quantities, solver=solver, damping=damping, newton=newton), ()
    except SolveError as error:
        if not newton:
            raise
        # The Hessian without a group may be indefinite where the whole one is not: that takes Newton alone away.
        found = group_influence(objective, theta, rows, quantities, solver=solver, damping=damping, newton=False)
        note = f"there is no Newton estimate: without one of the groups, {error}"
        log.warning("%s", note)
        return found, (note,)


def test_gradients(job: TruthJob, objective: Objective, theta: Tensor) -> Tensor:
    """Return the gradients of the job's test losses as columns, shape (dim, tests)."""
    rows = torch.tensor(_tests(job))
    tests = objective.with_data(job.data.test_inputs[rows], job.data.test_targets[rows])
    return loss_gradients(tests, theta)


def joined(
    groups: Sequence[Group],
    estimate: GroupInfluence,
    truth: Truth,
    tests: Sequence[int],
    *,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Comparison:
    """Put estimates and truths of the same groups and test points side by side."""
    newton = estimate.newton
    records = tuple(
        GroupRecord(
            size=len(group.indices),
            fraction=group.fraction,
            kind=group.kind,
            test=test,
            first=float(estimate.first[i, j]),
            second=float(estimate.second[i, j]),
            newton=None if newton is None else float(newton[i, j]),
            truth=float(truth.changes[i, j]),
        )
        for i, group in enumerate(groups)
        for j, test in enumerate(tests)
    )
    return Comparison(
        records,
        tuple(tests),
        estimate.gradient_norm,
        estimate.residual,
        tuple(float(value) for value in truth.drift),
        seed,
        tuple(notes),
    )


def correlation(
    kind: Literal["pearson", "spearman"], x: NDArray[np.float64], y: NDArray[np.float64], seed: int
) -> Estimate | None:
    """Return a correlation with its interval, or None where there is none: too few pairs, or a constant side."""
    if len(x) < FEWEST_PAIRS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return (pearson if kind == "pearson" else spearman)(x, y, seed)


def _tests(job: TruthJob) -> tuple[int, ...]:
    return tuple(range(len(job.data.test_inputs))) if job.tests is None else job.tests
