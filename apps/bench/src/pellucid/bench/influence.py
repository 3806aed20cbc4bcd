"""Influence functions against retraining: our solvers, other libraries', stacked retraining, and groups of points.

Everything is measured on one problem, multinomial logistic regression on digits in float64. The truth is retraining
to the optimum, so that it is unique. Single points are removed with the regulariser left standing (`sum`, with a
strength of l2 a training point), which every library can be asked for; groups follow the thesis, where each point
carries its share of the regulariser (`mean`). Both have the same optimum.
"""

import importlib.metadata
import io
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.errors import OptionError
from pellucid.core.progress import progress
from pellucid.core.report import Table
from pellucid.core.statistics import Estimate, bootstrap_mean, pearson, relative_error
from pellucid.influence.datasets import load_data
from pellucid.influence.groups import class_groups
from pellucid.influence.models import ModelChoice, build_loss, build_model
from pellucid.influence.objective import Objective
from pellucid.influence.scores import group_influence, loss_gradients, point_influence
from pellucid.influence.solution import Inverse, Solution, Solver
from pellucid.influence.solvers import conjugate_gradient, exact, lissa
from pellucid.influence.stacked import fit_all, removal_weights
from pellucid.influence.training import Recipe, fit_convex
from torch import Tensor

from .peers import PEERS, Peer, Problem, rank_agreement, timed

L2 = 0.01
"""A training point."""

_OURS = "pellucid"


@dataclass(frozen=True)
class Row:
    """What one tool did.

    Attributes:
        tool: library.
        method: of the library.
        version: None where it is not installed.
        status: `ok`, `not installed`, or `failed: ` and the error's first line.
        spearman: with the truth over the removals, averaged over test points; the interval is over test points.
        pooled: Spearman with the truth over all removal x test pairs at once.
        seconds: median of the timings, from a trained model to all scores.
        timings: how many there were.
        ratio: of its seconds to those of our exact solver in this run.
        used: its settings.
    """

    tool: str
    method: str
    version: str | None
    status: str
    spearman: Estimate | None
    pooled: float | None
    seconds: float | None
    timings: int
    ratio: float | None
    used: str


def measure(
    removals: int = 60,
    tests: int = 50,
    seed: int = 0,
    *,
    peers: Sequence[Peer] = PEERS,
    limit: int | None = None,
    repeats: int = 3,
    models: int = 128,
    steps: int = 50,
    groups: int = 30,
    lissa_steps: int = 2000,
) -> dict[str, Any]:
    """Measure all of it in one run.

    Args:
        removals: training points left out, one at a time; drawn at random.
        tests: test points whose losses are followed; drawn at random.
        seed: of the data's split and of every draw.
        peers: which other libraries are asked, and how.
        limit: use only so many training points.
        repeats: timings of each tool, after a warm-up; fewer for what takes long.
        models: retrained as a stack and one after another.
        steps: of those retrainings.
        groups: of each size.
        lissa_steps: of our stochastic solver.

    Returns:
        `tools` (a list of `Row`), `block_cg`, `stacked`, `groups`, `truth`, `problem`.

    Raises:
        OptionError: for more points than there are, or too few to rank.
    """
    problem, objective, test = build_problem(removals, tests, seed, limit)
    truth, norm = retrain(objective, test, [(row,) for row in problem.rows])
    rows, block = _ours(objective, test, problem, truth, seed, repeats, lissa_steps)
    own_seconds = rows[0].seconds
    for peer in peers:
        rows.append(_asked(peer, problem, truth, seed, repeats, own_seconds))
    return {
        "problem": {
            "data": "digits",
            "training_points": objective.n,
            "parameters": objective.dim,
            "l2_a_point": L2,
            "convention": "sum (points), mean (groups)",
            "removals": removals,
            "tests": tests,
            "threads": torch.get_num_threads(),
        },
        "truth": {"largest_gradient_norm": norm},
        "tools": rows,
        "block_cg": block,
        "stacked": stacked(models, steps, seed, repeats),
        "groups": grouped(objective, seed, limit, groups),
    }


