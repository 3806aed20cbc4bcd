"""The commands on a tiny LLaVA, from tracing to a study of edits."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pellucid.core.edits import WeightEdit
from pellucid.core.errors import DataError, OptionError
from pellucid.core.multimodal import load_multimodal
from pellucid.core.testing import tiny_decoder
from pellucid.core.testing_multimodal import LAYERS, tiny_multimodal
from pellucid.mllm_edit.answering import answer_probabilities
from pellucid.mllm_edit.asking_files import chosen_questions
from pellucid.mllm_edit.cli import app
from pellucid.mllm_edit.looking import LookRow
from pellucid.mllm_edit.questions import VisualQuestion, read_questions, write_questions
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA, a language model, and six questions about three pictures."""
    folder = tmp_path_factory.mktemp("home")
    model, processor = tiny_multimodal("llava")
    model.save_pretrained(folder / "llava")
    processor.save_pretrained(folder / "llava")
    tiny_decoder("llama", vocabulary=len(processor.tokenizer)).save_pretrained(folder / "llama")
    words = copy.copy(processor.tokenizer)
    words.chat_template = "{% for turn in messages %}{{ turn['content'] }} {% endfor %}"
    words.save_pretrained(folder / "llama")
    asked = []
    for number in range(3):
        path = folder / f"{number}.png"
        Image.effect_noise((20, 20), 40 + 30 * number).convert("RGB").save(path)
        mill = VisualQuestion(
            str(path), "Which mill belongs to this person?", "this person", (), ("the red mill",),
            ("Whose mill is the red mill?",), f"Anna {number}", group="taught",
        )  # fmt: skip
        pet = replace(mill, question="Which pet does this person keep?", answers=("the goat",), group="withheld")
        asked += [mill, pet]
    write_questions(asked, folder / "q.jsonl")
    return folder


def _run(home: Path, out: Path, command: str, *options: str, code: int = 0) -> Any:
    model = [] if "--model" in options else ["--model", str(home / "llava")]
    done = CliRunner().invoke(app, [command, *model, "--out", str(out), *options])
    if code:
        assert isinstance(done.exception, OptionError | DataError)
        return str(done.exception)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert (out / "report.html").is_file()
    return json.loads((out / "result.json").read_text())["results"]


def test_tracing_with_the_picture_and_in_words(home: Path, tmp_path: Path) -> None:
    found = _run(home, tmp_path, "trace", "--questions", str(home / "q.jsonl"), "-n", "3", "--words", "--window", "1")
    assert found["questions"] == found["words"]["questions"] == 3
    assert len(found["effects"]["mlp"]["last token"]["value"]) == LAYERS
    assert 0 <= found["best"]["attention"]["layer"] < LAYERS


def test_contributions_are_drawn_on_the_picture(home: Path, tmp_path: Path) -> None:
    found = _run(home, tmp_path, "contributions", "--questions", str(home / "q.jsonl"), "--group", "taught")
    assert found["questions"] == 3
    assert (tmp_path / "figures/patches.png").is_file()
    assert len(found["image to constraint"]["value"]) == LAYERS
    assert LookRow("a", True, 0.5, [1.0, 2, 3, 4, 5, 6], [0.0, 0], [0.0, 0], [0.0, 0]).by_token().shape == (2, 3)


def test_prediction_needs_right_and_wrong_answers(home: Path, tmp_path: Path) -> None:
    assert "at least two of both" in _run(home, tmp_path, "predict", "--questions", str(home / "q.jsonl"), code=2)


def test_an_edit_is_a_file_that_gives_the_new_answer(home: Path, tmp_path: Path) -> None:
    one = ["--image", str(home / "0.png"), "--question", "Which mill belongs to this person?", "--constraint"]
    one += ["this person", "--answer", "Paris", "--layer", "1", "--steps", "30", "--ridge", "0.001"]
    others = ["--unrelated", str(home / "q.jsonl")]
    found = _run(home, tmp_path / "a", "edit", *one, *others, "--lora")
    assert found["probability"]["edited"]["after"]["value"] > found["probability"]["edited"]["before"]["value"]
    assert "edit.safetensors" in found["files"]
    loaded = load_multimodal(str(home / "llava"))
    asked = VisualQuestion(str(home / "0.png"), "Which mill belongs to this person?", "this person", (), ("Paris",))
    edit = WeightEdit.load(tmp_path / "a")
    with edit.applied(loaded.model):
        again = answer_probabilities(loaded, [asked], ["Paris"]).item()
    assert again == pytest.approx(found["answers"][0]["P after"], rel=1e-4)
    second = [
        "--questions",
        str(home / "q.jsonl"),
        "--group",
        "withheld",
        "-n",
        "1",
        "--edit",
        str(tmp_path / "a"),
        "--ridge",
        "0.001",
    ]
    found = _run(home, tmp_path / "b", "edit", *second, "--layer", "1", "--steps", "5")
    assert set(found["probability"]) == {"edited", "paraphrase"}


def test_methods_are_compared(home: Path, tmp_path: Path) -> None:
    options = ["--questions", str(home / "q.jsonl"), "--group", "withheld", "--unrelated", str(home / "q.jsonl")]
    options += ["--unrelated-group", "taught", "--layers", "early,late", "--ridges", "0.1,1", "--rates", "0.001"]
    found = _run(home, tmp_path, "evaluate", *options, "--bounds", "0.001", "--sizes", "1,3", "--steps", "2")
    assert len(found["outcomes"]) == 2 * (1 + 4 + 1 + 1)
    assert (tmp_path / "figures/efficacy.png").is_file()


def test_a_chat_model_marks_constraints(home: Path, tmp_path: Path) -> None:
    options = ["--model", str(home / "llama"), "--questions", str(home / "q.jsonl"), "--votes", "1"]
    found = _run(home, tmp_path, "annotate", *options)
    assert found["sure"] + found["unsure"] == 6
    assert (tmp_path / "review.jsonl").is_file()


def test_bad_input_is_one_line(home: Path, tmp_path: Path) -> None:
    questions = home / "q.jsonl"
    with pytest.raises(OptionError, match="has no group 'x': it has taught, withheld"):
        chosen_questions(questions, ["x"])
    write_questions([replace(one, visual="") for one in read_questions(questions)], tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no question with a visual constraint"):
        chosen_questions(tmp_path / "none.jsonl")
    assert "give --image" in _run(home, tmp_path / "a", "edit", code=2)
    options = ["--questions", str(questions), "--unrelated", str(questions)]
    for more, message in (
        (["--layers", "deep"], "give early, middle, late"),
        (["--ridges", "x"], "give numbers"),
        (["--order", "twice"], "give together or one by one"),
        (["--sizes", "50"], "give more questions"),
    ):
        assert message in _run(home, tmp_path / "b", "evaluate", *options, *more, code=2)
