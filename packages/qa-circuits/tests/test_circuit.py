import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.qa_circuits.circuit import check_delta, prefixes, random_sets, rank, sizes_to_show, smallest_reaching
from pellucid.qa_circuits.components import Component, all_components, check_sets

HEADS = [Component("head", 0, 0), Component("head", 0, 1), Component("head", 1, 0)]


def test_rank_by_hand():
    components = [*HEADS, Component("mlp", 0)]
    scores = np.array([[0.1, 0.5, 0.2, 0.9], [0.3, 0.3, 0.8, 0.9]])
    assert rank(components, scores, "head") == [HEADS[2], HEADS[1], HEADS[0]]
    assert rank(components, scores, "mlp") == [Component("mlp", 0)]
    with pytest.raises(DataError, match=r"shape \(2, 3\)"):
        rank(components, scores[:, :3], "head")


def test_smallest_reaching_by_hand():
    curve = np.array([0.2, 0.6, 0.96, 0.94, 0.99])
    assert (smallest_reaching(curve, 0.95).size, smallest_reaching(curve, 0.95).reached) == (3, True)
    assert (smallest_reaching(curve, 1.0).size, smallest_reaching(curve, 1.0).reached) == (5, False)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 1))
def test_smallest_reaching_is_the_smallest(curve, delta):
    pick = smallest_reaching(np.array(curve), delta)
    if pick.reached:
        assert curve[pick.size - 1] >= delta
        assert all(score < delta for score in curve[: pick.size - 1])
    else:
        assert max(curve) < delta
        assert curve[pick.size - 1] == max(curve)


@pytest.mark.parametrize("delta", [0, -1, 1.01, float("nan")])
def test_delta_outside_its_range_is_refused(delta):
    with pytest.raises(OptionError, match="delta is"):
        check_delta(delta)


def test_prefixes_and_controls_have_the_sizes_they_should():
    assert prefixes(HEADS) == [(HEADS[0],), (HEADS[0], HEADS[1]), tuple(HEADS)]
    assert sizes_to_show(9, 5) == [1, 2, 4, 5, 8, 9]
    sets = random_sets(HEADS, [1, 3], draws=4, seed=0)
    assert [len(s) for s in sets] == [1] * 4 + [3] * 4
    assert sets == random_sets(HEADS, [1, 3], draws=4, seed=0)
    assert all(set(small) <= set(large) for small, large in zip(sets[:4], sets[4:], strict=True))


def test_components_are_checked_by_name():
    assert len(all_components(30, 9)) == 330
    with pytest.raises(OptionError, match="no component kind 'neuron'"):
        all_components(2, 2, ["neuron"])
    with pytest.raises(OptionError, match=r"no head 2.0: it has 2 layers of 3 heads"):
        check_sets([(Component("head", 2, 0),)], 2, 3)
    with pytest.raises(OptionError, match=r"both head 1.2 and its whole attention layer"):
        check_sets([(Component("head", 1, 2), Component("attention", 1))], 2, 3)
    with pytest.raises(OptionError, match="twice"):
        check_sets([(Component("mlp", 1), Component("mlp", 1))], 2, 3)
