import numpy as np
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.core.statistics import auroc
from pellucid.mllm_edit.prediction import auroc_difference, middle_layers, predict_correctness


def made_up(n: int = 80, layers: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    correct = random.random(n) < 0.6
    contributions = random.normal(size=(n, layers))
    contributions[:, 5:7] += 1.5 * correct[:, None]
    confidence = 1 / (1 + np.exp(-random.normal(size=n) - 2 * correct))
    return contributions, confidence, correct


def test_each_number_is_the_auroc_that_its_name_says() -> None:
    contributions, confidence, correct = made_up()
    found = predict_correctness(contributions, confidence, correct, seed=3)
    for sign in found.layers:
        assert sign.auroc == auroc(contributions[:, sign.layer], correct, 3)
    assert found.middle == (4, 5)
    assert found.by_middle == auroc(contributions[:, [4, 5]].mean(1), correct, 3)
    assert found.by_confidence == auroc(confidence, correct, 3)
    assert found.gain.value == pytest.approx(found.by_confidence.value - found.by_middle.value)
    assert (found.right, found.wrong) == (correct.sum(), (~correct).sum())


def test_layers_are_chosen_on_one_half_and_judged_on_the_other() -> None:
    contributions, confidence, correct = made_up()
    found = predict_correctness(contributions, confidence, correct)
    assert found.chosen == (5, 6)
    # Noise that happens to fit the choosing half does not help on the other one.
    noise = np.random.default_rng(1).normal(size=(80, 20))
    lucky = [predict_correctness(noise, confidence, correct, seed=seed).by_chosen.value for seed in range(2)]
    assert abs(np.mean(lucky) - 0.5) < 0.2
    assert found.by_chosen.value > 0.7


def test_the_order_of_questions_of_a_kind_does_not_shift_the_gain() -> None:
    contributions, confidence, correct = made_up(40)
    one = auroc_difference(confidence, contributions[:, 5], correct, seed=0, draws=200)
    assert one.low <= one.value <= one.high
    same = auroc_difference(confidence, confidence * 2, correct, seed=0, draws=50)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    # The slow twin: resample questions, and count pairs anew.
    random = np.random.default_rng(0)
    right, wrong = np.flatnonzero(correct), np.flatnonzero(~correct)
    slow = []
    for _ in range(200):
        up, down = (places[random.integers(len(places), size=len(places))] for places in (right, wrong))
        areas = [
            np.mean([[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in down] for i in up])
            for s in (confidence, contributions[:, 5])
        ]
        slow.append(areas[0] - areas[1])
    assert np.allclose(np.quantile(slow, [0.025, 0.975]), [one.low, one.high], atol=1e-12)


def test_the_middle_is_where_the_thesis_finds_it() -> None:
    assert [middle_layers(n) for n in (32, 8, 3, 2)] == [(16, 17), (4, 5), (1, 2), (0, 1)]


def test_what_cannot_be_predicted() -> None:
    contributions, confidence, correct = made_up()
    with pytest.raises(DataError, match="do not belong together"):
        predict_correctness(contributions[1:], confidence, correct)
    with pytest.raises(DataError, match="80 answers are right and 0 wrong"):
        predict_correctness(contributions, confidence, np.ones(80))
    with pytest.raises(OptionError, match="1 layers"):
        predict_correctness(contributions[:, :1], confidence, correct)
