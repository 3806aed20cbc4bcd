"""Numbers with their uncertainty: means, differences, correlations and AUROC with bootstrap intervals.

Every interval is a percentile bootstrap (Efron and Tibshirani, 1993, chapter 13) over the first axis: rows are
drawn with replacement, and the interval lies between two quantiles of the resampled statistic. The rows are sorted
before anything is drawn, so that a result depends on the data and the seed alone: never on the order in which
workers handed rows in. An interval always includes its own point estimate (it is widened where rounding or bias
would leave it out).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DataError, OptionError

Floats = NDArray[np.float64]

_CHUNK = 1 << 21
"""How many resampled values are held at once: 16 MiB in float64."""


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its interval, all in the unit of the data; prints as `0.83 [0.80, 0.86]`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Estimates:
    """Many estimates from the same resamples: three arrays of one shape; indexing gives an `Estimate` or a part."""

    value: Floats
    low: Floats
    high: Floats

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: Any) -> "Estimate | Estimates":
        value, low, high = self.value[index], self.low[index], self.high[index]
        if np.ndim(value) == 0:
            return Estimate(float(value), float(low), float(high))
        return Estimates(value, low, high)


def bootstrap_mean(values: ArrayLike, seed: int, draws: int = 2000, level: float = 0.95) -> Estimate:
    """Return the mean of some numbers with its interval.

    Args:
        values: shape (n,).
        seed: of the resamples; the same seed and data give the same interval.
        draws: how many resamples.
        level: share of repetitions in which the interval should hold the true mean, between 0 and 1.

    Raises:
        DataError: if there are no values, or one is not a finite number.
    """
    only = bootstrap_means(_numbers(values, "values", 1)[:, None], seed, draws, level)
    return Estimate(float(only.value[0]), float(only.low[0]), float(only.high[0]))


def bootstrap_means(values: ArrayLike, seed: int, draws: int = 2000, level: float = 0.95) -> Estimates:
    """Return the mean over the first axis for many columns at once, all from the same resamples.

    A resample of n rows is n counts, so that all columns' means are one matrix product a chunk of resamples; memory
    stays at some tens of MiB besides `draws` means a column.

    Args:
        values: shape (n, ...), such as (probes, layers, heads).
        seed: see `bootstrap_mean`.
        draws: see `bootstrap_mean`.
        level: see `bootstrap_mean`.

    Returns:
        Estimates of shape (...), the shape of one row.

    Raises:
        DataError: if there are no rows or columns, or a value is not a finite number.
    """
    data = _numbers(values, "values")
    if data.ndim < 2:
        raise DataError(f"values has shape {data.shape}: give rows and columns (bootstrap_mean takes one column)")
    _check_options(seed, draws, level)
    columns = _sorted_rows(data.reshape(len(data), -1))
    means = _resampled_means(columns, np.random.default_rng(seed), draws)
    value, low, high = (part.reshape(data.shape[1:]) for part in _interval(columns.mean(axis=0), means, level))
    return Estimates(value, low, high)


def bootstrap_difference(
    a: ArrayLike, b: ArrayLike, seed: int, *, paired: bool, draws: int = 2000, level: float = 0.95
) -> Estimate:
    """Return mean(a) - mean(b) with its interval.

    Args:
        a: shape (n,).
        b: shape (m,); with `paired`, m = n and b[i] was measured on the same thing as a[i].
        seed: see `bootstrap_mean`.
        paired: resample the n differences; otherwise a and b are resampled independently.
        draws: see `bootstrap_mean`.
        level: see `bootstrap_mean`.

    Raises:
        DataError: if either is empty or not finite, or if pairs have unequal lengths.
    """
    first, second = _numbers(a, "a", 1), _numbers(b, "b", 1)
    if paired:
        _check_lengths(first, second, "a", "b")
        return bootstrap_mean(first - second, seed, draws, level)
    _check_options(seed, draws, level)
    random = np.random.default_rng(seed)
    first, second = np.sort(first), np.sort(second)
    means = _resampled_means(first[:, None], random, draws) - _resampled_means(second[:, None], random, draws)
    return _estimate(float(first.mean() - second.mean()), means[:, 0], level)


def pearson(x: ArrayLike, y: ArrayLike, seed: int, draws: int = 2000, level: float = 0.95) -> Estimate:
    """Return Pearson's correlation of pairs with its interval, resampling the pairs.

    Resamples in which x or y happens to be constant have no correlation and are left out.

    Args:
        x: shape (n,), n >= 3.
        y: shape (n,).
        seed: see `bootstrap_mean`.
        draws: see `bootstrap_mean`.
        level: see `bootstrap_mean`.

    Raises:
        DataError: if there are fewer than three pairs, unequal lengths, values that are not finite, or if x or y is
            constant.
    """
    return _correlation(x, y, lambda rows: rows, seed, draws, level)


def spearman(x: ArrayLike, y: ArrayLike, seed: int, draws: int = 2000, level: float = 0.95) -> Estimate:
    """Return Spearman's rank correlation with its interval: Pearson's on ranks, ranked anew in every resample.

    Ties share the mean of their ranks. Arguments and errors are those of `pearson`.
    """
    return _correlation(x, y, _ranks, seed, draws, level)


def auroc(scores: ArrayLike, labels: ArrayLike, seed: int, draws: int = 2000, level: float = 0.95) -> Estimate:
    """Return the area under the ROC curve with its interval.

    This is the probability that a positive scores above a negative, ties counting half: the Mann-Whitney U over the
    number of (positive, negative) pairs. Positives and negatives are resampled separately, so that no resample is
    without one of them.

    Args:
        scores: shape (n,); higher should mean positive.
        labels: shape (n,), booleans or 0 and 1.
        seed: see `bootstrap_mean`.
        draws: see `bootstrap_mean`.
        level: see `bootstrap_mean`.

    Raises:
        DataError: if lengths differ, a score is not finite, a label is neither 0 nor 1, or either class is absent.
    """
    points, marks = _numbers(scores, "scores", 1), _numbers(labels, "labels", 1)
    _check_lengths(points, marks, "scores", "labels")
    strange = marks[(marks != 0) & (marks != 1)]
    if len(strange):
        raise DataError(f"labels holds {strange[0]:g}: only 0 and 1 (or booleans) can be told apart")
    positive, negative = np.sort(points[marks == 1]), np.sort(points[marks == 0])
    if not len(positive) or not len(negative):
        raise DataError(f"labels has {len(positive)} positives and {len(negative)} negatives: AUROC needs both")
    _check_options(seed, draws, level)
    random = np.random.default_rng(seed)
    areas = [
        _areas(
            positive[random.integers(len(positive), size=(count, len(positive)))],
            negative[random.integers(len(negative), size=(count, len(negative)))],
        )
        for count in _chunks(draws, len(points))
    ]
    return _estimate(float(_areas(positive[None], negative[None])[0]), np.concatenate(areas), level)


def relative_error(estimate: ArrayLike, truth: ArrayLike) -> float:
    """Return |estimate - truth| / |truth|, Euclidean norms over all entries: 0 is exact, 1 is as bad as zeros.

    Args:
        estimate: any shape.
        truth: the same shape.

    Raises:
        DataError: if shapes differ, either is empty or not finite, or truth is all zeros.
    """
    guess, target = _numbers(estimate, "estimate"), _numbers(truth, "truth")
    if guess.shape != target.shape:
        raise DataError(f"estimate has shape {guess.shape} and truth {target.shape}: they must be equal")
    scale = float(np.max(np.abs(target)))
    if scale == 0:
        raise DataError("truth is all zeros: a relative error has nothing to relate to")
    # Scaled first, so that squares of very large or small entries neither overflow nor vanish.
    return float(np.linalg.norm((guess - target) / scale) / np.linalg.norm(target / scale))


def _numbers(values: ArrayLike, name: str, dimensions: int | None = None) -> Floats:
    """Return the values as a float64 array, or raise what is wrong with them."""
    try:
        data = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} cannot be read as numbers: {error}") from error
    if dimensions is not None and data.ndim != dimensions:
        raise DataError(f"{name} has shape {data.shape}: it must have {dimensions} dimension(s)")
    if not data.size:
        raise DataError(f"{name} is empty: give at least one number")
    finite = np.isfinite(data)
    if not finite.all():
        where = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise DataError(f"{name}{list(where)} is {data[where]}: every value must be a finite number")
    return data


def _check_lengths(a: Floats, b: Floats, a_name: str, b_name: str) -> None:
    if len(a) != len(b):
        raise DataError(f"{a_name} has {len(a)} values and {b_name} {len(b)}: they must pair up")


def _check_options(seed: int, draws: int, level: float) -> None:
    if seed < 0:
        raise OptionError(f"seed is {seed}: it must be 0 or more")
    if draws < 1:
        raise OptionError(f"draws is {draws}: it must be 1 or more")
    if not 0 < level < 1:
        raise OptionError(f"level is {level}: it must lie between 0 and 1, such as 0.95")


def _sorted_rows(rows: Floats) -> Floats:
    """Return the rows in lexical order (the first column decides first)."""
    return rows[np.lexsort(rows.T[::-1])]


def _chunks(draws: int, width: int) -> Iterator[int]:
    """Split the draws so that each part holds about `_CHUNK` values of rows `width` wide."""
    size = max(1, _CHUNK // width)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _resampled_means(columns: Floats, random: np.random.Generator, draws: int) -> Floats:
    """Return the columns' means in each resample, shape (draws, columns)."""
    n = len(columns)
    means = []
    for count in _chunks(draws, n):
        rows = random.integers(n, size=(count, n)) + np.arange(count)[:, None] * n
        counts = np.bincount(rows.ravel(), minlength=count * n).reshape(count, n)
        means.append((counts / n) @ columns)
    return np.concatenate(means)


