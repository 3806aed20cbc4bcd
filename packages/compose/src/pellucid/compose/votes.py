"""A judge's vote between two pictures of one prompt: the offline stand-in for the human study (section 9.2.6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.scorers import Pictures, Scorer, check_pictures
from pellucid.core.statistics import Estimate, bootstrap_mean

Vote = Literal["base", "projected", "equal"]


@dataclass(frozen=True)
class Votes:
    """How often a judge prefers each side.

    Attributes:
        base: share of pairs in which the base model's picture fits better, with its binomial interval.
        projected: likewise of the projected one.
        equal: share in which both fit alike.
        gain: the mean score of the projected pictures minus the base ones, with a bootstrap interval over prompts.
        p_value: of an exact two-sided sign test over the pairs that are decided; 1 where none is.
        each: every pair's vote.
    """

    base: Estimate
    projected: Estimate
    equal: Estimate
    gain: Estimate
    p_value: float
    each: tuple[Vote, ...]


def judge_votes(
    base: Pictures,
    projected: Pictures,
    prompts: Sequence[str],
    scorer: Scorer,
    *,
    seeds: int = 1,
    margin: float = 0.0,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 2000,
) -> Votes:
    """Let a scorer choose between two models' pictures of the same prompts and seeds.

    The judge prefers the picture with the higher score; scores that differ by no more than `margin` are a draw. The
    intervals of the shares are Wilson's, for pairs that are independent: with several seeds a prompt they are too
    narrow, and `gain`, which resamples prompts, is the one to trust.

    Args:
        base: (n, h, w, 3) uint8.
        projected: the same of the other model, from the same noise.
        prompts: one a pair.
        scorer: from `load_scorer`, such as a CLIP-Score or an installed judge.
        seeds: how many pairs in succession are of one prompt.
        margin: of a draw, in the scorer's unit.
        level: of the intervals.
        seed: of the resamples.
        draws: how many resamples.

    Raises:
        DataError: pictures or prompts do not pair up, or there are none.
        OptionError: the pairs do not come in groups of `seeds`, or the margin is negative.
        ModelError: a score is not finite.
    """
    for pictures in (base, projected):
        check_pictures(pictures, prompts)
    if not len(prompts):
        raise DataError("there are no pairs of pictures to vote on: give at least one")
    if seeds < 1 or len(prompts) % seeds or margin < 0:
        raise OptionError(
            f"{len(prompts)} pairs, seeds={seeds}, margin={margin}: give whole groups of seeds, a margin of 0 or more"
        )
    one, two = (_scores(scorer, pictures, prompts) for pictures in (base, projected))
    gap = two - one
    each: tuple[Vote, ...] = tuple(
        "equal" if abs(value) <= margin else "projected" if value > 0 else "base" for value in gap
    )
    counts = {vote: each.count(vote) for vote in ("base", "projected", "equal")}
    shares = {vote: binomial_share(count, len(each), level) for vote, count in counts.items()}
    gain = bootstrap_mean(gap.reshape(-1, seeds).mean(1), seed, draws, level)
    return Votes(**shares, gain=gain, p_value=_sign_test(counts["base"], counts["projected"]), each=each)


def binomial_share(count: int, total: int, level: float = 0.95) -> Estimate:
    """A share with Wilson's score interval.

    Raises:
        DataError: the count does not lie between 0 and a total of 1 or more.
    """
    from scipy.stats import binomtest

    if total < 1 or not 0 <= count <= total:
        raise DataError(f"{count} of {total} is no share: give a count from 0 to a total of 1 or more")
    interval = binomtest(count, total).proportion_ci(confidence_level=level, method="wilson")
    share = count / total
    return Estimate(share, min(float(interval.low), share), max(float(interval.high), share))


def _sign_test(one: int, other: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def _scores(scorer: Scorer, pictures: Pictures, prompts: Sequence[str]) -> NDArray[np.float64]:
    found = np.asarray(scorer(pictures, prompts), dtype=np.float64)
    if found.shape != (len(prompts),) or not np.isfinite(found).all():
        raise ModelError(f"the scorer gives {found.shape} for {len(prompts)} pictures, or what is not finite: mend it")
    return found
