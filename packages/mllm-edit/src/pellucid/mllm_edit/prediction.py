"""Telling right answers from wrong ones before they are given: mid-layer contributions against confidence (6.3.4).

The thesis averages the contributions of the constraint's last token to the last token over layers 16 and 17 of LLaVA's
32 (AUROC 0.63), and finds the probability of the answer a better sign (0.76). Here the layers are chosen on one half of
the questions and judged on the other, beside the same layers' place in the thesis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pellucid.core.errors import DataError, OptionError
from pellucid.core.statistics import Estimate, auroc


@dataclass(frozen=True)
class LayerSign:
    """How well one layer's contributions tell right answers from wrong ones, over all questions."""

    layer: int
    auroc: Estimate


@dataclass(frozen=True)
class Prediction:
    """What foretells a right answer. Every AUROC is above 0.5 where larger numbers mean right answers.

    Attributes:
        layers: each layer alone, over all questions.
        middle: the layers in the middle (the thesis's 16 and 17 of 32), counted from 0.
        by_middle: AUROC of their mean contribution, over all questions: nothing is chosen there.
        chosen: the two neighbouring layers with the largest AUROC on the choosing half.
        by_chosen: AUROC of their mean contribution on the other half.
        by_confidence: AUROC of the model's confidence, over all questions.
        by_confidence_there: the same on that other half, to compare `by_chosen` with.
        gain: AUROC of the confidence minus that of the middle layers, with an interval from shared resamples.
        right: how many answers are right; `wrong`: how many are not.
    """

    layers: tuple[LayerSign, ...]
    middle: tuple[int, int]
    by_middle: Estimate
    chosen: tuple[int, int]
    by_chosen: Estimate
    by_confidence: Estimate
    by_confidence_there: Estimate
    gain: Estimate
    right: int
    wrong: int


def predict_correctness(
    contributions: ArrayLike, confidence: ArrayLike, correct: Sequence[bool] | ArrayLike, seed: int = 0
) -> Prediction:
    """Compare contributions and confidence as signs of a right answer.

    Args:
        contributions: norms of what the constraint's last token adds to the last prompt token, `(questions, layers)`.
        confidence: probability of the answer that the model gives, `(questions,)`.
        correct: whether that answer is right, `(questions,)`.
        seed: of the split into halves and of the intervals.

    Raises:
        DataError: lengths differ, a number is not finite, or there are fewer than two right or two wrong answers.
        OptionError: there are fewer than two layers.
    """
    table, sure = np.asarray(contributions, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct).astype(bool)
    if table.ndim != 2 or sure.shape != right.shape or len(table) != len(right) or right.ndim != 1:
        raise DataError(
            f"contributions of shape {table.shape}, confidence of {sure.shape} and correct of {right.shape} do not "
            "belong together: give (questions, layers), (questions,), (questions,)"
        )
    if table.shape[1] < 2:
        raise OptionError(f"contributions have {table.shape[1]} layers: give those of at least two")
    if min(right.sum(), (~right).sum()) < 2:
        raise DataError(
            f"{right.sum()} answers are right and {(~right).sum()} wrong: give questions with at least two of both"
        )
    middle = middle_layers(table.shape[1])
    choosing = _halves(right, seed)
    pairs = (table[:, :-1] + table[:, 1:]) / 2
    alone = [auroc(pairs[choosing, first], right[choosing], seed, draws=1).value for first in range(pairs.shape[1])]
    first = int(np.argmax(alone))
    there = ~choosing
    return Prediction(
        layers=tuple(LayerSign(at, auroc(table[:, at], right, seed)) for at in range(table.shape[1])),
        middle=middle,
        by_middle=auroc(pairs[:, middle[0]], right, seed),
        chosen=(first, first + 1),
        by_chosen=auroc(pairs[there, first], right[there], seed),
        by_confidence=auroc(sure, right, seed),
        by_confidence_there=auroc(sure[there], right[there], seed),
        gain=auroc_difference(sure, pairs[:, middle[0]], right, seed),
        right=int(right.sum()),
        wrong=int((~right).sum()),
    )


def middle_layers(layers: int) -> tuple[int, int]:
    """Two neighbouring layers where the thesis finds its two: 16 and 17 of LLaVA's 32, 4 and 5 of 8, from 0."""
    first = min(layers // 2, layers - 2)
    return first, first + 1


def auroc_difference(
    first: ArrayLike, second: ArrayLike, correct: ArrayLike, seed: int, draws: int = 2000, level: float = 0.95
) -> Estimate:
    """AUROC of the first signs minus that of the second, with an interval from resamples that both share.

    Args:
        first: shape (n,).
        second: shape (n,).
        correct: shape (n,), booleans.
        seed: of the resamples: right and wrong ones are drawn separately.
        draws: how many resamples.
        level: share of repetitions in which the interval should hold the true difference.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    right = np.asarray(correct).astype(bool)
    wins = [_wins(signs, right) for signs in (one, two)]
    gaps = wins[0] - wins[1]
    random = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):
        # A pair's weight is the product of how often its two questions were drawn.
        up, down = (np.bincount(random.integers(n, size=n), minlength=n) for n in gaps.shape)
        found[draw] = up @ gaps @ down / (len(up) * len(down))
    value = float(gaps.mean())
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value))


def _wins(signs: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 where a right answer's sign is above a wrong one's, 1/2 where they tie: (right, wrong)."""
    up, down = signs[right][:, None], signs[~right][None, :]
    return (up > down) + 0.5 * (up == down)


def _halves(right: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """True for the choosing half: half of the right answers and half of the wrong ones, at random."""
    random = np.random.default_rng(seed)
    choosing = np.zeros(len(right), dtype=bool)
    for kind in (right, ~right):
        places = random.permutation(np.flatnonzero(kind))
        choosing[places[: len(places) // 2]] = True
    return choosing
