import json

import numpy as np
import pytest
from pellucid.compose.tifa import TifaQuestion, read_tifa, tifa_scores
from pellucid.core.errors import DataError

RECORD = {
    "id": "x_1",
    "caption": "a red book",
    "element": "red",
    "element_type": "color",
    "question": "what colour is the book?",
    "choices": ["red", "blue"],
    "answer": "red",
}


class Told:
    """Scores choices by a table of the answer to each picture's first pixel and question."""

    def yes_probabilities(self, pictures, questions):
        raise NotImplementedError

    def choice_scores(self, pictures, questions, choices):
        return [
            [np.array([-float(choice != ("red" if shown[0, 0, 0] else "blue")) for choice in texts]) for texts in one]
            for shown, one in zip(pictures, choices, strict=True)
        ]


def test_shares_of_right_answers():
    questions = [
        TifaQuestion("a red book", "what colour?", ("red", "blue"), "red", "color"),
        TifaQuestion("a red book", "is it blue?", ("blue", "red"), "blue", "other"),
        TifaQuestion("a cup", "what colour?", ("blue", "red"), "blue", "color"),
    ]
    pictures = np.zeros((3, 2, 2, 3), np.uint8)
    pictures[0] = 255
    found = tifa_scores(pictures, ["a red book", "a red book", "a cup"], questions, Told())
    assert found.scores.tolist() == [0.5, 0.5, 1.0]
    assert found.answers == (("red", "red"), ("blue", "blue"), ("blue",))
    assert found.kinds["color"].tolist() == [1.0, 0.0, 1.0]
    assert found.mean().value == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="'a dog'"):
        tifa_scores(pictures, ["a red book", "a dog", "a cup"], questions, Told())


def test_reads_question_lists(tmp_path):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([RECORD]))
    (found,) = read_tifa(path)
    assert found == TifaQuestion("a red book", "what colour is the book?", ("red", "blue"), "red", "color")
    (tmp_path / "questions.csv").write_text("prompt,question,choices,answer\na cup,is it?,yes | no,no\n")
    assert read_tifa(tmp_path / "questions.csv")[0].choices == ("yes", "no")


@pytest.mark.parametrize(
    ("change", "match"),
    [({"answer": "green"}, "green"), ({"choices": ["red"]}, "two or more"), ({"question": ""}, "question")],
)
def test_records_are_checked(tmp_path, change, match):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([RECORD | change]))
    with pytest.raises(DataError, match=match):
        read_tifa(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="no list"):
        read_tifa(path)