def build_problem(
    removals: int, tests: int, seed: int, limit: int | None = None
) -> tuple[Problem, Objective, Objective]:
    """Train the model; return the problem, the objective on the training points and that on the test points."""
    data = load_data("digits", seed=seed, limit=limit)
    n, available = len(data.inputs), len(data.test_inputs)
    for name, wanted, most in (("removals", removals, n), ("tests", tests, available)):
        if not 3 <= wanted <= most:
            raise OptionError(f"{name} is {wanted}: choose from 3 (ranks of fewer say nothing) to {most}")
    random = np.random.default_rng(seed)
    rows = tuple(sorted(int(i) for i in random.choice(n, removals, replace=False)))
    chosen = torch.from_numpy(np.sort(random.choice(available, tests, replace=False)))
    model = build_model(ModelChoice("logistic", data.shape, data.classes, seed))
    loss = build_loss("cross_entropy")
    objective = Objective(model, loss, data.inputs, data.targets, l2=L2 * n, convention="sum")
    objective.install(fit_convex(objective).theta)
    problem = Problem(model, data.inputs, data.targets, data.test_inputs[chosen], data.test_targets[chosen], rows, L2)
    return problem, objective, objective.with_data(problem.test_inputs, problem.test_targets)


def retrain(
    objective: Objective, test: Objective, groups: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float64], float]:
    """Return what leaving out each group changes of each test loss, (groups, tests), and the largest gradient norm.

    Every retraining starts from the optimum with all points and is preconditioned with the Hessian there; the norm is
    a training point's, after retraining.
    """
    theta = objective.theta
    before, factor = test.losses(theta), torch.linalg.cholesky(objective.hessian(theta))
    changes, worst = [], 0.0
    with progress("retraining", len(groups)) as advance:
        for weights in removal_weights(groups, objective.n, theta):
            fit = fit_convex(objective, weights, theta, factor=factor)
            changes.append((test.losses(fit.theta) - before).numpy())
            worst = max(worst, fit.gradient_norm / (objective.n if objective.convention == "sum" else 1))
            advance(1)
    return np.stack(changes), worst


def one_at_a_time(objective: Objective, theta: Tensor, *, damping: float = 0.0) -> Inverse:
    """Conjugate gradients as most write them: each right-hand side by itself."""
    inverse = conjugate_gradient(objective, theta, damping=damping)

    def solve(vectors: Tensor) -> Solution:
        found = [inverse(column) for column in vectors.split(1, dim=1)]
        return Solution(
            torch.cat([part.x for part in found], dim=1),
            torch.cat([part.residual for part in found]),
            sum(part.iterations for part in found),
            torch.cat([part.converged for part in found]),
        )

    return solve


