"""Nearest points under the constraints of the selection: the l1 ball of algorithm 1, and weights between 0 and 1.

Both are roots of a falling, piecewise linear function of one dual number, found for many rows at once by Newton steps.
"""

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import OptionError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def project_l1(weights: Floats, radius: Floats, mask: Mask | None = None) -> Floats:
    """Return the nearest point of the l1 ball of each row, by Euclidean distance.

    The dual (thesis eq. 11.5-11.6) is the root of g(lambda) = sum_i (|w_i| - lambda)_+ - radius; the point is then
    sign(w_i) (|w_i| - lambda)_+ (eq. 11.4). g is convex, falling and piecewise linear, so that Newton's method from
    the left (Michelot, 1986) ends at the exact root after finitely many steps. Sizes are counted from each row's
    largest, so that the result is exact to rounding of the radius and not of the weights, however huge those are.

    Args:
        weights: (B, M).
        radius: (B,), 0 or more: k_j, the shots of the row's class.
        mask: (B, M); entries outside it count as absent and come back as 0.

    Returns:
        (B, M) float64. Rows already inside their ball come back unchanged.

    Raises:
        OptionError: a radius is negative or not a number.
    """
    weights, radius = weights.astype(np.float64), radius.astype(np.float64)
    if not (radius >= 0).all():
        raise OptionError(f"radius holds {radius[~(radius >= 0)][0]:g}: an l1 ball's radius is 0 or more")
    if mask is not None:
        weights = np.where(mask, weights, 0.0)
    sizes = np.abs(weights)
    outside = sizes.sum(axis=1) > radius
    if not outside.any():
        return weights
    bound = radius[outside, None]
    below = sizes[outside] - sizes[outside].max(axis=1, keepdims=True)
    # The largest entry alone may keep at most the radius: what lies a radius or more below it ends at 0.
    active = below > -bound
    count = np.count_nonzero(active, axis=1)
    while True:
        # With a radius of 0 nothing is active, and nothing is kept.
        level = (np.where(active, below, 0.0).sum(axis=1) - bound[:, 0]) / np.maximum(count, 1)
        active &= below > level[:, None]
        left = np.count_nonzero(active, axis=1)
        if (left == count).all():
            break
        count = left
    found = weights.copy()
    found[outside] = np.copysign(np.where(active, below - level[:, None], 0.0), weights[outside])
    return found


def project_capped(weights: Floats, total: Floats, mask: Mask | None = None) -> Floats:
    """Return the nearest point with entries in [0, 1] that sum to `total`, for each row.

    This is the convex hull of the choices of `total` images. The point is clip(w - t, 0, 1) for the t that makes the
    sum right, by Newton steps that a bracket holds in place.

    Args:
        weights: (B, M).
        total: (B,), from 0 to the entries that the row's mask leaves.
        mask: (B, M); entries outside it count as absent and come back as 0.

    Returns:
        (B, M) float64.

    Raises:
        OptionError: a total that so many entries cannot reach.
    """
    weights, total = weights.astype(np.float64), total.astype(np.float64)
    here = np.ones(weights.shape, dtype=bool) if mask is None else mask
    room = np.count_nonzero(here, axis=1)
    unfit = ~((total >= 0) & (total <= room))
    if unfit.any():
        raise OptionError(f"{room[unfit][0]} weights between 0 and 1 cannot sum to {total[unfit][0]:g}")
    high = np.where(here, weights, -np.inf).max(axis=1)
    low = np.where(here, weights, np.inf).min(axis=1) - 1
    t = (low + high) / 2
    for _ in range(100):
        moved = np.where(here, weights - t[:, None], 0.0)
        found = np.clip(moved, 0.0, 1.0)
        excess = found.sum(axis=1) - total
        if (np.abs(excess) <= 1e-13 * (1 + total)).all():
            break
        low, high = np.where(excess > 0, t, low), np.where(excess > 0, high, t)
        free = np.count_nonzero(here & (moved > 0) & (moved < 1), axis=1)
        step = t + excess / np.maximum(free, 1)
        t = np.where((free > 0) & (step > low) & (step < high), step, (low + high) / 2)
    return found
