"""The fragility study (thesis 3.10): how far influence on deep networks agrees with retraining, setting by setting.

A setting is one cell of a sweep. Inside it the trained base model is kept in a file and the retrainings in a ledger of
their own, so that a study that was killed goes on within the setting it was killed in.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.errors import SweepError
from pellucid.core.outfolder import write_file
from pellucid.core.statistics import Estimate
from pellucid.core.sweeps import Context, Sweep, digest
from torch import Tensor

from .compare import correlation, test_gradients
from .datasets import Data, load_data
from .jobs import accuracy, calibrated, pick_test
from .models import ModelChoice
from .objective import Objective
from .retraining import TruthJob, objective_of, train_base
from .scores import parameter_influence, point_influence
from .settings import StudySetting
from .solution import SolveError, Solver
from .solvers import EXACT_UP_TO, cg_tolerance, conjugate_gradient, lissa, resolve
from .stochastic import top_eigenvalue
from .truth import leave_out

log = logging.getLogger("pellucid.influence")

Subset = Literal["top", "low"]
Quantity = Literal["influence", "stochastic", "norm"]

LOW = 0.3
"""Percentile of influence around which the less influential points lie (fig. 3.5b)."""

_HELD = 1 << 28
"""Numbers of per-example gradients held at once."""


@dataclass(frozen=True)
class StudyRow:
    """What one setting gave; the lists from `test` on have one entry a (test point, training point) pair.

    Attributes:
        parameters: how many the model has.
        accuracy: share of test points that the base model gets right.
        gradient_norm: of the base model's objective; 0 at an optimum.
        control_gradient_norm: after training on with all points; `drift`: what that changes of each test loss.
        damping: used in the end: the setting's, and what an indefinite Hessian needed besides.
        top_eigenvalue: of the Hessian, None where not measured.
        residual: worst relative residual of the inverse-Hessian products; `stochastic_residual`: of LiSSA's.
        seconds: for the influence of all training points on one test point.
        tests: rows of the test points.
        test: which of them, 0 or 1.
        subset: `top` (the most influential) or `low` (around the 30th percentile), by modulus.
        point: row of the training point.
        influence: predicted change of the test loss on removing it, with the setting's solver.
        stochastic: the same with LiSSA; empty where not measured.
        truth: by retraining.
        norm: predicted length of the parameters' change; empty where not measured. `true_norm`: by retraining.
    """

    parameters: int
    accuracy: float
    gradient_norm: float
    control_gradient_norm: float
    drift: list[float]
    damping: float
    top_eigenvalue: float | None
    residual: float
    stochastic_residual: float | None
    seconds: float
    tests: list[int]
    test: list[int]
    subset: list[str]
    point: list[int]
    influence: list[float]
    stochastic: list[float]
    truth: list[float]
    norm: list[float]
    true_norm: list[float]

    def pairs(self, quantity: Quantity, test: int, subset: Subset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (estimate, truth) over one test point's subset; empty arrays where it was not measured."""
        guess = np.array(getattr(self, quantity))
        if not len(guess):
            return guess, guess
        mask = (np.array(self.test) == test) & (np.array(self.subset) == subset)
        target = np.array(self.true_norm if quantity == "norm" else self.truth)
        return guess[mask], target[mask]

    def correlation(
        self,
        quantity: Quantity = "influence",
        test: int = 0,
        subset: Subset = "top",
        kind: Literal["pearson", "spearman"] = "spearman",
    ) -> Estimate | None:
        """Return an estimate's correlation with retraining, with an interval over points; None where there is none."""
        return correlation(kind, *self.pairs(quantity, test, subset), 0)


@dataclass(frozen=True)
class Study:
    """A study's settings with what they gave, and notes on those that failed."""

    outcomes: tuple[tuple[StudySetting, StudyRow], ...]
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Shared:
    """Where settings keep their own ledgers; it does not enter any key."""

    folder: str = field(compare=False)


def study_sweep(settings: Sequence[StudySetting], folder: str | os.PathLike[str], **options: Any) -> Sweep:
    """Return the sweep over settings (rows: `StudyRow`); `folder` takes each setting's base model and retrainings."""
    shared = _Shared(str(Path(folder).absolute()))
    return Sweep(_measure, settings, version="1", row=StudyRow, shared=shared, batch=1, **options)


