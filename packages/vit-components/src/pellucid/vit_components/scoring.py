"""How important a component is for a feature (thesis 11.6.1, algorithm 5), and how well that holds (7.4.1)."""

from collections.abc import Sequence

import numpy as np
from pellucid.core.errors import DataError

from .features import Feature
from .mapped import Mapped


def component_scores(mapped: Mapped, features: Sequence[Feature]) -> np.ndarray:
    """Score every component for every feature.

    The correlation over pictures between a component's projection and the whole representation's, on each direction of
    the feature's space, averaged over these directions (algorithm 5). The directions are made orthogonal symmetrically
    (Loewdin): each stays as near as can be to its own instantiation, in whatever order they are given.

    Returns:
        (components, features) float64, from -1 to 1; a component that is the same for all pictures has 0.

    Raises:
        DataError: a feature's texts are linearly dependent in CLIP's space, or more than its width.
    """
    bases = [orthogonalized(feature) for feature in features]
    whole = mapped.total()
    wanted = [whole @ base.T for base in bases]
    scores = np.zeros((len(mapped.found.components), len(features)))
    for place in range(len(scores)):
        part = mapped.part(place)
        for column, base in enumerate(bases):
            scores[place, column] = correlations(part @ base.T, wanted[column]).mean()
    return scores


def orthogonalized(feature: Feature) -> np.ndarray:
    """The orthonormal rows nearest to a feature's directions: (values, width) float64."""
    left, sizes, right = np.linalg.svd(feature.directions, full_matrices=False)
    if len(feature.values) > feature.directions.shape[1] or sizes[-1] < 1e-6 * sizes[0]:
        raise DataError(f"the texts of {feature.name!r} mean the same to the CLIP: take one of them out")
    return np.asarray(left @ right)


def retrieval_scores(mapped: Mapped, clip: np.ndarray, features: Sequence[Feature]) -> np.ndarray:
    """How well each component retrieves as the CLIP itself does: the "ground truth" of section 7.4.1.

    The correlation over pictures between cos(f_i(c_i), text) and cos(z_CLIP, text), averaged over a feature's texts.

    Args:
        mapped: the parts.
        clip: (pictures, clip width), the CLIP's own representations.
        features: whose texts.

    Returns:
        (components, features) float64.
    """
    own = unit(clip.astype(np.float64))
    wanted = [own @ feature.directions.T for feature in features]
    scores = np.zeros((len(mapped.found.components), len(features)))
    for place in range(len(scores)):
        part = unit(mapped.part(place))
        for column, feature in enumerate(features):
            scores[place, column] = correlations(part @ feature.directions.T, wanted[column]).mean()
    return scores


def score_gaps(scores: np.ndarray, feature: int) -> np.ndarray:
    """Min over other features p' of s_ip - s_ip' (section 7.4.2): high for components of one feature alone.

    Args:
        scores: (components, features), two features at least.
        feature: the column p.

    Returns:
        (components,).
    """
    if scores.shape[1] < 2:
        raise DataError("a gap needs two features or more: give others beside the one wanted")
    return np.asarray(scores[:, feature] - np.delete(scores, feature, axis=1).max(1))


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each column: (columns,); 0 where one of the two is constant."""
    a, b = first - first.mean(0), second - second.mean(0)
    fine = _varies(first, a) & _varies(second, b)
    lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.asarray(np.where(fine, (a * b).sum(0) / np.where(fine, lengths, 1), 0.0))


def _varies(values: np.ndarray, centred: np.ndarray) -> np.ndarray:
    """Which columns are more than a constant with float32's rounding."""
    return np.asarray(np.abs(centred).max(0) > 1e-6 * np.abs(values).max(0))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of zeros stays."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30))
