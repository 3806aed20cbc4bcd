"""Finding pictures by what some components say: by a text (thesis 7.4.1) or by another picture (7.4.2)."""

import numpy as np
from pellucid.core.errors import OptionError
from pellucid.core.statistics import Estimate, bootstrap_mean

from .mapped import Mapped
from .scoring import score_gaps, unit


def top_components(mapped: Mapped, scores: np.ndarray, feature: int, count: int, gap: bool = False) -> np.ndarray:
    """The components of highest score for a feature, best first; `init`, `embedding` and `bias` are not among them.

    Args:
        mapped: whose components.
        scores: (components, features).
        feature: which column.
        count: how many.
        gap: by the gap to other features (7.4.2) rather than by the score itself (7.4.1).

    Raises:
        OptionError: more are wanted than there are.
    """
    own = np.array([place for place, one in enumerate(mapped.found.components) if one.layer >= 0])
    if not 1 <= count <= len(own):
        raise OptionError(f"{count} components wanted: give 1 to {len(own)}")
    values = score_gaps(scores, feature) if gap else scores[:, feature]
    return np.asarray(own[np.argsort(-values[own], kind="stable")[:count]])


def by_text(mapped: Mapped, components: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Similarity of pictures to a text: cos(sum of f_i(c_i) over the components, text): (pictures,)."""
    return np.asarray(unit(mapped.total(components)) @ (direction / np.linalg.norm(direction)))


def by_picture(mapped: Mapped, components: np.ndarray) -> np.ndarray:
    """Similarity of every picture to every other in one feature: the cosine of their z_p = sum of c_i.

    In the model's own space, not the CLIP's.

    Returns:
        (pictures, pictures).
    """
    rows = unit(mapped.found.parts[components].astype(np.float64).sum(0))
    return np.asarray(rows @ rows.T)


def text_precision(similarity: np.ndarray, right: np.ndarray, seed: int, k: int = 10) -> Estimate:
    """Of the k pictures nearest to each text, the share that show it.

    Args:
        similarity: (texts, pictures).
        right: (texts, pictures), whether a picture shows it.
        seed: of the bootstrap over texts.
        k: how many are looked at.
    """
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return bootstrap_mean(np.take_along_axis(right, best, 1).mean(1), seed)


def picture_precision(similarity: np.ndarray, labels: np.ndarray, seed: int, k: int = 10) -> Estimate:
    """Of the k pictures nearest to each picture (itself left out), the share with its label: averaged over pictures."""
    others = similarity.copy()
    np.fill_diagonal(others, -np.inf)
    best = np.argsort(-others, axis=1, kind="stable")[:, :k]
    return bootstrap_mean((labels[best] == labels[:, None]).mean(1), seed)
