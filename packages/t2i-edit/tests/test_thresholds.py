import numpy as np
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.t2i_edit.thresholds import causal_layers, causal_threshold

SCORES = [[0.30, 0.20, 0.28, 0.10], [0.26, 0.22, 0.20, 0.12], [0.28, 0.18, 0.30, 0.14]]
RATINGS = [[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]]


def test_by_hand():
    # States 0 and 2 are faithful for all three prompts; their averages are 0.28 and 0.26.
    threshold = causal_threshold(SCORES, RATINGS)
    assert threshold == pytest.approx(0.26, abs=1e-12)
    assert causal_layers(SCORES, threshold) == [0, 2]
    assert causal_layers([[0.26, 0.25, 0.4]], 0.26) == [0, 2]
    assert causal_layers(SCORES, 0.5) == []


def test_slow_twin():
    random = np.random.default_rng(3)
    scores, ratings = random.normal(size=(4, 30)), random.random((4, 30)) < 0.8
    averages = []
    for state in range(30):
        if all(ratings[prompt][state] for prompt in range(4)):
            averages.append(sum(scores[prompt][state] for prompt in range(4)) / 4)
    assert len(averages) > 1
    assert causal_threshold(scores, ratings) == pytest.approx(min(averages), abs=1e-12)
    # The order of prompts and of states does not matter.
    assert causal_threshold(scores[::-1, ::-1], ratings[::-1, ::-1]) == pytest.approx(min(averages), abs=1e-12)


def test_no_common_state():
    with pytest.raises(DataError, match=r"no state is rated faithful for all 2 prompts \(the best, state 1, for 1\)"):
        causal_threshold([[0.1, 0.2], [0.1, 0.2]], [[0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("scores", "ratings", "message"),
    [
        ([[0.1]], [[1, 1]], r"shape \(1, 1\) and ratings \(1, 2\)"),
        ([0.1], [1], "both must be"),
        ([[0.1]], [[0.5]], "neither 0 nor 1"),
        ([[np.nan]], [[1]], r"scores hold nan at \[0, 0\]"),
        ([[]], [[]], "at least one prompt"),
        ([["x"]], [[1]], "cannot be read as numbers"),
    ],
)
def test_bad_input(scores, ratings, message):
    with pytest.raises(DataError, match=message):
        causal_threshold(scores, ratings)


def test_bad_thresholds():
    with pytest.raises(OptionError, match="the threshold is nan"):
        causal_layers(SCORES, float("nan"))
    with pytest.raises(DataError, match=r"must be \(prompts, states\)"):
        causal_layers([0.1], 0.2)