def _correlation(
    x: ArrayLike, y: ArrayLike, prepare: Callable[[Floats], Floats], seed: int, draws: int, level: float
) -> Estimate:
    first, second = _numbers(x, "x", 1), _numbers(y, "y", 1)
    _check_lengths(first, second, "x", "y")
    if len(first) < 3:
        raise DataError(f"there are {len(first)} pairs: a correlation needs at least 3")
    for name, values in (("x", first), ("y", second)):
        if values.max() == values.min():
            raise DataError(f"{name} is constant ({values[0]:g}): it has no correlation with anything")
    _check_options(seed, draws, level)
    first, second = _sorted_rows(np.stack([first, second], axis=1)).T
    random = np.random.default_rng(seed)
    resampled = []
    for count in _chunks(draws, len(first)):
        rows = random.integers(len(first), size=(count, len(first)))
        xs, ys = first[rows], second[rows]
        varied = (np.ptp(xs, axis=1) > 0) & (np.ptp(ys, axis=1) > 0)
        resampled.append(_row_correlations(prepare(xs[varied]), prepare(ys[varied])))
    defined = np.concatenate(resampled)
    if not len(defined):
        raise DataError(f"x or y is constant in every one of {draws} resamples: give more pairs or more draws")
    return _estimate(float(_row_correlations(prepare(first[None]), prepare(second[None]))[0]), defined, level)


