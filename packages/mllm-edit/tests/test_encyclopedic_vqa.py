import csv
import json
from pathlib import Path

import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.mllm_edit.encyclopedic_vqa import pointing_phrase, read_encyclopedic_vqa

COLUMNS = [
    "question", "answer", "dataset_image_ids", "dataset_name", "dataset_category_id", "question_type", "wikipedia_url",
    "wikipedia_title", "evidence", "encyclopedic_vqa_split", "question_original",
]  # fmt: skip


def table(folder: Path, *rows: dict[str, str]) -> Path:
    path = folder / "val.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(question: str, ids: str, name: str = "landmarks", **more: str) -> dict[str, str]:
    fields = {"answer": "the Menger family", "question_type": "automatic", "wikipedia_title": "Menger Hotel"}
    return {"question": question, "dataset_image_ids": ids, "dataset_name": name, **fields, **more}


@pytest.fixture
def landmarks(tmp_path: Path) -> Path:
    folder = tmp_path / "gldv2"
    for name in ("train/a/b/c/abcd.jpg", "index/1/2/3/1234.jpg", "f/f/f/ffff.jpg"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    return folder


def test_questions_about_landmarks(tmp_path: Path, landmarks: Path) -> None:
    path = table(
        tmp_path,
        row("Where does this hotel get its name from?", "none|abcd|1234|ffff"),
        row("Where is the hotel?", "abcd"),
        row("Who owns this?", "none"),
        row("Who owns this?", "abcd", answer="Ada|Ada M.&&Eve"),
        row("Who owns this?", "abcd", question_type="2_hop"),
        row("Who eats this plant?", "7", "inaturalist"),
        row("Who owns this?", "abcd", answer=""),
    )
    found = read_encyclopedic_vqa(path, {"landmarks": landmarks}, pictures=2)
    first, second, third = found.questions
    assert first.image == str(landmarks / "train/a/b/c/abcd.jpg")
    assert second.image == str(landmarks / "index/1/2/3/1234.jpg")
    assert (first.visual, first.answers, first.entity) == ("this hotel", ("the Menger family",), "Menger Hotel")
    assert (first.id, second.id, first.group) == ("evqa-2-1", "evqa-2-2", "landmarks")
    assert (third.visual, third.answers) == ("this", ("Ada", "Ada M., Eve"))
    assert [fault.where for fault in found.faults] == [f"{path}, line {n}" for n in (3, 4, 8)]
    limited = read_encyclopedic_vqa(path, {"landmarks": landmarks}, limit=1)
    assert [one.id for one in limited.questions] == ["evqa-2-1"]
    assert not limited.faults


def test_questions_about_nature(tmp_path: Path) -> None:
    folder = tmp_path / "inat"
    (folder / "val/0001_Plant").mkdir(parents=True)
    (folder / "val/0001_Plant/x.jpg").touch()
    path = table(tmp_path, row("What eats this plant?", "7|8", "inaturalist"))
    with pytest.raises(DataError, match=r"holds neither train\.json"):
        read_encyclopedic_vqa(path, {"inaturalist": folder})
    (folder / "val.json").write_text(json.dumps({"images": [{"id": 8, "file_name": "val/0001_Plant/x.jpg"}]}))
    found = read_encyclopedic_vqa(path, {"inaturalist": folder})
    assert found.questions[0].image == str(folder / "val/0001_Plant/x.jpg")
    (folder / "val.json").write_text("{}")
    with pytest.raises(DataError, match="is not iNaturalist's list"):
        read_encyclopedic_vqa(path, {"inaturalist": folder})


def test_what_cannot_be_read(tmp_path: Path, landmarks: Path) -> None:
    path = table(tmp_path, row("Who owns it?", "abcd"))
    with pytest.raises(DataError, match=r"no row that can be used: .*has no 'this' or 'these'"):
        read_encyclopedic_vqa(path, {"landmarks": landmarks})
    with pytest.raises(DataError, match="none is of 2_hop"):
        read_encyclopedic_vqa(path, {"landmarks": landmarks}, kinds=["2_hop"])
    with pytest.raises(OptionError, match="no kind 'hard'"):
        read_encyclopedic_vqa(path, {"landmarks": landmarks}, kinds=["hard"])
    with pytest.raises(OptionError, match="no data set 'coco'"):
        read_encyclopedic_vqa(path, {"coco": landmarks})
    with pytest.raises(OptionError, match="pictures=0"):
        read_encyclopedic_vqa(path, {"landmarks": landmarks}, pictures=0)
    path.write_text("question,answer\n")
    with pytest.raises(DataError, match="no column 'dataset_image_ids'"):
        read_encyclopedic_vqa(path, {"landmarks": landmarks})


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        ("What is this plant used for?", "this plant"),
        ("Who made this in 1900?", "this"),
        ("What is this?", "this"),
        ("Where do These birds nest?", "These birds"),
        ("What is this hotel's name?", "this hotel"),
        ("What grows here?", None),
    ],
)
def test_pointing_phrases(question: str, phrase: str | None) -> None:
    assert pointing_phrase(question) == phrase
