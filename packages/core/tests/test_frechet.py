import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.frechet import clip_features, fid, frechet_distance
from pellucid.core.testing_clips import tiny_clip


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
    with pytest.raises(OptionError, match="are str"):
        fid(shown, shown, lambda pictures: "features")


def test_one_feature_by_hand():
    random = np.random.default_rng(3)
    first, second = (random.integers(low, high, (40, 4, 4, 3), dtype=np.uint8) for low, high in ((0, 200), (50, 256)))
    one, two = (pictures[:, 0, 0, 0].astype(float) for pictures in (first, second))
    expected = (one.mean() - two.mean()) ** 2 + (one.std(ddof=1) - two.std(ddof=1)) ** 2
    assert fid(first, second, lambda pictures: pictures[:, 0, 0, :1]) == pytest.approx(expected, rel=1e-6)


def test_features_in_half_precision_and_far_from_nought_keep_their_digits():
    random = np.random.default_rng(4)
    first, second = random.integers(0, 200, (90, 2, 2, 3), np.uint8), random.integers(50, 256, (70, 2, 2, 3), np.uint8)

    def half(pictures):
        return torch.from_numpy(pictures.reshape(len(pictures), -1)).to(torch.bfloat16)

    seen = [half(pictures).double().numpy() for pictures in (first, second)]
    assert fid(first, second, half) == pytest.approx(slow_distance(*seen), rel=1e-6)
    assert frechet_distance(*(features + 1e4 for features in seen)) == pytest.approx(slow_distance(*seen), rel=1e-6)


def test_each_picture_is_looked_at_once_by_a_clips_encoder_too():
    shown, counted = np.random.default_rng(5).integers(0, 256, (70, 20, 20, 3), dtype=np.uint8), []
    features = clip_features(tiny_clip())

    def counting(pictures):
        counted.append(len(pictures))
        return features(pictures)

    assert fid(shown, shown[::-1], counting) == pytest.approx(0, abs=1e-9)
    assert sum(counted) == 140


def test_the_inception_network_that_cannot_be_had(monkeypatch):
    import torchmetrics.image.fid as home

    def refused(*_, **__):
        raise OSError("<urlopen error no network>\nmore")

    monkeypatch.setattr(home, "FrechetInceptionDistance", refused)
    shown = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(ModelError, match=r"cannot be had \(<urlopen error no network>\): pip install") as caught:
        fid(shown, shown, "inception")
    assert "\n" not in str(caught.value)
