"""How much of what a representation tells pictures apart by comes from each component."""

import numpy as np

from .store import Contributions


def variance_shares(found: Contributions) -> np.ndarray:
    """Each component's share of the representation's variance over pictures.

    The covariance of a part with the whole, summed over dimensions, by the variance of the whole. The shares sum to
    one; a component that works against the others has a negative one.

    Returns:
        (components,) float64.
    """
    whole = found.representation.astype(np.float64)
    centred = whole - whole.mean(0)
    total = float((centred**2).sum())
    if total == 0:
        return np.zeros(len(found.components))
    parts = found.parts.astype(np.float64)
    return np.asarray(((parts - parts.mean(1, keepdims=True)) * centred).sum((1, 2)) / total)


def mean_norms(found: Contributions) -> np.ndarray:
    """The mean length of each component's part: (components,) float64."""
    return np.asarray(np.linalg.norm(found.parts.astype(np.float64), axis=2).mean(1))