def run_study(
    settings: Sequence[StudySetting],
    folder: str | os.PathLike[str],
    *,
    workers: int = 0,
    address: str | None = None,
    retry_failed: bool = False,
    **options: Any,
) -> Study:
    """Measure every setting that the folder does not hold yet, and return them all.

    Args:
        settings: what to measure, see `settings`.
        folder: a folder (one that all machines see, for workers elsewhere).
        workers: Ray actors; 0 computes in this process.
        address: a running Ray's.
        retry_failed: measure the settings that failed before, and only those.
        options: of `Sweep`, such as `cpus`.

    Raises:
        SweepError: every setting failed; the first one's error is told.
    """
    sweep = study_sweep(settings, folder, **options)
    ledger = Path(folder) / "ledger-study"
    sweep.run(ledger, workers=workers, address=address, retry_failed=retry_failed)
    outcomes, failures = sweep.pairs(ledger), sweep.failures(ledger)
    last = failures[0][1].strip().splitlines()[-1] if failures else ""
    if not outcomes:
        raise SweepError(f"every setting of the study failed, the first with: {last}")
    notes = [f"{len(failures)} settings failed and are left out, the first with: {last}"] if failures else []
    notes += _capped(outcomes)
    return Study(tuple(outcomes), tuple(notes))


def _capped(outcomes: Sequence[tuple[StudySetting, StudyRow]]) -> list[str]:
    """What is to be said, and is logged, of conjugate gradients that stopped before they converged."""
    rough = [(s, r) for s, r in outcomes if s.solver == "cg" and r.residual > cg_tolerance(_dtype(s))]
    if not rough:
        return []
    setting, row = max(rough, key=lambda pair: pair[1].residual)
    note = (
        f"the inverse-Hessian products of {len(rough)} settings did not converge (worst relative residual "
        f"{row.residual:.2g}, of {setting.label}, after at most {setting.cg_steps} steps): raise --cg-steps"
    )
    log.warning(note)
    return [note]


def measure(setting: StudySetting, folder: str | os.PathLike[str]) -> StudyRow:
    """Train, estimate, choose points, retrain without each: one setting, resumed from what the folder holds of it."""
    place = Path(folder) / f"ledger-truth-{digest(setting)[:16]}"
    # A folder with `segments` is a ledger to `--fresh`, which clears it, base model and all.
    (place / "segments").mkdir(parents=True, exist_ok=True)
    data = load_data(setting.data, seed=setting.seed, dtype=_dtype(setting), limit=setting.limit)
    job = _base(setting, data, place / "base.safetensors")
    job = replace(job, tests=tuple(pick_test(job, which) for which in setting.tests))
    assert job.tests is not None
    objective = objective_of(job)
    theta = objective.theta
    quantities = test_gradients(job, objective, theta)
    top, damping = _curvature(setting, objective, theta)
    started = time.perf_counter()
    solver, damping, changes, residual = _influence(setting, objective, theta, quantities, damping)
    seconds = (time.perf_counter() - started) / len(job.tests)
    stochastic, stochastic_residual = None, None
    if setting.curvature and setting.solver == "exact":
        rough = partial(lissa, steps=setting.lissa_steps, repeats=2, seed=setting.seed)
        found = point_influence(objective, theta, quantities, solver=rough, damping=damping, tolerance=None)
        stochastic, stochastic_residual = found.change, found.residual
    table = [
        (test, subset, int(point))
        for test in range(len(job.tests))
        for subset, points in zip(("top", "low"), _choose(changes[:, test].abs(), setting), strict=True)
        for point in points
    ]
    points = sorted({point for _, _, point in table})
    norms: dict[int, float] = {}
    if setting.curvature:
        moved = parameter_influence(objective, theta, points, solver=solver, damping=damping).norm(dim=1) / objective.n
        norms = dict(zip(points, moved.tolist(), strict=True))
    truth = leave_out(job, [[point] for point in points], place, seeds=(setting.seed,))
    where = {point: i for i, point in enumerate(points)}
    return StudyRow(
        parameters=objective.dim,
        accuracy=accuracy(job) or 0.0,
        gradient_norm=truth.base_gradient_norm,
        control_gradient_norm=truth.control_gradient_norm,
        drift=truth.drift.tolist(),
        damping=damping,
        top_eigenvalue=top,
        residual=residual,
        stochastic_residual=stochastic_residual,
        seconds=seconds,
        tests=list(job.tests),
        test=[test for test, _, _ in table],
        subset=[subset for _, subset, _ in table],
        point=[point for _, _, point in table],
        influence=[float(changes[point, test]) for test, _, point in table],
        stochastic=[] if stochastic is None else [float(stochastic[point, test]) for test, _, point in table],
        truth=[float(truth.changes[where[point], test]) for test, _, point in table],
        norm=[norms[point] for _, _, point in table] if norms else [],
        true_norm=[float(truth.parameter_norms[where[point]]) for _, _, point in table],
    )


