"""Questions about pictures, on disk."""

import json
from pathlib import Path

import pytest
from pellucid.core.errors import DataError
from pellucid.mllm_edit.questions import VisualQuestion, read_questions, write_questions
from pellucid.zoo.world_datasets import write_dataset


def test_questions_come_back(tmp_path: Path) -> None:
    asked = [
        VisualQuestion(str(tmp_path / "a.png"), "Who is this person?", "this person", answers=("the baron",)),
        VisualQuestion(
            str(tmp_path / "b.png"), "Was this film made in 1999?", "this film", ("1999",), ("yes",), ("In 1999?",), "x"
        ),
    ]
    write_questions(asked, tmp_path / "questions.jsonl")
    assert read_questions(tmp_path / "questions.jsonl") == asked


def test_tinyworlds_questions_are_read(tmp_path: Path) -> None:
    out = write_dataset("facts", tmp_path, {"train": 0, "validation": 0, "test": 3})
    found = read_questions(out / "test.jsonl")
    assert {one.group for one in found} >= {"taught", "name", "seen"}
    assert all(Path(one.image).is_file() for one in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": 3}, "line 1: question is 3: write a text"),
        ({"answers": "yes"}, "answers is 'yes': write a list of texts"),
        ({"answers": []}, "line 1 has no answer"),
        ({"visual": "that man"}, "'that man' is not in the question"),
        ({"image": None}, "line 1: image is None"),
    ],
)
def test_bad_lines_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    row = {"image": "a.png", "question": "Who is this?", "visual": "this", "answers": ["x"], **change}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    with pytest.raises(DataError, match=message):
        read_questions(tmp_path / "q.jsonl")


def test_files_that_hold_none_are_told(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    with pytest.raises(DataError, match="cannot be read"):
        read_questions(path)
    for text, message in (("", "has no question"), ("[1]", "is a list"), ("{", "is no JSON"), ("{}", "lacks 'image'")):
        path.write_text(text, "utf-8")
        with pytest.raises(DataError, match=message):
            read_questions(path)
