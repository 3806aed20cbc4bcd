import json

import numpy as np
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.fewshot_hard.benchmark import build
from pellucid.fewshot_hard.pools import load_pool
from pellucid.fewshot_hard.prototypes import accuracy
from pellucid.fewshot_hard.task_files import load_tasks
from PIL import Image
from sklearn.datasets import load_digits


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 15.9).astype(np.uint8)).save(path)


def digits(each=24):
    images, labels = load_digits(return_X_y=True)
    for label in range(10):
        for row in np.flatnonzero(labels == label)[:each].tolist():
            yield row, label, images[row].reshape(8, 8)


@pytest.fixture
def own(tmp_path):
    for row, label, image in digits():
        save(image, tmp_path / "own" / f"digit {label}" / f"{row}.png")
    return tmp_path / "own"


@pytest.fixture
def omniglot(tmp_path):
    for row, label, image in digits():
        alphabet = "Even" if label % 2 == 0 else "Odd"
        save(image, tmp_path / "og" / "images_evaluation" / alphabet / f"character{label:02d}" / f"{row}.png")
    return tmp_path / "og"


def test_files_of_every_data_set_and_kind(tmp_path, own, omniglot):
    out = tmp_path / "out"
    made = build({"omniglot": omniglot, "digits": own}, out, "pixels", count=12, seed=3)
    assert made == json.loads((out / "manifest.json").read_bytes())
    assert made["tasks"] == {"default": 24, "hard": 24, "easy": 24}
    for name in ("omniglot", "digits"):
        entry = made["datasets"][name]
        pool = load_pool(out / f"{name}-pool.safetensors")
        assert pool.digest == entry["digest"]
        assert (len(pool), len(pool.classes)) == (entry["images"], entry["classes"]) == (240, 10)
        held = {kind: load_tasks(out / f"{name}-{kind}.parquet", pool) for kind in ("default", "hard", "easy")}
        default = held["default"].tasks
        for kind, file in held.items():
            assert [(t.classes, t.shots, t.query, t.kind) for t in file.tasks] == [
                (t.classes, t.shots, t.query, kind) for t in default
            ]
            assert file.provenance == {"dataset": name, "kind": kind} | entry["settings"]
        scores = {kind: accuracy(pool, file.tasks, "euclidean").mean() for kind, file in held.items()}
        assert scores["hard"] < scores["default"] < scores["easy"]
        assert entry["accuracy"]["hard"]["value"] == pytest.approx(scores["hard"])
        assert set(entry["seconds"]) == {"read", "embed", "default", "hard", "easy"}
        assert min(entry["seconds"].values()) >= 0
    ways = {
        name: {(t.way, t.shots) for t in load_tasks(out / f"{name}-hard.parquet", load_pool(
            out / f"{name}-pool.safetensors")).tasks}
        for name in made["datasets"]
    }  # fmt: skip
    assert ways["digits"] == {(5, (5,) * 5)}
    assert len(ways["omniglot"]) > 5
    pool = load_pool(out / "omniglot-pool.safetensors")
    for task in load_tasks(out / "omniglot-default.parquet", pool).tasks:
        assert len({pool.classes[label].split("/")[0] for label in task.classes}) == 1


def test_what_is_finished_is_kept_and_the_rest_done(tmp_path, own, omniglot):
    out = tmp_path / "out"
    first = build({"digits": own}, out, "pixels", count=3)
    files = sorted(out.glob("digits-*.parquet"))
    assert len(files) == 3
    times = [path.stat().st_mtime_ns for path in files]
    both = build({"digits": own, "omniglot": omniglot}, out, "pixels", count=3)
    assert [path.stat().st_mtime_ns for path in files] == times
    assert both["datasets"]["digits"] == first["datasets"]["digits"]
    assert set(both["datasets"]) == {"digits", "omniglot"}
    files[0].write_bytes(b"damaged")
    again = build({"digits": own}, out, "pixels", count=3)
    assert files[0].stat().st_mtime_ns > times[0]
    assert again["datasets"]["digits"]["files"] == first["datasets"]["digits"]["files"]
    assert set(again["datasets"]) == {"digits", "omniglot"}
    (out / "digits-pool.safetensors").unlink()
    build({"digits": own}, out, "pixels", count=3)
    assert load_pool(out / "digits-pool.safetensors").digest == again["datasets"]["digits"]["digest"]
    other = build({"digits": own}, out, "pixels", count=3, seed=1)
    assert other["datasets"]["digits"]["files"] != first["datasets"]["digits"]["files"]


def test_a_damaged_manifest_is_refused(tmp_path, own):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest.json is no manifest of pellucid-benchmark/1"):
        build({"digits": own}, tmp_path / "out", "pixels", count=2)


def test_splits_keep_the_test_classes(tmp_path):
    for row, label, image in digits():
        save(image, tmp_path / "dtd" / "images" / f"kind{label}" / f"{row}.jpg")
    (tmp_path / "splits").mkdir()
    with pytest.raises(DataError, match=r"dtd_splits.json is missing"):
        build({"dtd": tmp_path / "dtd"}, tmp_path / "out", "pixels", count=2, splits=tmp_path / "splits")
    split = {"train": [], "valid": [], "test": [f"kind{label}" for label in range(6)]}
    (tmp_path / "splits" / "dtd_splits.json").write_text(json.dumps(split))
    roots = {"dtd": tmp_path / "dtd"}
    made = build(roots, tmp_path / "out", "pixels", count=2, splits=tmp_path / "splits", per_class=10)
    assert (made["datasets"]["dtd"]["classes"], made["datasets"]["dtd"]["images"]) == (6, 60)


def test_all_is_looked_for_before_anything_is_done(tmp_path, own):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="Describable Textures Dataset is not in"):
        build({"digits": own, "dtd": tmp_path / "none"}, out, "pixels", count=2)
    with pytest.raises(DataError, match="of 'mine' is no folder"):
        build({"mine": tmp_path / "none"}, out, "pixels", count=2)
    with pytest.raises(OptionError, match="no data set to build from"):
        build({}, out, "pixels")
    with pytest.raises(OptionError, match=r"the name .* cannot begin"):
        build({"../x": own}, out, "pixels")
    with pytest.raises(OptionError, match="method is 'magic'"):
        build({"digits": own}, out, "pixels", method="magic")  # type: ignore[arg-type]
    assert not out.exists()
