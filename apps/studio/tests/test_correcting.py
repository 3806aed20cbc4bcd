"""An answer corrected: it holds, the rest stays, the file gives the same again."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pellucid.core.edits import WeightEdit
from pellucid.core.errors import DataError
from pellucid.mllm_edit.questions import VisualQuestion
from pellucid.studio.correcting import EXAMPLES, ZOO, Correcting, as_table


@pytest.fixture(scope="module")
def correcting(tmp_path_factory: pytest.TempPathFactory) -> Correcting:
    return Correcting(ZOO, tmp_path_factory.mktemp("studio"), "cpu")


@pytest.fixture(scope="module")
def wrong(correcting: Correcting) -> VisualQuestion:
    """The first example that the model gets wrong."""
    return next(one for one in correcting.examples() if correcting.ask(one.image, one.question)[0] != one.answers[0])


def test_examples_are_facts_that_the_model_was_not_told(correcting: Correcting) -> None:
    examples = correcting.examples()
    assert len(examples) == EXAMPLES
    assert {one.group for one in examples} == {"withheld"}
    assert len({(one.entity, one.question) for one in examples}) == len({one.image for one in examples}) == EXAMPLES


def test_a_correction_holds_and_the_rest_stays(correcting: Correcting, wrong: VisualQuestion, tmp_path: Path) -> None:
    # The browser sends a chosen picture back as a copy.
    copy = shutil.copy(wrong.image, tmp_path / "copy.png")
    found = correcting.correct(copy, wrong.question, wrong.visual, wrong.answers[0])
    by_kind = {kind: [row for row in found.rows if row.kind == kind] for kind in {row.kind for row in found.rows}}
    [own] = by_kind["corrected"]
    assert (own.good, own.before != own.after) == (True, True)
    assert own.chance_after > own.chance_before
    assert len(by_kind["in other words"]) == len(wrong.paraphrases)
    assert all(row.wanted == row.before for row in by_kind["must stay"])
    assert found.summary.startswith("Right afterwards: corrected 1 of 1, in other words ")

    assert correcting.ask(copy, wrong.question, found.edit)[0] == wrong.answers[0]
    assert correcting.ask(copy, wrong.question)[0] == own.before  # the model itself is as it was
    assert correcting.ask(copy, wrong.question, WeightEdit.load(found.file))[0] == wrong.answers[0]


def test_questions_of_a_visitor(correcting: Correcting, wrong: VisualQuestion) -> None:
    found = correcting.correct(
        wrong.image,
        wrong.question,
        wrong.visual,
        "the <b>mill</b>",
        ["Where is this person's home?"],
        ["What is this?"],
    )
    assert [row.kind for row in found.rows].count("in other words") == len(wrong.paraphrases) + 1
    assert found.rows[-1].question == "What is this?"
    assert "<b>" not in as_table(found.rows)


def test_what_cannot_be_corrected(correcting: Correcting, wrong: VisualQuestion) -> None:
    with pytest.raises(DataError, match="'that dog' do not stand in the question"):
        correcting.correct(wrong.image, wrong.question, "that dog", "x")
    with pytest.raises(DataError, match="the answer is empty"):
        correcting.correct(wrong.image, wrong.question, wrong.visual, "")
    with pytest.raises(DataError, match="there is no picture"):
        correcting.ask(None, wrong.question)


def test_rows_know_whether_they_are_as_wanted(correcting: Correcting, wrong: VisualQuestion) -> None:
    row = correcting.correct(wrong.image, wrong.question, wrong.visual, wrong.answers[0]).rows[0]
    assert row.good
    assert not replace(row, after="something else").good
