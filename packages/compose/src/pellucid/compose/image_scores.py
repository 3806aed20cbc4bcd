"""CLIP-Score: how well pictures fit their captions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pellucid.core.clips import Clip, clip_scores
from pellucid.core.scorers import Pictures, check_pictures, images_of
from pellucid.core.statistics import Estimate, bootstrap_mean


def clip_score(
    clip: Clip, pictures: Pictures, captions: Sequence[str], *, scale: float = 1.0, seed: int = 0, draws: int = 2000
) -> tuple[NDArray[np.float64], Estimate]:
    """The CLIP-Score: the cosine of each picture with its caption, and their mean with a bootstrap interval.

    Args:
        clip: from `load_clip`.
        pictures: (n, h, w, 3) uint8.
        captions: one a picture.
        scale: what cosines are multiplied with after negative ones are cut to 0, where it is not 1 (its authors take
            2.5, T2I-CompBench 1).
        seed: of the resamples.
        draws: how many resamples.

    Raises:
        DataError: pictures and captions do not pair up, or there are none.
        ModelError: the model gives embeddings that are not finite.
    """
    check_pictures(pictures, captions)
    found = clip_scores(clip, images_of(pictures), [[caption] for caption in captions]).reshape(-1)
    if scale != 1.0:
        found = scale * found.clip(min=0)
    return found, bootstrap_mean(found, seed, draws)
