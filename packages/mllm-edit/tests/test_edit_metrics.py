from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pellucid.core.errors import DataError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.testing_multimodal import tiny_multimodal
from pellucid.mllm_edit.answering import answer_probability, generate_answers
from pellucid.mllm_edit.edit_metrics import (
    EditCase,
    EditScores,
    accuracies,
    edit_cases,
    edit_scores,
    questions_of,
    wrongly_answered,
)
from pellucid.mllm_edit.inputs import prepare
from pellucid.mllm_edit.questions import VisualQuestion
from PIL import Image

MILL = VisualQuestion(
    "a.png", "Which mill belongs to this person?", "this person", answers=("the red mill", "a mill"),
    paraphrases=("Which mill does this person own?", "Name the mill."), entity="Anna",
)  # fmt: skip
DISH = replace(MILL, question="Which dish does this person cook in winter?", textual=("winter",), answers=("soup",))


@pytest.fixture(scope="module")
def loaded() -> LoadedMultimodal:
    return LoadedMultimodal(*tiny_multimodal(), ModelSpec("tiny"))


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    found = []
    for name in "abc":
        Image.effect_noise((20, 20), 80).convert("RGB").save(tmp_path / f"{name}.png")
        found.append(str(tmp_path / f"{name}.png"))
    return found


def test_questions_that_differ_in_their_picture_are_one_fact() -> None:
    other = replace(MILL, entity="Berta")
    asked = [MILL, DISH, replace(MILL, image="b.png"), replace(MILL, image="c.png"), MILL, other]
    first, second, third = edit_cases(asked)
    assert first == EditCase(MILL, ("b.png", "c.png"))
    assert second == EditCase(DISH)
    assert third.question.entity == "Berta"
    assert edit_cases(asked, pictures=1)[0].pictures == ("b.png",)
    unknown = replace(MILL, entity="")
    assert len(edit_cases([unknown, replace(unknown, image="b.png")])) == 2


def test_a_case_is_judged_by_its_question_its_paraphrases_and_its_other_pictures() -> None:
    asked = questions_of([EditCase(MILL, ("b.png",)), EditCase(DISH)])
    assert [(one.case, one.kind) for one in asked] == [
        (0, "edited"), (0, "paraphrase"), (0, "paraphrase"), (0, "picture"),
        (1, "edited"), (1, "paraphrase"), (1, "paraphrase"),
    ]  # fmt: skip
    assert [one.question.question for one in asked[:4]] == [MILL.question, *MILL.paraphrases, MILL.question]
    assert [one.question.image for one in asked[:4]] == ["a.png", "a.png", "a.png", "b.png"]
    assert {one.question.answers for one in asked} == {("the red mill",), ("soup",)}


def test_scores_are_those_of_each_question_alone(loaded: LoadedMultimodal, pictures: list[str]) -> None:
    cases = [EditCase(replace(MILL, image=pictures[0]), (pictures[1],)), EditCase(replace(DISH, image=pictures[2]))]
    found = edit_scores(loaded, cases, batch=3)
    for place, one in enumerate(questions_of(cases)):
        alone = prepare(loaded, [one.question], answers=[one.question.answers[0]])
        assert found.probability[place] == pytest.approx(float(answer_probability(loaded, alone)), rel=1e-3)
    assert found.exact == (False,) * 7
    said = generate_answers(loaded, [cases[1].question])[0].text
    its = EditCase(replace(cases[1].question, answers=(f"The {said}", "soup"), paraphrases=()))
    assert edit_scores(loaded, [its]).exact == (True,)


def test_means_are_taken_within_a_case_first() -> None:
    scores = EditScores(
        case=(0, 0, 0, 1, 1),
        kind=("edited", "paraphrase", "paraphrase", "edited", "picture"),
        probability=(0.5, 0.2, 0.4, 0.9, 0.1),
        exact=(False, True, False, True, False),
    )
    np.testing.assert_allclose(scores.by_case("edited"), [0.5, 0.9])
    np.testing.assert_allclose(scores.by_case("paraphrase"), [0.3])
    np.testing.assert_allclose(scores.by_case("paraphrase", exact=True), [0.5])
    np.testing.assert_allclose(scores.by_case("picture"), [0.1])


def test_accuracy_tells_right_answers_from_wrong_ones(loaded: LoadedMultimodal, pictures: list[str]) -> None:
    asked = [replace(MILL, image=pictures[0]), replace(DISH, image=pictures[1])]
    said = generate_answers(loaded, asked)[1].text
    asked[1] = replace(asked[1], answers=("soup", said))
    np.testing.assert_allclose(accuracies(loaded, asked), [0, 1])
    assert wrongly_answered(loaded, asked) == asked[:1]


def test_nothing_to_judge_by_is_an_error(loaded: LoadedMultimodal) -> None:
    with pytest.raises(DataError, match="there is no case to judge an edit by"):
        edit_scores(loaded, [])
    with pytest.raises(DataError, match="has no answer to teach"):
        questions_of([EditCase(replace(MILL, answers=()))])
    with pytest.raises(DataError, match="has no answer"):
        accuracies(loaded, [replace(MILL, answers=())])
