"""From which score on a state counts as causal: the procedure of thesis section 5.2.5."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pellucid.core.errors import DataError, OptionError


def causal_threshold(scores: ArrayLike, ratings: ArrayLike) -> float:
    """Return the lowest average score of the states that are causal for every prompt of a validation set.

    A state is a layer (or a layer at a token) that was restored. The thesis takes 10 prompts an attribute and lets
    people rate each picture: is it faithful to its caption? A judge of pictures can rate as well.

    Args:
        scores: (prompts, states), such as CLIP-Scores of the restored pictures; from one attribute's prompts.
        ratings: (prompts, states) of booleans or 0 and 1: the picture is faithful.

    Raises:
        DataError: the shapes differ or are not two-dimensional, a value is no finite number or no rating, or no
            state is rated faithful for all prompts.
    """
    points, faithful = _numbers(scores, "scores"), _numbers(ratings, "ratings")
    if points.ndim != 2 or points.shape != faithful.shape:
        raise DataError(
            f"scores have shape {points.shape} and ratings {faithful.shape}: both must be (prompts, states)"
        )
    if not np.isin(faithful, (0, 1)).all():
        raise DataError("a rating is neither 0 nor 1: say of each picture whether it is faithful or not")
    common = (faithful == 1).all(axis=0)
    if not common.any():
        shares = faithful.mean(axis=0)
        raise DataError(
            f"no state is rated faithful for all {len(points)} prompts (the best, state {int(shares.argmax())}, for "
            f"{int(faithful[:, shares.argmax()].sum())}): rate more states, or leave out prompts that no state restores"
        )
    return float(points[:, common].mean(axis=0).min())


def causal_layers(scores: ArrayLike, threshold: float) -> list[int]:
    """Return the states whose average score over the prompts reaches the threshold (thesis section 5.2.5).

    Args:
        scores: (prompts, states) of the probe set.
        threshold: see `causal_threshold`.

    Returns:
        The states' indices, ascending; none where the attribute has no causal state.

    Raises:
        DataError: the scores are not two-dimensional, or one is no finite number.
        OptionError: the threshold is no finite number.
    """
    points = _numbers(scores, "scores")
    if points.ndim != 2:
        raise DataError(f"scores have shape {points.shape}: they must be (prompts, states)")
    if not np.isfinite(threshold):
        raise OptionError(f"the threshold is {threshold}: it must be a finite number")
    return [int(state) for state in np.flatnonzero(points.mean(axis=0) >= threshold)]


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        data: NDArray[Any] = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} cannot be read as numbers: {error}") from error
    if not data.size:
        raise DataError(f"{name} have shape {data.shape}: give at least one prompt and one state")
    if not np.isfinite(data).all():
        where = tuple(int(index) for index in np.argwhere(~np.isfinite(data))[0])
        raise DataError(f"{name} hold {data[where]} at {list(where)}: every value must be a finite number")
    return data
