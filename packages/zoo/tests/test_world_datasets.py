"""Tinyworld's data sets on disk."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from pellucid.core.errors import OptionError
from pellucid.zoo.cli import app
from pellucid.zoo.world import Scene, Thing, parse, render
from pellucid.zoo.world.individuals import individual
from pellucid.zoo.world.renderer import outline
from pellucid.zoo.world.sampling import combinations, held_out
from pellucid.zoo.world_datasets import SPLITS, write_dataset
from pellucid.zoo.world_features import FEATURES, features
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

SIZES = {"train": 8, "validation": 4, "test": 5}


@pytest.mark.parametrize(("name", "side"), [("facts", 32), ("groups", 64), ("views", 64)])
def test_pictures_and_annotations_agree(name: str, side: int, tmp_path: Path) -> None:
    out = write_dataset(name, tmp_path / name, SIZES)
    rows = parquet.read_table(out / "annotations.parquet").to_pylist()
    assert [row["split"] for row in rows] == [split for split in SPLITS for _ in range(SIZES[split])]
    files = sorted(str(path.relative_to(out)) for path in (out / "images").rglob("*.png"))
    assert files == sorted(row["file"] for row in rows)
    for row in rows:
        assert np.asarray(Image.open(out / row["file"])).shape == (side, side, 3)
        assert f"/{row['split']}/" in row["file"]
    again = write_dataset(name, tmp_path / "again", SIZES)
    assert all((again / file).read_bytes() == (out / file).read_bytes() for file in files)


def test_questions_stand_in_both_formats(tmp_path: Path) -> None:
    out = write_dataset("facts", tmp_path, {"train": 0, "validation": 0, "test": 60})
    lines = [json.loads(line) for line in (out / "test.jsonl").read_text("utf-8").splitlines()]
    asked = json.loads((out / "test-questions.json").read_text("utf-8"))["questions"]
    told = json.loads((out / "test-annotations.json").read_text("utf-8"))["annotations"]
    assert len(lines) == len(asked) == len(told) == len({line["id"] for line in lines})
    for line, question, answer in zip(lines, asked, told, strict=True):
        assert line["id"] == question["question_id"] == answer["question_id"]
        assert line["question"] == question["question"]
        assert line["answers"] == [one["answer"] for one in answer["answers"]]
        assert line["visual"] in line["question"]
        assert all(word in line["question"] for word in line["textual"])
        assert (out / line["image"]).is_file()
    assert {line["group"] for line in lines} == {"taught", "withheld", "name", "seen"}
    first = lines[0]
    scene: Scene = individual(first["entity"]).scene(200_000)
    assert (np.asarray(Image.open(out / first["image"])) == render(scene, 32)).all()


def test_groups_are_even_where_nothing_is_learnt(tmp_path: Path) -> None:
    out = write_dataset("groups", tmp_path, {"train": 40, "validation": 0, "test": 80}, size=32)
    rows = parquet.read_table(out / "annotations.parquet").to_pylist()
    usual = {split: [row["group"] in ("boat in beach", "car in city") for row in rows if row["split"] == split]
             for split in ("train", "test")}  # fmt: skip
    assert np.mean(usual["train"]) > 0.85
    assert 0.3 < np.mean(usual["test"]) < 0.7


def test_views_have_marks_for_their_folders(tmp_path: Path) -> None:
    out = write_dataset("views", tmp_path, {"train": 32, "validation": 0, "test": 0})
    with (out / "images/train/annotations.csv").open() as file:
        marks = list(csv.DictReader(file))
    rows = parquet.read_table(out / "annotations.parquet").to_pylist()
    for mark, row in zip(marks, rows, strict=True):
        assert row["file"] == f"images/train/{mark['id']}"
        assert mark[f"view={row['view']}"] == mark[f"colour={row['colour']}"] == "1"
        assert sum(int(mark[column]) for column in mark if column.startswith("view=")) == 1


def test_masks_are_where_a_thing_was_drawn(tmp_path: Path) -> None:
    out = write_dataset("views", tmp_path, {"train": 8, "validation": 0, "test": 0})
    rows = parquet.read_table(out / "annotations.parquet").to_pylist()
    masks = {row["file"]: np.asarray(Image.open(out / "masks" / row["file"])) for row in rows}
    for mask in masks.values():
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.01 < (mask > 0).mean() < 0.9
    mask = outline(Scene((Thing("fish", "red"),), seed=5))
    red, blue = (
        np.asarray(render(Scene((Thing("fish", colour),), seed=5), 64), dtype=int) for colour in ("red", "blue")
    )
    changed = np.abs(red - blue).sum(-1) > 0
    assert changed.any()
    assert mask[changed].all()


def test_features_say_every_annotated_value_in_the_captions_words(tmp_path: Path) -> None:
    for name in FEATURES:
        out = write_dataset(name, tmp_path / name, {"train": 40, "validation": 0, "test": 0}, size=32)
        said = json.loads((out / "features.json").read_text("utf-8"))
        assert said == features(name)
        rows = parquet.read_table(out / "annotations.parquet").to_pylist()
        for row in rows:
            for kind, values in said.items():
                if row.get(kind) in values:
                    assert all(values[row[kind]])
        assert all(value in text for value, texts in said["object"].items() for text in texts)


def test_compositions_tell_pairs_apart_by_order_alone(tmp_path: Path) -> None:
    out = write_dataset("compositions", tmp_path, {"train": 12, "validation": 16, "test": 6})
    lines = [json.loads(line) for line in (out / "train/captions.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 12
    assert all(line["caption"] and (out / "train" / line["image"]).is_file() for line in lines)
    assert len(list((out / "classes").rglob("*.png"))) == 16
    cases = [json.loads(line) for line in (out / "cases.jsonl").read_text("utf-8").splitlines()]
    for case in cases:
        one, two = case["captions"]
        assert one != two
        assert sorted(one.split()) == sorted(two.split())
        pictures = [np.asarray(Image.open(out / name)) for name in case["images"]]
        assert (pictures[0] != pictures[1]).any()
    assert [case["tags"][0] for case in cases] == ["attribute", "relation"] * 3
    prompts = (out / "prompts.txt").read_text("utf-8").splitlines()
    assert len(set(prompts)) == 6
    scenes = [parse(prompt) for prompt in prompts]
    assert all(any(held_out(found) for found in combinations(scene)) for scene in scenes)


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="it has facts, groups, views"):
        write_dataset("words", tmp_path, SIZES)
    with pytest.raises(OptionError, match="one above"):
        write_dataset("facts", tmp_path, dict.fromkeys(SPLITS, 0))
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(OptionError, match="is not empty"):
        write_dataset("facts", tmp_path, SIZES)
    done = CliRunner().invoke(app, ["dataset", "groups", "--out", str(tmp_path / "new"), "--train", "2",
                                    "--validation", "0", "--test", "1"])  # fmt: skip
    assert done.exit_code == 0
    assert len(list((tmp_path / "new").rglob("*.png"))) == 3