def _ours(
    objective: Objective,
    test: Objective,
    problem: Problem,
    truth: NDArray[np.float64],
    seed: int,
    repeats: int,
    lissa_steps: int,
) -> tuple[list[Row], dict[str, Any]]:
    """Return a row for each of our solvers, and block CG beside one right-hand side at a time."""
    theta = objective.theta

    def scores(solver: Solver) -> NDArray[np.float64]:
        found = point_influence(objective, theta, loss_gradients(test, theta), rows=problem.rows, solver=solver)
        return found.change.numpy()

    # A single repeat leaves the solver's noise a little above its usual tolerance, at which it would warn.
    stochastic = partial(lissa, steps=lissa_steps, repeats=1, seed=seed, tolerance=0.5)
    asked: list[tuple[str, str, Solver, int, bool]] = [
        ("exact", "dense Hessian, Cholesky, float64", exact, repeats, True),
        ("block CG", "all test points at once, float64, to 1.5e-8", conjugate_gradient, repeats, True),
        # The two slow ones run the code that the others have warmed up.
        ("CG, one at a time", "one test point after another, float64, to 1.5e-8", one_at_a_time, repeats, False),
        ("LiSSA", f"{lissa_steps} steps of batches of 64, one repeat, float64", stochastic, 1, False),
    ]
    rows: list[Row] = []
    found: dict[str, NDArray[np.float64]] = {}
    times: dict[str, list[float]] = {}
    for method, used, solver, count, warm_up in asked:
        found[method], times[method] = timed(partial(scores, solver), count, warm_up)
        agreement = rank_agreement(found[method], truth, seed)
        rows.append(_row(_OURS, method, used, agreement, times[method], rows[0].seconds if rows else None))
    block, single = times["block CG"], times["CG, one at a time"]
    middle = float(np.median(block))
    largest = np.abs(found["exact"]).max()
    return rows, {
        "ratio": bootstrap_mean(np.array(single) / middle, seed),
        "timings": len(single),
        "exact_cg_relative_difference": float(np.abs(found["exact"] - found["block CG"]).max() / largest),
        "block_single_relative_difference": float(
            np.abs(found["CG, one at a time"] - found["block CG"]).max() / largest
        ),
    }


def _asked(
    peer: Peer, problem: Problem, truth: NDArray[np.float64], seed: int, repeats: int, own_seconds: float | None
) -> Row:
    """Return a peer's row, also where it is not there or fails: the run goes on."""
    try:
        version = importlib.metadata.version(peer.name)
    except importlib.metadata.PackageNotFoundError:
        return Row(peer.name, peer.method, None, "not installed", None, None, None, 0, None, peer.used)
    try:
        # The libraries' own warnings and progress bars: nothing that a reader of the table could mend.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            scores, taken = timed(partial(peer.scores, problem), repeats)
        agreement = rank_agreement(scores.double().numpy(), truth, seed)
    except Exception as error:  # whatever another library raises
        text = (str(error).strip().splitlines() or [""])[0]
        status = f"failed: {type(error).__name__}: {text}"
        return Row(peer.name, peer.method, version, status, None, None, None, 0, None, peer.used)
    return _row(peer.name, peer.method, peer.used, agreement, taken, own_seconds)


def _row(
    tool: str,
    method: str,
    used: str,
    agreement: tuple[Estimate, float],
    taken: Sequence[float],
    own_seconds: float | None,
) -> Row:
    version = importlib.metadata.version("pellucid-influence" if tool == _OURS else tool)
    seconds = float(np.median(taken))
    ratio = seconds / (own_seconds or seconds)
    return Row(tool, method, version, "ok", *agreement, seconds, len(taken), ratio, used)


def stacked(models: int, steps: int, seed: int, repeats: int) -> dict[str, Any]:
    """Time retraining Iris networks of width 5 as one stack against a plain loop, each without one point."""
    data = load_data("iris", seed=seed)
    model = build_model(ModelChoice("mlp", data.shape, data.classes, seed, {"width": 5}))
    objective = Objective(model, build_loss("cross_entropy"), data.inputs, data.targets, l2=L2)
    weights = removal_weights([(i % objective.n,) for i in range(models)], objective.n, objective.theta)
    fit = partial(fit_all, objective, weights, None, Recipe(steps, 0.01), seed)
    together, quick = timed(partial(fit, stacked=True), repeats)
    # The loop runs the code that the stack has warmed up.
    apart, slow = timed(partial(fit, stacked=False), repeats, warm_up=False)
    return {
        "models": models,
        "steps": steps,
        "stacked_seconds": float(np.median(quick)),
        "loop_seconds": float(np.median(slow)),
        "timings": len(slow),
        "ratio": bootstrap_mean(np.array(slow) / float(np.median(quick)), seed),
        "largest_difference": max(float((a.theta - b.theta).abs().max()) for a, b in zip(together, apart, strict=True)),
    }


