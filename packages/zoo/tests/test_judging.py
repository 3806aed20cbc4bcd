"""`pellucid zoo judge`, and the judge as a scorer."""

import json
from pathlib import Path

import numpy as np
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.zoo.cli import app
from pellucid.zoo.judge import tinyworld_scorer
from pellucid.zoo.judging import judge_folder
from pellucid.zoo.world import parse, render, render_all
from PIL import Image
from typer.testing import CliRunner

RED, PAIR = "a red circle on the beach", "a blue star left of a green house in the style of monet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("a.png", RED), ("b.png", PAIR)):
        Image.fromarray(render(parse(text, 3), 64)).save(tmp_path / name)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "noise.png")
    (tmp_path / "captions.csv").write_text(f"file,caption\na.png,{RED}\nb.png,{PAIR.replace('blue', 'red')}\n")
    return tmp_path


def test_a_folder_is_read_and_compared_with_captions(folder: Path) -> None:
    result = CliRunner().invoke(app, ["judge", str(folder), "--captions", str(folder / "captions.csv"), "--json"])
    one, two, three = map(json.loads, result.output.splitlines())
    assert one["seen"] == "red circle, beach"
    assert all(one["held"].values())
    assert two["seen"] == "blue star left of green house, monet"
    assert [name for name, yes in two["held"].items() if not yes] == ["colour"]
    assert (three["seen"], three["held"]) == ("none of Tinyworld", None)
    table = CliRunner().invoke(app, ["judge", str(folder), "--captions", str(folder / "captions.csv")]).output
    assert "not colour" in " ".join(table.split())


def test_what_cannot_be_judged_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.png pictures"):
        judge_folder(tmp_path / "empty")
    other = folder / "other.csv"
    other.write_text("file,caption\nz.png,a circle\n")
    with pytest.raises(DataError, match=r"'z\.png', which is not in"):
        judge_folder(folder, other)
    other.write_text("name\nz.png\n")
    with pytest.raises(DataError, match="columns file and caption"):
        judge_folder(folder, other)
    Image.fromarray(np.zeros((40, 32, 3), np.uint8)).save(folder / "c.png")
    with pytest.raises(DataError, match="is 32x40: the judge reads 32x32 and 64x64"):
        judge_folder(folder)
    (folder / "c.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="save it again as PNG"):
        judge_folder(folder)


def test_the_scorer_counts_what_captions_ask_for() -> None:
    pictures = render_all([parse(RED, 3), parse(PAIR, 3)])
    assert tinyworld_scorer()(pictures, [RED, PAIR]).tolist() == [1, 1]
    assert tinyworld_scorer("colour")(pictures, ["a blue circle", PAIR]).tolist() == [0, 1]
    assert tinyworld_scorer("style")(pictures, ["a circle by monet", PAIR]).tolist() == [0, 1]
    wrong = tinyworld_scorer()(pictures[:1], ["a blue circle on the beach"])
    assert 0 < wrong[0] < 1
    with pytest.raises(OptionError, match="asks for no style"):
        tinyworld_scorer("style")(pictures[:1], [RED])
    with pytest.raises(OptionError, match="choose among object"):
        tinyworld_scorer("smell")
