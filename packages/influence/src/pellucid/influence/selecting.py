"""`influence select`: ways of choosing the most influential group, each judged by retraining, over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import OptionError
from pellucid.core.report import Report, Section, Table
from pellucid.core.statistics import Estimate, bootstrap_mean

from .commands import config_of, data_of, described, report_of
from .compare import compare, test_gradients
from .figures import selection_bars
from .groups import Group, random_groups
from .jobs import Problem, accuracy, trained
from .retraining import TruthJob, objective_of
from .selection import Direction, Selection, adaptive_greedy, first_order_top_k, second_order_relaxed
from .truth import leave_out

METHODS = ("first_order_top_k", "second_order_relaxed", "adaptive_greedy")


@dataclass(frozen=True)
class Judged:
    """What each way of choosing came to on one seed's data.

    Attributes:
        job: data, trained model and test point.
        gradient_norm: of the trained model.
        chosen: one selection a method of `METHODS`.
        truth: the retrained change of the test loss without each; `random`: without ten random groups.
        sign: 1 where an increase was asked for, else -1.
    """

    job: TruthJob
    gradient_norm: float
    chosen: tuple[Selection, ...]
    truth: tuple[float, ...]
    random: tuple[float, ...]
    sign: int

    @property
    def gains(self) -> tuple[float, ...]:
        """Retrained effect of each method above first-order top-k's, as a share of that; nan where that is none."""
        first = self.sign * self.truth[0]
        return tuple(self.sign * t / first - 1 if first > 0 else float("nan") for t in self.truth)


def judge(
    problem: Problem,
    test_point: str,
    ledger: Path,
    *,
    size: int,
    direction: Direction = "increase",
    damping: float = 0.0,
    solver: str = "auto",
    **options: Any,
) -> Judged:
    """Choose the most influential group of a size, three ways and at random, and retrain without each.

    Args:
        problem: data and model.
        test_point: see `jobs.pick_test`.
        ledger: where finished retrainings are kept.
        size: points in the group.
        direction: `increase` or `decrease` the test loss.
        damping: added to the Hessian's diagonal.
        solver: see `solvers.resolve`.
        options: of `leave_out`, such as `workers`.

    Raises:
        PellucidError: what is wrong with the data, the model, the options or the Hessian.
    """
    data = data_of(problem)
    if not 1 <= size < len(data.inputs):
        raise OptionError(f"size is {size}: choose from 1 to {len(data.inputs) - 1}, one less than the training points")
    job, fit = trained(problem, data, test_point)
    objective = objective_of(job)
    theta = objective.theta
    quantity = test_gradients(job, objective, theta)
    same: dict[str, Any] = {"direction": direction, "solver": solver, "damping": damping}
    chosen = (
        first_order_top_k(objective, theta, quantity, size, **same),
        second_order_relaxed(objective, theta, quantity, size, seed=problem.seed, **same),
        adaptive_greedy(objective, theta, quantity, size, **same),
    )
    control = random_groups(objective.n, [size], repeats=10, seed=problem.seed)
    truth = leave_out(job, [c.indices for c in chosen] + [g.indices for g in control], ledger, **options)
    changes = truth.changes[:, 0].tolist()
    sign = 1 if direction == "increase" else -1
    return Judged(job, fit.gradient_norm, chosen, tuple(changes[:3]), tuple(changes[3:]), sign)


def select_report(
    problem: Problem,
    test_point: str,
    ledger: Path,
    *,
    size: int,
    direction: str = "increase",
    damping: float = 0.0,
    solver: str = "auto",
    seeds: int = 1,
    **options: Any,
) -> Report:
    """Report `judge` on the problem, and over further seeds what each method gains on first-order top-k.

    Args:
        problem: data and model of the first seed.
        test_point: see `judge`, also for the other arguments.
        ledger: where finished retrainings are kept.
        size: points in the group.
        direction: `increase` or `decrease` the test loss.
        damping: added to the Hessian's diagonal.
        solver: see `solvers.resolve`.
        seeds: how many, from the problem's on; each decides data, split and random groups.
        options: of `leave_out`, such as `workers`.
    """
    if direction not in ("increase", "decrease"):
        raise OptionError(f"there is no direction {direction!r}: choose increase or decrease")
    way: Direction = "increase" if direction == "increase" else "decrease"
    same: dict[str, Any] = {"size": size, "direction": way, "damping": damping, "solver": solver}
    rounds = [
        judge(replace(problem, seed=problem.seed + step), test_point, ledger, **same, **options)
        for step in range(seeds)
    ]
    section, results, sentence = _first(rounds[0], problem, ledger, size, damping, solver, dict(options))
    config = config_of(
        problem, test_point=test_point, size=size, direction=way, damping=damping, solver=solver, seeds=seeds,
        workers=options.get("workers", 0),
    )  # fmt: skip
    if seeds > 1:
        gains = over_seeds(rounds, problem.seed)
        sentence += " " + _said(gains, len(rounds))
        text = [sentence, *section.text[1:]]
        section = Section(section.title, text, section.figures, [*section.tables, _gains_table(rounds, gains)])
        results |= {"gains": gains, "rounds": [{"truth": r.truth, "random": r.random} for r in rounds]}
    return report_of("select", section.title, config, problem, [section], results, sentence)


