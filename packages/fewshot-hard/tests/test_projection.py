from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pellucid.core.errors import OptionError
from pellucid.fewshot_hard.projection import project_capped, project_l1
from pellucid.fewshot_hard.reference import project_l1_sorted

# Few distinct values make ties; alpha = 200 makes huge ones.
entries = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 7.25]),
    st.floats(-1e9, 1e9),
    st.floats(-2, 2),
    st.floats(-1e-9, 1e-9),
)
rows = st.integers(1, 6).flatmap(lambda b: st.integers(1, 40).map(lambda m: (b, m)))
weights = rows.flatmap(lambda shape: arrays(np.float64, shape, elements=entries))
radii = st.one_of(st.sampled_from([1.0, 5.0, 20.0]), st.floats(1e-3, 1e3))


def exact(values, radius):
    """The projection in rational numbers, by sorting."""
    sizes = [abs(Fraction(float(v))) for v in values]
    if sum(sizes) <= radius:
        return [float(v) for v in values]
    total, level = Fraction(0), Fraction(0)
    for count, size in enumerate(sorted(sizes, reverse=True), 1):
        total += size
        if size > (total - radius) / count:
            level = (total - radius) / count
    return [float(max(s - level, 0)) * (1 if v >= 0 else -1) for s, v in zip(sizes, values, strict=True)]


@given(weights, radii)
def test_equals_the_sorted_reference_and_the_exact_projection(w, radius):
    found = project_l1(w, np.full(len(w), radius))
    for row, got in zip(w, found, strict=True):
        assert np.abs(got - project_l1_sorted(row, radius)).max() <= 1e-10
        assert np.abs(got - exact(row, Fraction(radius))).max() <= 1e-10


@given(weights, radii)
def test_meets_the_bound_is_idempotent_and_keeps_order_and_signs(w, radius):
    bound = np.full(len(w), radius)
    found = project_l1(w, bound)
    assert (np.abs(found).sum(axis=1) <= radius * (1 + 1e-12)).all()
    np.testing.assert_allclose(project_l1(found, bound), found, rtol=0, atol=1e-12 * radius)
    assert (found * w >= 0).all()
    order = np.argsort(w, axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(found, order, 1), axis=1) >= 0).all()


@given(weights)
def test_rows_inside_come_back_unchanged(w):
    bound = np.abs(w).sum(axis=1) + 1e-3
    found = project_l1(w, bound)
    assert found.tobytes() == w.tobytes()
    assert found is not w


@given(weights, st.integers(0, 2**32 - 1))
def test_masked_entries_are_as_if_absent(w, seed):
    mask = np.random.default_rng(seed).random(w.shape) < 0.6
    found = project_l1(w, np.full(len(w), 2.0), mask)
    assert (found[~mask] == 0).all()
    for row, keep, got in zip(w, mask, found, strict=True):
        alone = project_l1(row[None, keep], np.array([2.0]))[0]
        np.testing.assert_allclose(got[keep], alone, rtol=0, atol=1e-12)


def test_radius_zero_and_negative():
    assert (project_l1(np.array([[3.0, -1.0]]), np.array([0.0])) == 0).all()
    with pytest.raises(OptionError, match="radius holds -1"):
        project_l1(np.ones((2, 2)), np.array([1.0, -1.0]))


@settings(max_examples=60)
@given(arrays(np.float64, (3, 12), elements=st.floats(-1e3, 1e3)), st.integers(1, 12))
def test_capped_weights_are_the_nearest_of_their_sum(w, total):
    found = project_capped(w, np.full(3, total))
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found.sum(axis=1), total, rtol=0, atol=1e-9)
    # A point of a convex set is the nearest one exactly where no other lies in the direction of what was projected;
    # of a choice of `total` entries, the worst are the largest of that direction.
    away = w - found
    best = np.sort(away, axis=1)[:, ::-1][:, :total].sum(axis=1)
    assert (best - (away * found).sum(axis=1) <= 1e-7 * (1 + np.abs(w).max())).all()


def test_capped_weights_respect_the_mask():
    mask = np.array([[True, False, True, True]])
    found = project_capped(np.array([[5.0, 9.0, 5.0, -1.0]]), np.array([2.0]), mask)
    np.testing.assert_allclose(found, [[1, 0, 1, 0]], atol=1e-12)
    with pytest.raises(OptionError, match="3 weights between 0 and 1 cannot sum to 4"):
        project_capped(np.ones((1, 4)), np.array([4.0]), mask)
