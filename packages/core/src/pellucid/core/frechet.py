"""The Fréchet distance (FID) between sets of pictures, over any encoder's features."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .clips import Clip, embed_images
from .errors import DataError, ModelError, OptionError
from .scorers import Pictures, check_pictures, images_of

Floats = NDArray[np.float64]
Features: TypeAlias = Callable[[Pictures], ArrayLike | Tensor]
"""From pictures (n, h, w, 3) uint8 to features (n, d)."""

_INCEPTION = 2048  # the features of the usual FID
_BATCH = 64


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """The Fréchet distance between two sets of features, as of two Gaussians.

    |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), with the means m and unbiased covariances S, in float64. With
    S_1 = A^T A and S_2 = B^T B the last trace is the sum of the singular values of A B^T, so that no square root of a
    matrix is taken: it is exact where there are fewer pictures than features, too.

    It is biased upwards for few pictures: compare only distances from equal numbers of them.

    Args:
        first: (n, d), n >= 2.
        second: (m, d), m >= 2.

    Raises:
        DataError: shapes do not fit, there are fewer than two rows, or a value is not finite.
    """
    one, two = (_checked(features) for features in (first, second))
    if one.shape[1] != two.shape[1]:
        raise DataError(f"features have {one.shape[1]} and {two.shape[1]} channels: take both from one encoder")
    roots = [_root(features) for features in (one, two)]
    between = float(np.sum((one.mean(0) - two.mean(0)) ** 2))
    traces = sum(float(np.sum(root**2)) for root in roots)
    shared = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(between + traces - 2 * shared, 0.0)


def fid(first: Pictures, second: Pictures, features: "Features | Literal['inception']") -> float:
    """The Fréchet distance between two sets of pictures.

    Args:
        first: (n, h, w, 3) uint8, n >= 2, such as real pictures of MS-COCO.
        second: (m, h, w, 3) uint8, m >= 2, such as generated ones.
        features: from pictures to features, such as `clip_features(clip)` or a judge's; "inception" is the usual
            network through torchmetrics, whose weights torch-fidelity fetches: so it is used only on request.

    Raises:
        DataError: pictures are of the wrong type, or fewer than two on a side.
        OptionError: features are no function and not "inception", or do not give (n, d).
        ModelError: the Inception network cannot be had.
    """
    for pictures in (first, second):
        check_pictures(pictures)
        if len(pictures) < 2:
            raise DataError(f"FID of {len(pictures)} pictures: covariances need two on each side at least")
    if callable(features):
        return frechet_distance(_features(features, first), _features(features, second))
    if features != "inception":
        raise OptionError(f"features are {features!r}: give a function of pictures, or 'inception'")
    metric = _inception()
    for pictures, real in ((first, True), (second, False)):
        for start in range(0, len(pictures), _BATCH):
            part = np.ascontiguousarray(pictures[start : start + _BATCH].transpose(0, 3, 1, 2))
            metric.update(torch.from_numpy(part), real=real)
    return float(metric.compute())


def clip_features(clip: Clip) -> Features:
    """Unit embeddings of a CLIP's image encoder as features for `fid` ("CLIP-FID")."""
    return lambda pictures: embed_images(clip, images_of(pictures)).numpy()


def _checked(features: ArrayLike) -> Floats:
    found = np.asarray(features, dtype=np.float64)
    if found.ndim != 2 or len(found) < 2 or not found.shape[1]:
        raise DataError(f"features have shape {found.shape}: give (n, d) with n of 2 or more")
    if not np.isfinite(found).all():
        raise DataError("features of some pictures are not finite: the encoder is broken, or wants other input")
    return found


def _root(features: Floats) -> Floats:
    """R with R^T R the unbiased covariance, at most as many rows as columns."""
    centred: Floats = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:
        centred = np.asarray(np.linalg.qr(centred, mode="r"))
    return centred


def _features(encoder: Features, pictures: Pictures) -> Floats:
    parts = [_numbers(encoder(pictures[start : start + _BATCH])) for start in range(0, len(pictures), _BATCH)]
    if any(part.ndim != 2 for part in parts) or sum(map(len, parts)) != len(pictures):
        shape = parts[0].shape
        raise OptionError(f"the features of {len(pictures)} pictures are {shape}: the encoder must give (n, d)")
    return np.concatenate(parts)


def _numbers(features: ArrayLike | Tensor) -> Floats:
    if isinstance(features, Tensor):
        return features.detach().double().cpu().numpy()
    try:
        return np.asarray(features, dtype=np.float64)
    except (TypeError, ValueError) as error:
        kind = type(features).__name__
        raise OptionError(f"the features of pictures are {kind}: the encoder must give numbers (n, d)") from error


def _inception() -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(feature=_INCEPTION)
    except Exception as error:  # a package that is missing, no network, or a file that was cut off
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"the Inception network cannot be had ({line}): pip install 'pellucid-core[fid]' and connect, or "
            "give features of your own"
        ) from error
