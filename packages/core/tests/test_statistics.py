"""Every fast formula against a slow one, and the intervals against what they promise."""

import re
import tracemalloc
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.core.statistics import (
    Estimate,
    Estimates,
    auroc,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_means,
    pearson,
    relative_error,
    spearman,
)

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
pairs = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=30).filter(
    lambda rows: len({x for x, _ in rows}) > 1 and len({y for _, y in rows}) > 1
)


@given(st.lists(numbers, min_size=1, max_size=30), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_a_mean_lies_in_its_interval_and_the_interval_in_the_data(values: list[float], seed: int) -> None:
    estimate = bootstrap_mean(values, seed, draws=100)
    slack = 1e-9 * max(1.0, *(abs(value) for value in values))
    assert estimate.value == pytest.approx(np.mean(values), abs=slack)
    assert min(values) - slack <= estimate.low <= estimate.value <= estimate.high <= max(values) + slack


@given(pairs, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize("method", [pearson, spearman])
def test_correlations_lie_in_their_interval_whatever_the_order(
    method: Callable[..., Estimate], rows: list[tuple[int, int]], random: Random
) -> None:
    estimate = method(*zip(*rows, strict=True), seed=1, draws=60)
    shuffled = random.sample(rows, len(rows))
    assert method(*zip(*shuffled, strict=True), seed=1, draws=60) == estimate
    assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_spearman_sees_only_the_order_of_values(rows: list[tuple[int, int]]) -> None:
    x, y = np.array(rows, dtype=float).T
    assert spearman(x**3 + x, np.exp(y / 10), seed=2, draws=60) == spearman(x, y, seed=2, draws=60)
    flipped, straight = spearman(x, -y, seed=2, draws=60), spearman(x, y, seed=2, draws=60)
    assert flipped.value == pytest.approx(-straight.value, abs=1e-12)


@given(pairs, st.floats(0.1, 10), numbers)
@settings(max_examples=50, deadline=None)
def test_pearson_does_not_change_with_scale_and_shift(rows: list[tuple[int, int]], scale: float, shift: float) -> None:
    x, y = np.array(rows, dtype=float).T
    moved, still = pearson(scale * x + shift, y, seed=2, draws=60), pearson(x, y, seed=2, draws=60)
    assert (moved.value, moved.low, moved.high) == pytest.approx((still.value, still.low, still.high), abs=1e-6)


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_correlations_agree_with_scipy(rows: list[tuple[int, int]]) -> None:
    x, y = zip(*rows, strict=True)
    assert pearson(x, y, seed=0, draws=50).value == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-9)
    assert spearman(x, y, seed=0, draws=50).value == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-9)


def slow_auroc(scores: list[float], labels: list[bool]) -> float:
    wins = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, is_positive in zip(scores, labels, strict=True)
        for low, is_other_positive in zip(scores, labels, strict=True)
        if is_positive and not is_other_positive
    ]
    return sum(wins) / len(wins)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({label for _, label in rows}) == 2
    )
)
@settings(max_examples=80, deadline=None)
def test_auroc_equals_counting_pairs(rows: list[tuple[int, bool]]) -> None:
    scores, labels = [float(score) for score, _ in rows], [label for _, label in rows]
    estimate = auroc(scores, labels, seed=0, draws=50)
    assert estimate.value == pytest.approx(slow_auroc(scores, labels), abs=1e-12)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    reverse = auroc(scores, [not label for label in labels], seed=0, draws=50)
    assert reverse.value == pytest.approx(1 - estimate.value, abs=1e-12)


def test_perfect_and_useless_scores() -> None:
    assert auroc([1, 2, 3, 4], [0, 0, 1, 1], seed=0) == Estimate(1, 1, 1)
    assert auroc([5, 5, 5, 5], [0, 1, 0, 1], seed=0) == Estimate(0.5, 0.5, 0.5)
    assert pearson([1, 2, 3, 4], [2, 4, 6, 8], seed=0).low == pytest.approx(1)
    assert spearman([1, 2, 3], [9, 4, 1], seed=0).value == pytest.approx(-1)


@pytest.mark.parametrize("method", [bootstrap_mean, pearson, spearman])
def test_intervals_agree_with_scipys_bootstrap(method: Callable[..., Estimate]) -> None:
    random = np.random.default_rng(5)
    x = random.normal(size=60)
    data: tuple[np.ndarray, ...] = (x, x + random.normal(size=60))
    statistics: dict[Any, Callable[..., Any]] = {
        bootstrap_mean: np.mean,
        pearson: lambda a, b: scipy.stats.pearsonr(a, b).statistic,
        spearman: lambda a, b: scipy.stats.spearmanr(a, b).statistic,
    }
    if method is bootstrap_mean:
        data = (x,)
    ours = method(*data, seed=1, draws=8000)
    theirs = scipy.stats.bootstrap(
        data, statistics[method], paired=True, vectorized=False, n_resamples=3000, method="percentile", rng=2
    ).confidence_interval
    # Two independent bootstraps: their ends differ by Monte Carlo noise, well below the interval's own width.
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.08 * (theirs.high - theirs.low))