def _row_correlations(xs: Floats, ys: Floats) -> Floats:
    """Return Pearson's correlation of each row of xs with that of ys; no row may be constant."""
    xs, ys = _unit_rows(xs), _unit_rows(ys)
    return np.clip(np.einsum("ij,ij->i", xs, ys), -1, 1)


def _unit_rows(rows: Floats) -> Floats:
    """Return the rows centred and scaled to length one; the largest entry is divided out first against underflow."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    centred /= np.abs(centred).max(axis=1, keepdims=True, initial=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    return centred


def _ranks(rows: Floats) -> Floats:
    from scipy.stats import rankdata

    return rankdata(rows, axis=1) if len(rows) else rows


def _areas(positive: Floats, negative: Floats) -> Floats:
    """Return AUROC of each row's positives, shape (draws, p), against its negatives, shape (draws, n)."""
    p, n = positive.shape[1], negative.shape[1]
    ranks = _ranks(np.concatenate([positive, negative], axis=1))
    return (ranks[:, :p].sum(axis=1) - p * (p + 1) / 2) / (p * n)


def _interval(value: Any, resampled: Floats, level: float) -> tuple[Any, Any, Any]:
    """Return (value, low, high): percentiles over the first axis of `resampled`, widened to include the value."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return value, np.minimum(low, value), np.maximum(high, value)


def _estimate(value: float, resampled: Floats, level: float) -> Estimate:
    return Estimate(*(float(part) for part in _interval(value, resampled, level)))
