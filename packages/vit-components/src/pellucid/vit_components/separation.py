"""How well a component tells pictures of one value of a feature from the rest, by their annotations."""

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.statistics import Estimate

from .features import Feature
from .mapped import Mapped

DRAWS = 400


def separations(mapped: Mapped, feature: Feature, labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Each component's projections on a feature's directions, with the truth.

    Args:
        mapped: the parts.
        feature: whose values; those that no picture has are left out.
        labels: (pictures,), the feature's value in each; pictures of another value (such as "none") count as negatives.

    Returns:
        (components, pictures, values) projections and (pictures, values) booleans.

    Raises:
        DataError: fewer than two values are shown by some pictures and not by others.
    """
    shown = np.array([[label == value for value in feature.values] for label in labels])
    used = shown.any(0) & ~shown.all(0)
    if used.sum() < 2:
        raise DataError(
            f"the annotation {feature.name!r} has none or one of {', '.join(feature.values)}: check the names"
        )
    directions = feature.directions[used] - feature.directions[used].mean(0)
    count = len(mapped.found.components)
    return np.stack([mapped.part(place) @ directions.T for place in range(count)]), shown[:, used]


def macro_auroc(scores: np.ndarray, shown: np.ndarray, seed: int) -> Estimate:
    """The AUROC of each value against all others, averaged over values; the interval resamples pictures.

    Args:
        scores: (pictures, values).
        shown: (pictures, values) booleans.
        seed: of the bootstrap.
    """
    value = float(_macro(scores, shown))
    random = np.random.default_rng(seed)
    drawn: list[float] = []
    while len(drawn) < DRAWS:
        chosen = random.integers(len(scores), size=len(scores))
        some = shown[chosen]
        if (some.any(0) & ~some.all(0)).all():
            drawn.append(_macro(scores[chosen], some))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def macro_aurocs(scores: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The same without intervals for all components: (components, pictures, values) to (components,)."""
    return np.array([_macro(one, shown) for one in scores])


def _macro(scores: np.ndarray, shown: np.ndarray) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=0)
    positive = shown.sum(0)
    negative = len(shown) - positive
    areas = ((ranks * shown).sum(0) - positive * (positive + 1) / 2) / (positive * negative)
    return float(areas.mean())
