import numpy as np
import pytest
from pellucid.core.errors import DataError
from pellucid.mllm_edit.questions import VisualQuestion
from pellucid.mllm_edit.text_backbone import asked_both_ways, depths, in_words

QUESTION = VisualQuestion(
    "a.png", "Which dish does this person cook in winter?", "this person", ("winter",), ("soup",), entity="the baron"
)


def test_the_entity_stands_in_the_constraints_place() -> None:
    asked = in_words(QUESTION)
    assert asked.question == "Which dish does the baron cook in winter?"
    assert (asked.visual, asked.textual, asked.image, asked.answers) == ("the baron", ("winter",), "", ("soup",))


def test_a_question_that_begins_with_the_constraint() -> None:
    asked = in_words(VisualQuestion("a.png", "this person is a citizen of?", "this person", entity="the baron"))
    assert asked.question == "The baron is a citizen of?"
    assert asked.visual == "The baron"


def test_questions_that_cannot_be_asked_in_words() -> None:
    nameless = VisualQuestion("a.png", "What is this?", "this")
    with pytest.raises(DataError, match="names no entity"):
        in_words(nameless)
    with pytest.raises(DataError, match="names no visual constraint"):
        in_words(VisualQuestion("a.png", "What is this?", "", entity="the baron"))
    assert asked_both_ways([QUESTION, nameless]) == [(QUESTION, in_words(QUESTION))]


def test_depths_of_a_case_made_by_hand() -> None:
    early, late = np.eye(6)[[0, 1, 0, 1]], np.eye(6)[[4, 5, 4, 5]]
    found = depths(early, late)
    assert found.pictures.value == pytest.approx(0.5)
    assert found.words.value == pytest.approx(4.5)
    assert (found.later.value, found.later.low, found.later.high) == pytest.approx((4, 4, 4))
    with pytest.raises(DataError, match=r"\(4, 6\) with pictures and \(3, 6\) in words"):
        depths(early, late[:3])
