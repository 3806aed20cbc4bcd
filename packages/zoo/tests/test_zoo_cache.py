"""Folders that are built once: whole, concurrent, interrupted and damaged builds."""

import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest
from pellucid.core.errors import DataError
from pellucid.zoo.cache import MANIFEST, built, cache_root, fault_of


def fill(folder: Path) -> None:
    (folder / "data.txt").write_text("some data")
    (folder / "private").touch(mode=0o600)


def never(folder: Path) -> None:
    raise AssertionError(f"built {folder} again")


def test_built_once(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "thing"
    assert built(target, fill, {"from": "a test"}) == target
    assert built(target, never, {}) == target
    manifest = json.loads((target / MANIFEST).read_text())
    assert manifest["source"] == {"from": "a test"}
    assert manifest["files"]["data.txt"]["size"] == 9
    assert [path.name for path in target.parent.iterdir()] == ["thing"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_all_files_have_an_ordinary_files_mode(tmp_path: Path) -> None:
    target = built(tmp_path / "thing", fill, {})
    (tmp_path / "ordinary").touch()
    assert (target / "private").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def cut(path: Path) -> None:
    path.write_text("some")


def alter(path: Path) -> None:
    path.write_text("same size")
    os.utime(path, ns=(1, 1))


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "told"), [(cut, "4 bytes instead of 9"), (alter, "has changed"), (remove, "data.txt is missing")]
)
def test_damage_is_told_and_mended(damage: object, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = built(tmp_path / "thing", fill, {})
    assert callable(damage)
    damage(target / "data.txt")
    built(target, fill, {})
    assert (target / "data.txt").read_text() == "some data"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert told in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"files": {"data.txt": 3}}'])
def test_a_damaged_manifest_is_noticed(text: str, tmp_path: Path) -> None:
    target = built(tmp_path / "thing", fill, {})
    (target / MANIFEST).write_text(text)
    assert fault_of(target) == f"its {MANIFEST} cannot be read"
    (target / MANIFEST).unlink()
    assert fault_of(target) == f"it has no {MANIFEST}"


def test_a_copy_with_other_times_is_whole(tmp_path: Path) -> None:
    target = built(tmp_path / "thing", fill, {})
    os.utime(target / "data.txt", ns=(1, 1))
    assert fault_of(target) is None


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(tmp_path / "thing", interrupted, {})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_removed_in_time(tmp_path: Path) -> None:
    old, young = tmp_path / ".thing.old", tmp_path / ".thing.young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    built(tmp_path / "thing", fill, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".thing.young", "thing"]


@pytest.mark.parametrize("damaged", [False, True])
def test_builds_at_once_all_succeed(damaged: bool, tmp_path: Path) -> None:
    target = tmp_path / "thing"
    if damaged:
        cut(built(target, fill, {}) / "data.txt")
    together = threading.Barrier(4)
    found: list[Path] = []

    def build(folder: Path) -> None:
        fill(folder)
        together.wait()

    threads = [threading.Thread(target=lambda: found.append(built(target, build, {}))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [target] * 4
    assert fault_of(target) is None
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="set PELLUCID_CACHE"):
        built(tmp_path / "file" / "thing", fill, {})


def test_a_full_disk(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"No space left on device.*free some space"):
        built(tmp_path / "thing", full, {})


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("PELLUCID_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_root() == tmp_path / ".cache" / "pellucid"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_root() == tmp_path / "Library" / "Caches" / "pellucid"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert cache_root() == tmp_path / "Local" / "pellucid"
