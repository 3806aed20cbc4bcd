"""The commands, from images to an explanation; wrong words are one line and exit code 2."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pellucid.core.cli import main
from pellucid.fewshot_hard.pools import load_pool


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main(["fewshot", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def results(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())["results"]


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in a file, with an annotation that is plain to see: much ink."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    ink = images.mean(axis=(1, 2))
    file = tmp_path_factory.mktemp("images") / "digits.npz"
    np.savez(file, images=images, labels=digits.target, annotations=(ink > np.median(ink))[:, None],
             annotation_names=np.array(["much ink"]))  # fmt: skip
    return file


def test_from_images_to_an_explanation(annotated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "embed", "--images", annotated, "--out", tmp_path / "pool")
    assert code == 0
    assert "1797 images of 10 classes" in said
    pool = tmp_path / "pool" / "pool.safetensors"
    assert load_pool(pool).annotations["much ink"].any()

    words = ["--pool", pool, "-n", 20, "--query", 5, "--query-where", "!much ink", "--out", tmp_path / "tasks"]
    assert run(capsys, "extract", *words)[0] == 0
    means = results(tmp_path / "tasks")["means"]
    assert means["hard"]["value"] < means["default"]["value"] < means["easy"]["value"]

    hard, easy, default = (tmp_path / "tasks" / f"{kind}.parquet" for kind in ("hard", "easy", "default"))
    files = ["--hard", hard, "--easy", easy]
    assert run(capsys, "explain", "--pool", pool, *files, "--out", tmp_path / "why")[0] == 0
    found = results(tmp_path / "why")
    assert found["composition"]["hard"]["query"]["value"] == [0.0]
    assert found["contrast"]["annotations"] == ["much ink"]

    words = ["--tasks", f"{default},{hard}", "--pool", pool, "--methods", "prototype"]
    code, said, _ = run(capsys, "evaluate", *words, "--out", tmp_path / "judged")
    assert code == 0
    assert "pool (prototype) loses" in said


@pytest.mark.slow
def test_meta_training_writes_weights_that_evaluate_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--images", "digits", "--backbone", "conv4:4/16", "--episodes", 2, "--way", 3, "--query", 2]
    words += ["--held-out", "7,8,9"]
    assert run(capsys, "meta-train", *words, "--out", tmp_path / "net")[0] == 0
    assert results(tmp_path / "net")["held_out"] == ["7", "8", "9"]
    words = ["--images", "digits", "-n", 3, "--way", 3, "--shot", 1, "--query", 2]
    assert run(capsys, "extract", *words, "--out", tmp_path / "tasks")[0] == 0
    files = ",".join(str(tmp_path / "tasks" / f"{kind}.parquet") for kind in ("default", "hard"))
    backbones = f"pixels,conv4:4/16={tmp_path / 'net' / 'weights.safetensors'}"
    words = ["--tasks", files, "--images", "digits", "--backbones", backbones]
    code, said, _ = run(capsys, "evaluate", *words, "--out", tmp_path / "judged")
    assert code == 0
    assert "conv4 (net/weights)" in said
    assert {(m["judge"], m["method"]) for m in results(tmp_path / "judged")["means"]} == {
        (judge, method) for judge in ("pixels", "conv4 (net/weights)") for method in ("prototype", "linear")
    }


def test_a_benchmark_of_one_s_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for kind in "abcdef":
        (tmp_path / "mine" / kind).mkdir(parents=True)
        for place in range(16):
            pixels = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / kind / f"{place}.png")
    words = ["--data", f"mine={tmp_path / 'mine'}", "--backbone", "pixels", "-n", 4]
    code, said, _ = run(capsys, "build", *words, "--out", tmp_path / "benchmark")
    assert code == 0
    assert "4 hard tasks of 1 data sets" in said
    assert (tmp_path / "benchmark" / "mine-hard.parquet").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["extract"], "nothing to extract from"),
        (["extract", "--images", "nowhere"], "nowhere"),
        (["extract", "--images", "digits", "--way", 11], "11"),
        (["extract", "--images", "digits", "--method", "luck"], "method is 'luck'"),
        (["evaluate", "--tasks", "a.parquet"], "nothing to judge tasks by"),
        (["build", "--data", "omniglot"], "give NAME=FOLDER"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[Any], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, *words, "--out", tmp_path / "out")
    assert code == 2
    assert line in error
    assert len(error.strip().splitlines()) == 1
