"""Exact match and F1: the published script's cases by hand."""

import pytest
from pellucid.qa_circuits.qa_metrics import exact_match, f1, normalised


def test_what_does_not_count() -> None:
    assert normalised(" The  Cat's, a hat!\n") == "cats hat"
    assert normalised("An apple") == "apple"
    assert normalised("Athens") == "athens"  # articles are whole words
    assert normalised("—") == "—"  # only ASCII punctuation is taken out, as in the published script


@pytest.mark.parametrize(
    ("reply", "answers", "exact", "overlap"),
    [
        ("Oslo", ["Lima", "the oslo."], 1, 1),
        ("Oslo, Norway", ["Oslo"], 0, 2 / 3),
        ("New York City", ["York", "New York"], 0, 0.8),
        ("to be or not to be", ["to be to be"], 0, 0.8),  # a word counts as often as both have it
        ("Rome", ["Oslo"], 0, 0),
        ("", ["Oslo"], 0, 0),
        ("the", ["a"], 1, 1),
        ("the", ["a cat"], 0, 0),
        ("Oslo", [], 0, 0),
    ],
)
def test_scores(reply: str, answers: list[str], exact: float, overlap: float) -> None:
    assert exact_match(reply, answers) == exact
    assert f1(reply, answers) == pytest.approx(overlap)
