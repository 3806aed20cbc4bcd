import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pellucid.core.errors import DataError
from pellucid.mllm_edit.constraints_data import find_faults, read_constraints, span_of
from pellucid.mllm_edit.published_answers import read_known_answers, read_okvqa_answers
from pellucid.mllm_edit.questions import VisualQuestion

HEADS = {"okvqa": [], "multimodal_known": ["subject"], "multimodal_movies": ["director"]}


def table(folder: Path, part: str, *rows: list[str]) -> Path:
    """A file as it is published: a number without a heading, and the columns of that part."""
    path = folder / f"{part}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "question", *HEADS[part], "main_entity", "image_url"])
        writer.writerows([number, *row] for number, row in enumerate(rows))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("val2014/COCO_val2014_000000000042.jpg", "A photo of Ada/2.png", "A photo of Ada/1.JPG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "A photo of Fish.com.png").touch()
    return folder


def test_the_three_published_tables(tmp_path: Path, images: Path) -> None:
    ok = read_constraints(
        table(tmp_path, "okvqa", ["What is this Animal?", "this animal", "./val2014/COCO_val2014_000000000042.jpg"]),
        images,
    )
    assert ok.questions == (
        VisualQuestion(
            image=str(images / "val2014/COCO_val2014_000000000042.jpg"),
            question="What is this Animal?",
            visual="this Animal",
            answers=(),
            id="okvqa-0",
            group="okvqa",
        ),
    )
    known = read_constraints(
        table(
            tmp_path,
            "multimodal_known",
            ["This site, a product of", "Fish.com", "This site,", "./A photo of Fish.com"],
        ),
        images,
    )
    assert known.questions[0].entity == "Fish.com"
    assert known.questions[0].visual == "This site"
    assert known.questions[0].image.endswith("Fish.com.png")
    movies = read_constraints(
        table(
            tmp_path,
            "multimodal_movies",
            ["Name a movie directed by this director?", "Ada", "this director", "./A photo of Ada"],
        ),
        images,
    )
    assert movies.questions[0].image.endswith("A photo of Ada/1.JPG")
    assert (movies.questions[0].entity, movies.questions[0].group) == ("Ada", "movies")
    assert not (*ok.faults, *known.faults, *movies.faults)


def test_bad_rows_are_named_and_left_out(tmp_path: Path, images: Path) -> None:
    picture = "./val2014/COCO_val2014_000000000042.jpg"
    path = table(
        tmp_path,
        "okvqa",
        ["What is this?", "this", picture],
        ["What type of plane is that?", "plane on that", picture],
        ["This man is speaking into a?", "a?", picture],
        ["What is this?", "this", "./val2014/none.jpg"],
        ["What is this?", "this", "../secret.jpg"],
        ["", "this", picture],
        ["Is it\nthis one?", "hat", picture],
        ["Which hat is that?", "hat", picture],
    )
    found = read_constraints(path, images)
    assert [one.id for one in found.questions] == ["okvqa-0", "okvqa-7"]
    said = [str(fault) for fault in found.faults]
    for text, part in zip(
        said,
        [
            "line 3: the constraint 'plane on that' does not stand in the question",
            "line 4: the constraint 'a' names nothing",
            "line 5: there is no picture './val2014/none.jpg'",
            "line 6: the picture's name '../secret.jpg' is no path within",
            "line 7: the question is empty",
            "line 9: the constraint 'hat' does not stand in the question 'Is it this one?'",
        ],
        strict=True,
    ):
        assert text.startswith(str(path))
        assert part in text
        assert "\n" not in text


def test_tables_that_cannot_be_read(tmp_path: Path, images: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        read_constraints(tmp_path / "okvqa.csv", tmp_path / "none")
    with pytest.raises(DataError, match="cannot read"):
        read_constraints(tmp_path / "okvqa.csv", images)
    with pytest.raises(DataError, match="it has no rows at all"):
        read_constraints(table(tmp_path, "okvqa"), images)
    with pytest.raises(DataError, match=r"no row that can be used: .*line 2"):
        read_constraints(table(tmp_path, "okvqa", ["What?", "this", "x"]), images)
    (tmp_path / "okvqa.csv").write_text("question,main_entity\n")
    with pytest.raises(DataError, match="no column 'image_url'"):
        read_constraints(tmp_path / "okvqa.csv", images)
    (tmp_path / "okvqa.csv").write_bytes(b"question,main_entity,image_url\n\xff,a,b\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_constraints(tmp_path / "okvqa.csv", images)


def test_answers_of_okvqa(tmp_path: Path, images: Path) -> None:
    annotations, questions = tmp_path / "annotations.json", tmp_path / "questions.json"
    asked = [{"image_id": 42, "question_id": n, "question": text} for n, text in ((1, "What is this?"), (2, "Why?"))]
    given = [
        {"image_id": 42, "question_id": n, "answers": [{"answer": answer, "answer_id": 1} for answer in answers]}
        for n, answers in ((1, ["cat", "cat", "dog"]), (2, ["so"]))
    ]
    questions.write_text(json.dumps({"questions": asked}))
    annotations.write_text(json.dumps({"annotations": given}))
    path = table(tmp_path, "okvqa", ["What is this?", "this", "./val2014/COCO_val2014_000000000042.jpg"])
    found = read_constraints(path, images, read_okvqa_answers(annotations, questions))
    assert found.questions[0].answers == ("cat", "cat", "dog")
    questions.write_text(json.dumps({"questions": asked[:1]}))
    with pytest.raises(DataError, match=r"of question 2, which .* does not hold"):
        read_okvqa_answers(annotations, questions)
    annotations.write_text("[]")
    with pytest.raises(DataError, match="holds no list called 'annotations'"):
        read_okvqa_answers(annotations, questions)


def test_answers_of_known(tmp_path: Path, images: Path) -> None:
    facts = [
        {"subject": "Ada", "attribute": "London", "template": "{} was born in", "prompt": "Ada was born in"},
        {"subject": "Ada", "attribute": "mathematics", "template": "{} works in the area of", "prompt": "..."},
        {"subject": "Fish.com", "attribute": "Pond", "template": "{} is owned by", "prompt": "..."},
    ]
    path = tmp_path / "known_1000.json"
    path.write_text(json.dumps(facts))
    rows = table(
        tmp_path,
        "multimodal_known",
        ["This person was born in", "Ada", "This person", "A photo of Ada"],
        ["The owner of this site is", "Fish.com", "this site", "A photo of Fish.com"],
        ["This person died in", "Ada", "This person", "A photo of Ada"],
        ["This person died in", "Eve", "This person", "A photo of Ada"],
    )
    found = read_constraints(rows, images, read_known_answers(path))
    assert [one.answers for one in found.questions] == [("London",), ("Pond",)]
    assert "2 answers are given for 'Ada'" in str(found.faults[0])
    assert "no answer is given for 'Eve'" in str(found.faults[1])
    path.write_text('[{"subject": "Ada"}]')
    with pytest.raises(DataError, match="entry 0 has no 'template'"):
        read_known_answers(path)


def test_spans_are_whole_words_as_the_question_spells_them() -> None:
    assert span_of("this PERSON?", "Who is This  Person, then?") == "This  Person"
    assert span_of("hat", "Is that it?") is None
    assert span_of(" ?", "What?") is None


def test_faults_of_questions_from_anywhere(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.touch()
    good = VisualQuestion(
        str(picture), "What does this person cook in winter?", "this person", ("winter",), ("soup",), id="a"
    )
    bad = [
        replace(good, visual="this boat", id="b"),
        replace(good, textual=("summer",), id="c"),
        replace(good, textual=("person",), id="d"),
        replace(good, answers=(), id="e"),
        replace(good, image=str(tmp_path / "b.png"), id="f"),
        good,
        replace(good, visual="", id=""),
    ]
    parts = ("'this boat'", "'summer'", "part of the visual", "no answer", "no picture", "twice", "constraint ''")
    found = find_faults([good, *bad])
    assert [fault.where for fault in found] == ["b", "c", "d", "e", "f", "a", "question 8"]
    for fault, part in zip(found, parts, strict=True):
        assert part in fault.what
    assert not find_faults([good, bad[3], replace(good, image="", id="g")], needs_answers=False)
