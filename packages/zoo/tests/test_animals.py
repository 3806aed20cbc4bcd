"""The animals: what is in the file, where it comes from, and what is said of a missing, damaged or hostile source."""

import gzip
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pellucid.core.assets import resolve_asset
from pellucid.core.errors import DataError
from pellucid.zoo import ASSETS, resolve
from safetensors import safe_open

try:
    importlib.metadata.version("animal-mnist")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("animal-mnist is not installed", allow_module_level=True)

NAMES = ["bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra"]

# Without the time of day, which would be part of the tests' names: processes that share them must agree on these.
zipped = partial(gzip.compress, mtime=0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_ten_thousand_animals_as_the_package_s_bytes_say() -> None:
    assert ASSETS["animals"].cached() is None
    path = resolve_asset("zoo:animals")
    assert ASSETS["animals"].cached() == path
    with safe_open(path, "numpy") as held:
        images, labels = held.get_tensor("images"), held.get_tensor("labels")
        assert json.loads(held.metadata()["classes"]) == NAMES
    assert images.shape == (10_000, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    assert labels.tolist() == [kind for kind in range(10) for _ in range(1000)]
    # The pickle holds the pixels in one piece: the slow twin looks for each image in it, at its own place.
    raw = gzip.decompress(source("animal_data_version_3.gz").read_bytes())
    start = raw.index(images[0].tobytes())
    for place in (0, 1234, 9999):
        at = start + place * 28 * 28
        assert images[place].tobytes() == raw[at : at + 28 * 28]
        assert images[place].any()
    # A silhouette is light on dark: nearly all corners are background.
    assert (images[:, 0, 0] == 0).mean() > 0.9
    assert len({image.tobytes() for image in images}) == 10_000 - 284


def test_the_package_and_tensorflow_are_not_imported(own_cache: Path) -> None:
    code = (
        "import sys; from pellucid.zoo import resolve; resolve('animals');"
        "print([name for name in ('animal_mnist', 'tensorflow', 'pandas', 'torch') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-W", "error", "-c", code], text=True).strip() == "[]"


def test_without_the_package_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    assert ASSETS["animals"].cached() is None
    with pytest.raises(DataError, match="pip install --no-deps animal-mnist"):
        resolve("animals")


class Hostile:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_names_another_global_is_refused_and_runs_nothing(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    replace_images(zipped(pickle.dumps(Hostile(made))), tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"names (posix|nt)\.mkdir, which no array needs"):
        resolve("animals")
    assert not made.exists()
    assert list(own_cache.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(pickle.dumps(np.zeros((3, 28, 28), np.uint8))), r"holds uint8 \(3, 28, 28\), not an array"),
        (zipped(pickle.dumps(np.zeros((10_000, 28, 28), np.int8))), "holds int8"),
        (zipped(pickle.dumps([1, 2])), "holds list, not an array"),
        (zipped(pickle.dumps(np.array([None]))), r"holds object \(1,\)"),
        (zipped(b"no pickle"), "cannot be read"),
        (b"no archive", "cannot be read"),
        (zipped(pickle.dumps(np.zeros(99)))[:-6], "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_file(
    content: bytes | None, message: str, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_images(content, tmp_path, monkeypatch)
    with pytest.raises(DataError, match=message) as caught:
        resolve("animals")
    assert "\n" not in str(caught.value)
    assert list(own_cache.iterdir()) == []


def source(name: str) -> Path:
    files = importlib.metadata.files("animal-mnist") or []
    return next(Path(str(file.locate())) for file in files if file.name == name)


def replace_images(content: bytes | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the package's images be these bytes, or missing; the labels stay its own."""
    path, labels = folder / "animal_data_version_3.gz", source("animal_label_version_3.gz")
    if content is not None:
        path.write_bytes(content)
    records: Any = [SimpleNamespace(name=p.name, locate=lambda p=p: p) for p in (path, labels)]
    monkeypatch.setattr(importlib.metadata, "files", lambda _: records)
