"""What the fragility study says: the thesis's claims, each as a difference with an interval over seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log10
from typing import Any

import numpy as np
from pellucid.core.statistics import Estimate, bootstrap_mean

from .settings import DECAY, StudySetting
from .study import Study, StudyRow

FEWEST = 3
"""Fewer pairs than this give no interval worth the name."""

Measure = Callable[[StudyRow], float | None]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Finding:
    """One claim of the thesis, tested.

    Attributes:
        claim: what the thesis says, so that a positive difference agrees with it.
        measure: what is compared.
        difference: the mean over pairs, with its interval.
        pairs: pairs of settings that differ in this alone (or, for two numbers of one setting, settings).
        verdict: `as in the thesis`, `the opposite`, or `not told apart` where the interval holds 0.
    """

    claim: str
    measure: str
    difference: Estimate
    pairs: int
    verdict: str


def findings(study: Study, seed: int = 0) -> list[Finding]:
    """Return every finding that the study's settings allow.

    Args:
        study: of settings over several seeds.
        seed: of the bootstrap intervals.
    """
    found: list[Finding | None] = []
    outcomes = study.outcomes

    def across(claim: str, measure: str, value: Measure, a: Callable[[StudySetting], Key | None], b: Any) -> None:
        """Settings that `a` and `b` give the same key are a pair: value of a minus value of b."""
        first = {key: value(row) for setting, row in outcomes if (key := a(setting)) is not None}
        second = {key: value(row) for setting, row in outcomes if (key := b(setting)) is not None}
        differences = [_minus(first[key], second[key]) for key in first if key in second]
        found.append(_finding(claim, measure, differences, seed))

    def within(claim: str, measure: str, one: Measure, other: Measure) -> None:
        found.append(_finding(claim, measure, [_minus(one(row), other(row)) for _, row in outcomes], seed))

    rho = "Spearman, most influential points, test point of highest loss"
    nets = [s for s, _ in outcomes if not s.is_convolutional]
    for convolutional, nice in ((False, "feed-forward"), (True, "convolutional")):
        across(
            f"with weight decay above without ({nice} networks)", rho, _rho,
            _decayed(DECAY, convolutional), _decayed(0.0, convolutional),
        )  # fmt: skip
    strongest = max((s.l2 for s, _ in outcomes if s.is_convolutional), default=0.0)
    if strongest > DECAY:
        across(f"weight decay {DECAY:g} above {strongest:g} (convolutional networks)", rho, _rho,
               _decayed(DECAY, True), _decayed(strongest, True))  # fmt: skip
    if nets:
        depths = [_option(s, "depth") for s in nets]
        widths = [_option(s, "width") for s in nets]
        ends = {"depth": (min(depths), max(depths)), "width": (min(widths), max(widths))}
        for name, claim in (("depth", "shallow above deep"), ("width", "narrow above wide")):
            low, high = ends[name]
            if low == high:
                continue
            near, far = _at(name, low), _at(name, high)
            across(f"{claim} ({name} {low} minus {high})", rho, _rho, near, far)
            if name == "depth":
                across(f"shallow above deep (depth {low} minus {high})", "Spearman, norms of parameter changes",
                       lambda row: _value(row.correlation("norm")), near, far)  # fmt: skip
            across(f"top eigenvalue grows with {name} ({high} minus {low})", "log10 of the top eigenvalue",
                   lambda row: log10(row.top_eigenvalue) if row.top_eigenvalue else None, far, near)  # fmt: skip
    across(
        "parameter changes are misjudged more without weight decay", "|log10 of predicted / retrained norm|, median",
        _misjudged, _decayed(0.0, False), _decayed(DECAY, False),
    )  # fmt: skip
    within("exact above stochastic estimation", rho, _paired_rho, lambda row: _value(row.correlation("stochastic")))
    within("most influential points above those at the 30th percentile", "Spearman, test point of highest loss",
           _rho, lambda row: _value(row.correlation(subset="low")))  # fmt: skip
    within("test point of highest loss above median loss", "Spearman, most influential points",
           _rho, lambda row: _value(row.correlation(test=1)))  # fmt: skip
    return [finding for finding in found if finding is not None]


def _finding(claim: str, measure: str, differences: list[float | None], seed: int) -> Finding | None:
    values = [d for d in differences if d is not None]
    if len(values) < FEWEST:
        return None
    estimate = bootstrap_mean(values, seed)
    verdict = "as in the thesis" if estimate.low > 0 else "the opposite" if estimate.high < 0 else "not told apart"
    return Finding(claim, measure, estimate, len(values), verdict)


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _rho(row: StudyRow) -> float | None:
    return _value(row.correlation())


def _paired_rho(row: StudyRow) -> float | None:
    return _rho(row) if row.stochastic else None


def _misjudged(row: StudyRow) -> float | None:
    guess, truth = row.pairs("norm", 0, "top")
    sound = (guess > 0) & (truth > 0)
    return float(np.median(np.abs(np.log10(guess[sound] / truth[sound])))) if sound.any() else None


def _option(setting: StudySetting, name: str) -> Any:
    return dict(setting.options).get(name)


def _rest(setting: StudySetting, *without: str) -> Key:
    """What must be equal in a pair of settings that differ in `without`."""
    options = tuple(pair for pair in setting.options if pair[0] not in without)
    return (setting.model, setting.data, setting.seed, options, *(() if "l2" in without else (setting.l2,)))


def _decayed(factor: float, convolutional: bool) -> Callable[[StudySetting], Key | None]:
    return lambda s: _rest(s, "l2") if s.l2 == factor and s.is_convolutional == convolutional else None


def _at(name: str, value: Any) -> Callable[[StudySetting], Key | None]:
    return lambda s: _rest(s, name) if not s.is_convolutional and _option(s, name) == value else None