def over_seeds(rounds: Sequence[Judged], seed: int = 0) -> dict[str, Estimate]:
    """Each method's mean gain on first-order top-k in retrained effect, with its interval over seeds."""
    table = np.array([r.gains for r in rounds])
    sound = np.isfinite(table).all(axis=1)
    if sound.sum() < 2:
        raise OptionError("first-order top-k has no effect on all but one seed: there is nothing to compare with")
    return {method: bootstrap_mean(table[sound, place], seed) for place, method in enumerate(METHODS) if place}


def _said(gains: dict[str, Estimate], seeds: int) -> str:
    parts = [f"{m.replace('_', ' ')} {e.value:+.1%} [{e.low:+.1%}, {e.high:+.1%}]" for m, e in gains.items()]
    return f"Over {seeds} seeds, gains on first-order top-k in retrained effect: " + ", ".join(parts) + "."


def _gains_table(rounds: Sequence[Judged], gains: dict[str, Estimate]) -> Table:
    rows = []
    for place, method in enumerate(METHODS):
        gain = gains.get(method)
        rows.append([method, float(np.mean([r.truth[place] for r in rounds])), None if gain is None else str(gain)])
    rows.append(["random groups", float(np.mean([np.mean(r.random) for r in rounds])), None])
    return Table(
        "gains", ["chosen by", "retrained change, mean", "gain on first-order top-k"], rows,
        f"Over {len(rounds)} seeds, with 95 % bootstrap intervals; 0.1 is a tenth more effect.",
    )  # fmt: skip


def _first(
    judged: Judged, problem: Problem, ledger: Path, size: int, damping: float, solver: str, options: dict[str, Any]
) -> tuple[Section, dict[str, Any], str]:
    job, n = judged.job, len(judged.job.data.inputs)
    assert job.tests is not None
    test = job.tests[0]
    selections: list[dict[str, Any]] = [
        {
            "method": c.method, "size": size, "fraction": size / n, "predicted": c.effect, "truth": change,
            "points": c.indices,
        }
        for c, change in zip(judged.chosen, judged.truth, strict=True)
    ]  # fmt: skip
    groups = [Group(c.indices, c.method, size / n) for c in judged.chosen]  # type: ignore[arg-type]
    # The truth is in the ledger by now: comparing costs the estimates alone.
    options.pop("retry_failed", None)
    found = compare(job, groups, ledger, solver=solver, damping=damping, seed=problem.seed, **options)
    at_random = float(np.mean(judged.random))
    best = max(selections, key=lambda s: judged.sign * s["truth"])
    sentence = (
        f"Of {n} training points, the group of {size} found by {best['method']} changes the loss of test "
        f"point {test} the most when the model is retrained without it: by {best['truth']:+.3g}. First-order top-k "
        f"reaches {judged.truth[0]:+.3g}, second-order {judged.truth[1]:+.3g}, adaptive greedy "
        f"{judged.truth[2]:+.3g}; ten random groups {at_random:+.2g} on average."
    )
    rows = [[s["method"], s["predicted"], s["truth"]] for s in selections]
    rows.append(["ten random groups, mean", None, at_random])
    table = Table(
        "selection", ["chosen by", "its own prediction", "retrained"], rows,
        f"Change of the test loss when the chosen group of {size} is removed.",
    )  # fmt: skip
    bars = selection_bars(METHODS, [c.effect for c in judged.chosen], judged.truth, at_random)
    results = {
        "test": test, "direction": "increase" if judged.sign > 0 else "decrease", "selections": selections,
        "random": list(judged.random), "groups": found.records, "gradient_norm": judged.gradient_norm,
        "accuracy": accuracy(job),
    }  # fmt: skip
    section = Section("The most influential group", [sentence, described(problem, job)], [bars], [table])
    return section, results, sentence
