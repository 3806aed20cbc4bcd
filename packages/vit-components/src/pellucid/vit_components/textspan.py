"""TextSpan: the texts whose directions a component varies along most (Gandelsman et al. 2024; thesis 7.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pellucid.core.errors import DataError


@dataclass(frozen=True)
class Described:
    """A text that was found.

    Attributes:
        text: which one.
        place: its place among the texts.
        explained: share of the component's variance that it and all before it explain.
    """

    text: str
    place: int
    explained: float


def text_span(part: np.ndarray, directions: np.ndarray, texts: Sequence[str], count: int = 10) -> list[Described]:
    """Find texts that span what a component says, greedily.

    Texts are projected onto the space of the component's parts; then, again and again, the text along which the parts
    vary most is taken, and taken out of both.

    Args:
        part: (pictures, width), a component's parts in CLIP's space.
        directions: (texts, width), embeddings.
        texts: as many.
        count: how many to find.

    Returns:
        Up to `count` texts, the most telling first; fewer where nothing is left to explain.

    Raises:
        DataError: shapes do not agree, or a number is not finite.
    """
    if part.ndim != 2 or directions.shape != (len(texts), part.shape[1]):
        raise DataError(f"parts {part.shape} and {len(texts)} texts {directions.shape} do not agree in width or number")
    if not (np.isfinite(part).all() and np.isfinite(directions).all()):
        raise DataError("parts or texts hold NaN or infinity: compute them again")
    left = part.astype(np.float64) - part.mean(0, dtype=np.float64)
    total = float((left**2).sum())
    _, sizes, axes = np.linalg.svd(left, full_matrices=False)
    axes = axes[sizes > 1e-8 * max(float(sizes[0]), 1e-30)] if len(sizes) else axes
    words = directions.astype(np.float64) @ axes.T @ axes
    found: list[Described] = []
    for _ in range(min(count, len(axes))):
        spread = (left @ words.T).std(0)
        best = int(spread.argmax())
        length = float(np.linalg.norm(words[best]))
        if not total or spread[best] <= 1e-9 * np.sqrt(total / len(left)):
            break
        unit = words[best] / length
        left = left - np.outer(left @ unit, unit)
        words = words - np.outer(words @ unit, unit)
        found.append(Described(texts[best], best, 1 - float((left**2).sum()) / total))
    return found


def match_rate(found: Sequence[Sequence[Described]], truth: Sequence[Sequence[Described]]) -> np.ndarray:
    """Of each component, the share of the true descriptions that were found: (components,); table 7.1 has the mean."""
    return np.array(
        [
            len({one.text for one in mine} & {one.text for one in right}) / max(len(right), 1)
            for mine, right in zip(found, truth, strict=True)
        ]
    )