def test_ninety_five_percent_intervals_cover_about_that_often() -> None:
    random = np.random.default_rng(11)
    samples = random.normal(3, 2, size=(400, 50))
    means = bootstrap_means(samples.T, seed=0, draws=600)
    covered = np.mean((means.low <= 3) & (means.high >= 3))
    assert 0.90 <= covered <= 0.98
    halves = bootstrap_means(samples.T, seed=0, draws=600, level=0.5)
    assert 0.40 <= np.mean((halves.low <= 3) & (halves.high >= 3)) <= 0.58


def test_means_equal_the_single_column_and_keep_the_shape_of_a_row() -> None:
    values = np.random.default_rng(0).normal(size=(25, 3, 4))
    estimates = bootstrap_means(values, seed=3)
    assert estimates.value.shape == estimates.low.shape == estimates.high.shape == (3, 4)
    assert len(estimates) == 3
    np.testing.assert_allclose(estimates.value, values.mean(axis=0), atol=1e-12)
    row, one = estimates[1], estimates[0, 0]
    assert isinstance(row, Estimates)
    assert isinstance(one, Estimate)
    assert row.value.shape == (4,)
    single = bootstrap_mean(values[:, 0, 0], seed=3)
    # The first column decides the order of rows, so that its resamples are those of the column alone.
    assert (one.value, one.low, one.high) == pytest.approx((single.value, single.low, single.high), abs=1e-12)


def test_many_columns_stay_within_bounded_memory() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 330))
    tracemalloc.start()
    estimates = bootstrap_means(values, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert estimates.value.shape == (330,)
    assert peak < 120 * 2**20  # all 2000 x 1000 x 330 resampled values would be 5 GB


def test_a_difference_of_pairs_is_sharper_than_of_groups() -> None:
    random = np.random.default_rng(4)
    base = random.normal(0, 10, size=80)
    a, b = base + 1 + random.normal(0, 0.1, size=80), base
    paired, unpaired = (bootstrap_difference(a, b, 0, paired=paired) for paired in (True, False))
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.low > 0.9
    assert paired.high < 1.1
    assert unpaired.low < 0 < unpaired.high
    assert bootstrap_difference([1.0, 2], [5.0], 0, paired=False).value == pytest.approx(-3.5)


def test_the_seed_decides_the_interval_and_nothing_else_does() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values[::-1], seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.5 [0.25, 0.75]"


def test_tiny_and_huge_numbers_keep_their_correlation() -> None:
    x = np.array([1.0, 2, 3, 5])
    assert pearson(x * 1e-300, x**2 * 1e200, seed=0).value == pytest.approx(pearson(x, x**2, seed=0).value)
    assert relative_error(x * 1e-300, 2 * x * 1e-300) == pytest.approx(0.5)


def test_relative_error() -> None:
    assert relative_error([3.0, 4.0], [3.0, 4.0]) == 0
    assert relative_error([0.0, 0.0], [3.0, 4.0]) == 1
    assert relative_error(1.1, 1.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([], 0), "values is empty"),
        (lambda: bootstrap_mean([1, float("nan")], 0), "values[1] is nan"),
        (lambda: bootstrap_mean(["a"], 0), "values cannot be read as numbers"),
        (lambda: bootstrap_mean([[1.0]], 0), "values has shape (1, 1)"),
        (lambda: bootstrap_means([1.0, 2.0], 0), "values has shape (2,)"),
        (lambda: bootstrap_means([[1.0, 2.0], [3.0, float("inf")]], 0), "values[1, 1] is inf"),
        (lambda: bootstrap_difference([1, 2], [1], 0, paired=True), "a has 2 values and b 1"),
        (lambda: pearson([1, 2], [1, 2], 0), "there are 2 pairs"),
        (lambda: pearson([1, 1, 1], [1, 2, 3], 0), "x is constant (1)"),
        (lambda: spearman([1, 2, 3], [2, 2, 2], 0), "y is constant (2)"),
        (lambda: spearman([1, 2, 3], [2, 2], 0), "x has 3 values and y 2"),
        (lambda: auroc([1, 2], [1, 1], 0), "labels has 2 positives and 0 negatives"),
        (lambda: auroc([1, 2], [1, 2], 0), "labels holds 2"),
        (lambda: auroc([1, 2, 3], [1, 0], 0), "scores has 3 values and labels 2"),
        (lambda: relative_error([1.0], [0.0]), "truth is all zeros"),
        (lambda: relative_error([1.0], [1.0, 2.0]), "estimate has shape (1,) and truth (2,)"),
    ],
)
def test_bad_data_gives_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": 0, "draws": 0}, {"seed": 0, "level": 1.0}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=list(options)[-1]):
        bootstrap_mean([1, 2, 3], **options)
