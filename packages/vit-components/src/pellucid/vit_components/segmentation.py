"""Zero-shot segmentation by heat maps, measured as for ImageNet-Segmentation (thesis 7.4, figure 7.5)."""

from dataclasses import dataclass

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.statistics import Estimate, bootstrap_mean


@dataclass(frozen=True)
class Segmented:
    """How well maps mark a thing.

    Attributes:
        pixel_accuracy: share of pixels told right.
        mean_iou: of foreground and background, their mean.
        mean_precision: average precision of the map's values over pixels (mAP).
        (All means over pictures with their intervals.)
    """

    pixel_accuracy: Estimate
    mean_iou: Estimate
    mean_precision: Estimate


def segment(maps: np.ndarray) -> np.ndarray:
    """Mark what lies above each map's mean: (pictures, height, width) to booleans."""
    return np.asarray(maps > maps.mean((1, 2), keepdims=True))


def measure(maps: np.ndarray, masks: np.ndarray, seed: int) -> Segmented:
    """Compare maps with what is there.

    Args:
        maps: (pictures, height, width), higher where the thing is.
        masks: (pictures, height, width) booleans; no picture all of one kind.
        seed: of the bootstrap.

    Raises:
        DataError: shapes differ, a map is not finite, or a mask is all thing or all ground.
    """
    if maps.shape != masks.shape:
        raise DataError(f"maps {maps.shape} and masks {masks.shape} differ in shape: give one mask a picture, as large")
    if not np.isfinite(maps).all():
        raise DataError("a map holds NaN or infinity: compute it again")
    odd = np.flatnonzero(masks.all((1, 2)) | ~masks.any((1, 2)))
    if len(odd):
        raise DataError(f"mask {odd[0]} ({len(odd)} such) is all thing or all ground: leave it out")
    told = segment(maps)
    accuracy = (told == masks).mean((1, 2))
    ious = [(told & masks).sum((1, 2)) / (told | masks).sum((1, 2))]
    ious.append((~told & ~masks).sum((1, 2)) / np.maximum((~told | ~masks).sum((1, 2)), 1))
    precision = [average_precision(one.ravel(), mask.ravel()) for one, mask in zip(maps, masks, strict=True)]
    return Segmented(
        bootstrap_mean(accuracy, seed),
        bootstrap_mean(np.mean(ious, axis=0), seed),
        bootstrap_mean(precision, seed),
    )


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """The area under precision over recall, by steps; pixels of one score enter together."""
    order = np.argsort(-scores, kind="stable")
    ordered, right = scores[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(right)[last]
    precision = hits / (last + 1)
    return float((precision * np.diff(hits, prepend=0)).sum() / right.sum())