def grouped(
    objective: Objective, seed: int, limit: int | None, count: int, fractions: Sequence[float] = (0.2, 0.4)
) -> list[dict[str, Any]]:
    """Compare first order, second order and one-step Newton with retraining, for coherent groups of two sizes.

    Followed are the five test points of the highest loss. Correlations are over all group x test pairs.
    """
    data = load_data("digits", seed=seed, limit=limit)
    theta = objective.theta
    shared = Objective(objective.model, objective.loss, data.inputs, data.targets, l2=L2)
    worst = shared.with_data(data.test_inputs, data.test_targets).losses(theta).topk(5).indices
    test = shared.with_data(data.test_inputs[worst], data.test_targets[worst])
    found = []
    for fraction in fractions:
        groups = [g.indices for g in class_groups(data.targets, [fraction], repeats=count, seed=seed)]
        truth, norm = retrain(shared, test, groups)
        started = time.perf_counter()
        estimates = group_influence(shared, theta, groups, loss_gradients(test, theta))
        seconds = time.perf_counter() - started
        for method in ("first", "second", "newton"):
            guess = getattr(estimates, method).numpy()
            found.append(
                {
                    "fraction": fraction,
                    "groups": count,
                    "method": method,
                    "pearson": pearson(guess.ravel(), truth.ravel(), seed),
                    "relative_error": relative_error(guess, truth),
                    "largest_gradient_norm": norm,
                    "seconds_all_methods": seconds,
                }
            )
    return found


def summary(found: dict[str, Any]) -> str:
    """Return what `measure` found in two sentences."""
    block, stack, own = found["block_cg"], found["stacked"], found["tools"][0]
    absent = sorted({row.tool for row in found["tools"] if row.status != "ok"})
    return (
        f"Exact influence ranks removals as retraining does with Spearman {own.spearman} in {own.seconds:.2g} s; block "
        f"CG is {block['ratio']} times as fast as one right-hand side at a time, and stacked retraining of "
        f"{stack['models']} networks {stack['ratio']} times as fast as a loop."
        + (f" Without a score here: {', '.join(absent)}." if absent else "")
    )


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the tables of what `measure` found: the tools, our own ratios, and the groups."""
    tools = [
        [
            row.tool,
            row.method,
            row.version,
            row.status,
            *_ends(row.spearman),
            row.pooled,
            row.seconds,
            row.timings,
            row.ratio,
            row.used,
        ]
        for row in found["tools"]
    ]
    columns = ["tool", "method", "version", "status", "Spearman", "low", "high", "pooled Spearman", "seconds"]
    block, stack = found["block_cg"], found["stacked"]
    ratios = [
        ["CG, one at a time / block", *_ends(block["ratio"]), block["block_single_relative_difference"]],
        ["retraining, loop / stacked", *_ends(stack["ratio"]), stack["largest_difference"]],
    ]
    groups = [
        [row["fraction"], row["groups"], row["method"], *_ends(row["pearson"]), row["relative_error"]]
        for row in found["groups"]
    ]
    return [
        Table(
            "tools",
            [*columns, "timings", "times our exact", "settings"],
            tools,
            "Each tool's scores against retraining. Spearman is over the removals, averaged over test points, with an "
            "interval over test points; pooled is over all pairs. Seconds are the median from a trained model to all "
            "scores, in this run.",
        ),
        Table(
            "ratios",
            ["seconds", "ratio", "low", "high", "largest difference"],
            ratios,
            "Our fast ways against the plain ones, with an interval over timings. Differences are relative to the "
            "largest score (CG), or of the parameters themselves (retraining).",
        ),
        Table(
            "groups",
            ["share removed", "groups", "method", "Pearson", "low", "high", "relative error"],
            groups,
            "Coherent groups removed at once, against retraining, on the five test points of the highest loss.",
        ),
    ]


def _ends(estimate: Estimate | None) -> list[float | None]:
    return [None, None, None] if estimate is None else [estimate.value, estimate.low, estimate.high]
