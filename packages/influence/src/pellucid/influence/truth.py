"""The ground truth of influence: retraining without a group, as a sweep that can be killed and resumed.

How a model is retrained is part of what is measured. `convex` goes to the optimum (gradient norm under 1e-10), so that
the truth is unique. `warm` goes on from the trained parameters for a share of the steps, as the thesis does for
networks (3.10). `cold` trains from new initial weights, one set a seed.

Beside the groups every seed gets a CONTROL: the same recipe with nothing removed (thesis 3.10.4 trains on with all
points). What the control changes, `Truth.drift`, is not the groups' doing: where it is as large as the changes, the
truth is noise.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError, OptionError, SweepError
from pellucid.core.sweeps import Summary, Sweep

from .retraining import (
    Group,
    Removal,
    TruthJob,
    TruthRow,
    check_rows,
    objective_of,
    prepare,
    retrain,
    train_base,
    warn_unconverged,
)
from .training import DENSE

__all__ = ["Removal", "Truth", "TruthJob", "TruthRow", "leave_out", "train_base", "truth_sweep"]

log = logging.getLogger("pellucid.influence")

Base = Literal["base", "control"]

MOST_KEPT = 100_000
"""Parameters a row of the ledger may hold, if it is to hold them."""


@dataclass(frozen=True)
class Truth:
    """What leaving out each group changes.

    Attributes:
        groups: the points of each, in the order they were given.
        changes: of the test losses, (groups, quantities), averaged over seeds: positive where the loss rises.
        by_seed: the same for each seed, (seeds, groups, quantities).
        parameter_norms: of the parameters' changes from the job's state, (groups,), averaged over seeds.
        gradient_norms: after retraining, (groups,), the largest over seeds.
        drift: the control's change of the test losses from the job's state, (quantities,), averaged over seeds.
        control_gradient_norm: the control's, the largest over seeds.
        base_gradient_norm: the job's state's own.
        relative_to: what changes are measured from.
        thetas: retrained parameters, (seeds, groups, dim), where they were kept.
        summary: of the sweep: how much was found in the ledger.
    """

    groups: tuple[Group, ...]
    changes: NDArray[np.float64]
    by_seed: NDArray[np.float64]
    parameter_norms: NDArray[np.float64]
    gradient_norms: NDArray[np.float64]
    drift: NDArray[np.float64]
    control_gradient_norm: float
    base_gradient_norm: float
    relative_to: Base
    thetas: NDArray[np.float64] | None
    summary: Summary


def truth_sweep(
    job: TruthJob, groups: Sequence[Sequence[int]], *, seeds: Sequence[int] = (0,), **options: Any
) -> Sweep:
    """Return the sweep over every group and the control, with every seed (rows: `TruthRow`).

    Args:
        job: what is retrained.
        groups: training points to leave out, each group by itself; alike groups are computed once.
        seeds: see `TruthRow`; a `convex` job needs one.
        options: of `Sweep`. `batch` is by default 128 for networks of up to 2,000 parameters (they gain by being
            stacked), 8 for convex models and 4 for others.

    Raises:
        DataError: a group cannot be left out: it is empty, holds a point twice or one that is not there, or is all.
    """
    chosen = dict.fromkeys([(), *_checked(groups, len(job.data.inputs))])
    seeds = list(dict.fromkeys(seeds))
    if not seeds or min(seeds) < 0:
        raise OptionError(f"seeds are {seeds}: give one or more, each 0 or more")
    objective = objective_of(job)
    if job.keep_theta and objective.dim > MOST_KEPT:
        raise OptionError(f"keep_theta with {objective.dim} parameters: at most {MOST_KEPT} are kept in a row")
    small = 128 if objective.dim <= DENSE else 4
    options.setdefault("batch", 8 if job.mode == "convex" else small)
    cells = [Removal(group, seed) for seed in seeds for group in chosen]
    return Sweep(retrain, cells, version="1", row=TruthRow, shared=job, setup=prepare, **options)


def leave_out(
    job: TruthJob,
    groups: Sequence[Sequence[int]],
    ledger: str | os.PathLike[str],
    *,
    seeds: Sequence[int] = (0,),
    relative_to: Base | None = None,
    workers: int = 0,
    address: str | None = None,
    retry_failed: bool = False,
    **options: Any,
) -> Truth:
    """Retrain without each group and measure what changes: leave-k-out ground truth (eq. 3.2, 3.6).

    Finished retrainings are taken from the ledger, so that a run that was killed goes on where it stopped.

    Args:
        job: what is retrained; give it a state with `train_base` first.
        groups: training points to leave out, each group by itself.
        ledger: a folder, or an fsspec url of a bucket.
        seeds: see `TruthRow`.
        relative_to: measure changes from the job's state (`base`) or from the control of the same seed (`control`),
            which takes the drift of going on training out. By default `base`, in `cold` mode `control`: two
            trainings from different initial weights have nothing in common otherwise.
        workers: Ray actors; 0 computes in this process.
        address: a running Ray's.
        retry_failed: compute what failed before, and only that.
        options: of `Sweep`, such as `batch`, `cpus` and `gpus`.

    Raises:
        DataError: a group cannot be left out.
        OptionError: the job has no state, or an option cannot work.
        SweepError: some retrainings failed; the first one's error is told, the others are in the ledger.
    """
    relative_to = relative_to or ("control" if job.mode == "cold" else "base")
    if relative_to not in ("base", "control"):
        raise OptionError(f"relative_to is {relative_to!r}: choose base or control")
    if job.state is None and (job.mode != "cold" or relative_to == "base"):
        raise OptionError("the job has no trained state to start from: job, fit = train_base(job, recipe)")
    sweep = truth_sweep(job, groups, seeds=seeds, **options)
    objective = objective_of(job)
    base_norm = float(objective.gradient(objective.theta).norm())
    if job.state is not None:
        warn_unconverged(job, objective, base_norm)
    summary = sweep.run(ledger, workers=workers, retry_failed=retry_failed, address=address)
    pairs = sweep.pairs(ledger)
    if len(pairs) < len(sweep.cells):
        failures = sweep.failures(ledger)
        text = failures[0][1].strip().splitlines()[-1] if failures else "run again without retry_failed"
        missing = len(sweep.cells) - len(pairs)
        raise SweepError(f"{missing} of {len(sweep.cells)} retrainings are missing ({text}): mend it, use retry_failed")
    return _collected(job, groups, dict(pairs), relative_to, base_norm, summary)


def _collected(
    job: TruthJob,
    groups: Sequence[Sequence[int]],
    rows: dict[Removal, TruthRow],
    relative_to: Base,
    base_norm: float,
    summary: Summary,
) -> Truth:
    chosen = _checked(groups, len(job.data.inputs))
    seeds = list(dict.fromkeys(cell.seed for cell in rows))
    table = [[rows[Removal(group, seed)] for group in chosen] for seed in seeds]
    controls = [rows[Removal((), seed)] for seed in seeds]
    after = np.array([[row.after for row in line] for line in table])
    drift = np.array([np.subtract(row.after, row.before) for row in controls])
    start = [row.after if relative_to == "control" else row.before for row in controls]
    by_seed = after - np.array(start)[:, None]
    loose = sum(not row.converged for row in rows.values())
    if loose and job.mode == "convex":
        worst = max(row.gradient_norm for row in rows.values())
        log.warning(
            "%d of %d retrainings did not reach the optimum (largest gradient norm %.3g): raise l2 or scale inputs",
            loose, len(rows), worst,
        )  # fmt: skip
    return Truth(
        groups=tuple(chosen),
        changes=by_seed.mean(axis=0),
        by_seed=by_seed,
        parameter_norms=np.array([[row.parameter_norm for row in line] for line in table]).mean(axis=0),
        gradient_norms=np.array([[row.gradient_norm for row in line] for line in table]).max(axis=0),
        drift=drift.mean(axis=0),
        control_gradient_norm=max(row.gradient_norm for row in controls),
        base_gradient_norm=base_norm,
        relative_to=relative_to,
        thetas=np.array([[row.theta for row in line] for line in table]) if job.keep_theta else None,
        summary=summary,
    )


def _checked(groups: Sequence[Sequence[int]], n: int) -> list[Group]:
    """Each group's points in ascending order."""
    if not len(groups):
        raise DataError("there are no groups: give one or more lists of training points")
    for place, group in enumerate(groups):
        if not len(group):
            raise DataError(f"group {place} is empty: give at least one training point")
        check_rows(f"group {place}", group, n, "training points")
        if len(group) >= n:
            raise DataError(f"group {place} holds all {n} training points: leave at least one to train on")
    return [tuple(sorted(int(row) for row in group)) for group in groups]
