import numpy as np
import pytest
from pellucid.compose.votes import binomial_share, judge_votes
from pellucid.core.errors import DataError, ModelError, OptionError


def pictures(values):
    return np.repeat(np.array(values, np.uint8), 48).reshape(-1, 4, 4, 3)


def brightness(shown, captions):
    return shown.reshape(len(shown), -1).mean(1).astype(float)


def test_votes_are_counted():
    base, projected = pictures([1, 5, 3, 7]), pictures([2, 5, 9, 4])
    found = judge_votes(base, projected, ["a", "a", "b", "b"], brightness, seeds=2)
    assert found.each == ("projected", "equal", "projected", "base")
    assert (found.base.value, found.projected.value, found.equal.value) == (0.25, 0.5, 0.25)
    assert found.gain.value == pytest.approx(1.0)
    assert (found.gain.low, found.gain.high) == pytest.approx((0.5, 1.5))
    assert found.p_value == pytest.approx(1.0)
    wide = judge_votes(base, projected, ["a", "a", "b", "b"], brightness, margin=1)
    assert wide.each == ("equal", "equal", "projected", "base")


def test_swapping_the_sides_swaps_the_votes():
    random = np.random.default_rng(0)
    one, two = (random.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8) for _ in range(2))
    prompts = [str(place) for place in range(40)]
    first, second = judge_votes(one, two, prompts, brightness), judge_votes(two, one, prompts, brightness)
    assert (first.base, first.projected, first.p_value) == (second.projected, second.base, second.p_value)
    assert first.gain.value == pytest.approx(-second.gain.value)


def test_wilsons_interval_by_hand():
    found = binomial_share(8, 10)
    z = 1.959963984540054
    centre = (0.8 + z**2 / 20) / (1 + z**2 / 10)
    half = z / (1 + z**2 / 10) * np.sqrt(0.8 * 0.2 / 10 + z**2 / 400)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), rel=1e-9)
    assert binomial_share(0, 5).low == 0
    assert binomial_share(5, 5).high == 1
    with pytest.raises(DataError, match="6 of 5"):
        binomial_share(6, 5)


def test_what_cannot_be_voted_on_is_named():
    shown = pictures([1, 2])
    with pytest.raises(DataError, match="2 pictures and 1"):
        judge_votes(shown, shown, ["a"], brightness)
    with pytest.raises(OptionError, match="seeds=3"):
        judge_votes(shown, shown, ["a", "b"], brightness, seeds=3)
    with pytest.raises(ModelError, match="finite"):
        judge_votes(shown, shown, ["a", "b"], lambda pictures, captions: np.array([1.0, np.nan]))
