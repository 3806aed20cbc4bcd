import numpy as np
import pytest
import torch
from pellucid.compose.image_scores import clip_features, clip_score, fid, frechet_distance
from pellucid.core.errors import DataError, OptionError
from pellucid.core.scorers import images_of
from torch.nn.functional import normalize


def slow_distance(first, second):
    """The formula as it is written, with SciPy's square root of a matrix."""
    from scipy.linalg import sqrtm

    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    root = sqrtm(covariances[0] @ covariances[1])
    means = first.mean(0) - second.mean(0)
    return float(means @ means + np.trace(sum(covariances)) - 2 * np.trace(root).real)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 40, 6), (200, 30, 8), (40, 40, 12)])
def test_the_distance_is_the_formula(n, m, d):
    random = np.random.default_rng(n)
    first = random.normal(size=(n, d)) @ random.normal(size=(d, d))
    second = random.normal(size=(m, d)) @ random.normal(size=(d, d)) + 0.5
    assert frechet_distance(first, second) == pytest.approx(slow_distance(first, second), rel=1e-8)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-10)


def test_fewer_pictures_than_features():
    """Where the product of covariances is singular: against eigenvalues of a symmetric form of it."""
    random = np.random.default_rng(1)
    first, second = random.normal(size=(6, 20)), random.normal(size=(9, 20)) + 0.3
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(one)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(half @ two @ half).clip(0)).sum()
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + np.trace(one) + np.trace(two) - 2 * shared
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_equal_sets_are_no_distance_apart():
    features = np.random.default_rng(0).normal(size=(30, 5)) * 1e3
    assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + np.array([3.0, 4.0, 0, 0, 0])) == pytest.approx(25, rel=1e-6)


def test_torchmetrics_agrees():
    pytest.importorskip("torchmetrics")
    from torchmetrics.image.fid import FrechetInceptionDistance

    random = np.random.default_rng(2)
    first, second = (random.integers(0, 256, (24, 4, 4, 3), dtype=np.uint8) for _ in range(2))
    weight = torch.randn(48, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    class Network(torch.nn.Module):
        num_features = 5

        def forward(self, pixels):
            return pixels.double().flatten(1) @ weight / 255

    metric = FrechetInceptionDistance(feature=Network())
    metric.update(torch.from_numpy(first.transpose(0, 3, 1, 2).copy()), real=True)
    metric.update(torch.from_numpy(second.transpose(0, 3, 1, 2).copy()), real=False)

    def features(pictures):
        return pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1).astype(float) @ weight.numpy() / 255

    assert fid(first, second, features) == pytest.approx(float(metric.compute()), rel=1e-5)


def test_clip_scores_are_cosines(make_clip):
    clip = make_clip()
    shown = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    captions = ["a red dog", "a blue car", "a red dog", "a green tree"]
    found, mean = clip_score(clip, shown, captions)
    for picture, caption, score in zip(images_of(shown), captions, found, strict=True):
        with torch.no_grad():
            seen = normalize(clip.image_features(clip.prepare([picture])))
            said = normalize(clip.text_features(clip.tokenize([caption])))
        assert score == pytest.approx(float((seen * said).sum()), abs=1e-5)
    assert mean.value == pytest.approx(found.mean())
    scaled, _ = clip_score(clip, shown, captions, scale=2.5)
    np.testing.assert_allclose(scaled, 2.5 * found.clip(min=0))
    assert fid(shown, shown[::-1], clip_features(clip)) == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_compared_is_named():
    features = np.zeros((3, 2))
    with pytest.raises(DataError, match="2 and 3 channels"):
        frechet_distance(features, np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"\(1, 2\)"):
        frechet_distance(features[:1], features)
    with pytest.raises(DataError, match="finite"):
        frechet_distance(features + np.nan, features)
    shown = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(DataError, match="FID of 1"):
        fid(shown[:1], shown, clip_features)
    with pytest.raises(OptionError, match="'resnet'"):
        fid(shown, shown, "resnet")
    with pytest.raises(OptionError, match="must give"):
        fid(shown, shown, lambda pictures: np.zeros(len(pictures)))
