import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pellucid.core.errors import DataError
from pellucid.mllm_edit.vqa_accuracy import normalised, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("The Goat", "goat"),
        ("  a red\tmill.\n", "red mill"),
        ("two", "2"),
        ("None", "0"),
        ("3.5", "3.5"),
        ("10,000", "10000"),
        ("dont know", "don't know"),
        ("black/white", "black white"),
        ("what?", "what"),
        ("yes, sir", "yes sir"),
        ("New-York", "new york"),
        ("4:30", "4:30"),
        ("St. John's", "st john's"),
        ("", ""),
    ],
)
def test_answers_are_compared_in_one_form(answer: str, form: str) -> None:
    assert normalised(answer) == form
    assert normalised(form) == form


def slow(given: str, answers: list[str]) -> float:
    """The formula as it is written: every choice of all but one of the people."""
    found = []
    for chosen in itertools.combinations(range(len(answers)), len(answers) - 1):
        agreeing = sum(normalised(answers[k]) == normalised(given) for k in chosen)
        found.append(min(agreeing / 3, 1.0))
    return sum(found) / len(found)


@given(st.lists(st.sampled_from(["cat", "a cat", "dog", "Dog!", "2", "two"]), min_size=10, max_size=12))
def test_it_is_the_mean_over_all_but_one_of_the_people(answers: list[str]) -> None:
    for said in ("the cat", "dog", "two", "horse"):
        assert vqa_accuracy(said, answers) == pytest.approx(slow(said, answers), abs=1e-12)


def test_three_of_ten_are_nine_tenths_and_four_are_all() -> None:
    assert vqa_accuracy("cat", ["cat"] * 3 + ["dog"] * 7) == pytest.approx(0.9)
    assert vqa_accuracy("cat", ["cat"] * 4 + ["dog"] * 6) == 1


def test_a_short_list_holds_right_answers() -> None:
    assert vqa_accuracy("red mill", ("the red mill", "the windmill")) == 1
    assert vqa_accuracy("blue mill", ("the red mill",)) == 0


def test_without_answers_nothing_is_right_or_wrong() -> None:
    with pytest.raises(DataError, match="nothing to compare 'cat' with"):
        vqa_accuracy("cat", [])