def _measure(cells: Sequence[StudySetting], context: Context) -> list[StudyRow]:
    # What the warnings would say of hundreds of base models stands in the rows, as numbers; `_capped` sums up.
    with _quiet():
        return [measure(cell, context.shared.folder) for cell in cells]


def _base(setting: StudySetting, data: Data, file: Path) -> TruthJob:
    """The setting's job with its trained state, from the file if an earlier run got that far."""
    from safetensors.torch import load, save

    loss = "cross_entropy" if data.classes else "squared"
    choice = ModelChoice(setting.model, data.shape, data.outputs, setting.seed, dict(setting.options))
    job = TruthJob(data, choice, mode="warm", loss=loss, l2=setting.l2, recipe=setting.retraining)
    if file.exists():
        return replace(job, state=load(file.read_bytes()))
    job, _ = train_base(replace(job, state=calibrated(data, choice)), setting.recipe, setting.seed)
    assert job.state is not None
    write_file(file, save({name: value.contiguous() for name, value in job.state.items()}))
    return job


def _curvature(setting: StudySetting, objective: Objective, theta: Tensor) -> tuple[float | None, float]:
    """Return the top eigenvalue and the damping; what is negative in a small model's Hessian is added to it."""
    if setting.solver == "exact" and objective.dim <= EXACT_UP_TO:
        spectrum = torch.linalg.eigvalsh(objective.hessian(theta).double())
        return float(spectrum[-1]), setting.damping + max(0.0, -float(spectrum[0]))
    return (top_eigenvalue(objective, theta, iterations=50) if setting.curvature else None), setting.damping


def _influence(
    setting: StudySetting, objective: Objective, theta: Tensor, quantities: Tensor, damping: float
) -> tuple[Solver, float, Tensor, float]:
    """Return (solver, damping used, predicted changes (n, tests), residual); damping is trebled until it suffices."""
    solver = resolve(setting.solver, objective)
    if setting.solver == "cg":
        solver = partial(conjugate_gradient, iterations=setting.cg_steps)
    if setting.solver == "lissa":
        solver = partial(lissa, steps=setting.lissa_steps, repeats=2, seed=setting.seed)
    chunk = max(1, min(4096, _HELD // objective.dim))
    for attempt in range(8):
        used = damping * 3**attempt
        try:
            found = point_influence(
                objective, theta, quantities, solver=solver, damping=used, chunk=chunk, tolerance=None
            )
        except SolveError:
            continue
        return solver, used, found.change, found.residual
    raise SolveError(f"the Hessian stays indefinite at a damping of {used:.3g}: train for longer, or raise the damping")


def _choose(strength: Tensor, setting: StudySetting) -> tuple[Tensor, Tensor]:
    """Return the most influential rows, and those around the 30th percentile of influence by modulus."""
    order = strength.argsort(descending=True, stable=True)
    n = len(order)
    first = max(0, min(n - setting.low, round((1 - LOW) * n) - setting.low // 2))
    return order[: setting.top], order[first : first + setting.low]


def _dtype(setting: StudySetting) -> torch.dtype:
    return torch.float32 if setting.single else torch.float64


@contextmanager
def _quiet() -> Iterator[None]:
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
