"""Pools in files: what is written comes back, large ones stay on disk, and a digest tells changed pools apart."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.fewshot_hard.pools import Pool, load_pool, save_pool
from safetensors.numpy import load_file, save_file

SUFFIXES = (".npz", ".safetensors", ".parquet")


def pool(n: int = 12, **changes: Any) -> Pool:
    random = np.random.default_rng(0)
    parts: dict[str, Any] = {
        "embeddings": random.normal(size=(n, 5)).astype(np.float32),
        "labels": np.arange(n) % 3,
        "classes": ("ant", "bée", "cat"),
        "ids": tuple(f"{row}/ü.png" for row in range(n)),
        "annotations": {"blur": random.random(n) < 0.5, "side": random.random(n) < 0.5},
        "contents": random.integers(0, 2**64, size=n, dtype=np.uint64),
    }
    return Pool(**(parts | changes))


def same(a: Pool, b: Pool) -> None:
    np.testing.assert_array_equal(a.embeddings, b.embeddings)
    assert (a.embeddings.dtype, a.labels.dtype) == (b.embeddings.dtype, b.labels.dtype) == (np.float32, np.int64)
    assert (a.labels.tolist(), a.classes, list(a.ids)) == (b.labels.tolist(), b.classes, list(b.ids))
    assert {k: v.tolist() for k, v in a.annotations.items()} == {k: v.tolist() for k, v in b.annotations.items()}
    assert (a.contents is None) == (b.contents is None)
    if a.contents is not None and b.contents is not None:
        assert a.contents.tolist() == b.contents.tolist()
    assert a.digest == b.digest


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("changes", [{}, {"contents": None, "annotations": {}}])
def test_what_is_saved_comes_back(tmp_path: Path, suffix: str, changes: dict[str, Any]) -> None:
    path = tmp_path / "new" / f"pool{suffix}"
    save_pool(pool(**changes), path)
    same(load_pool(path), pool(**changes))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_classes_keep_their_order_and_those_without_an_image(tmp_path: Path, suffix: str) -> None:
    given_pool = pool(classes=("zebra", "ape", "cat", "nobody"))
    save_pool(given_pool, tmp_path / f"p{suffix}")
    same(load_pool(tmp_path / f"p{suffix}"), given_pool)


def test_safetensors_are_a_memory_map_and_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "pool.safetensors"
    save_pool(pool(), path)
    found = load_pool(path)
    assert isinstance(found.embeddings, np.memmap)
    twin = load_file(path)  # the library's own reader
    np.testing.assert_array_equal(found.embeddings, twin["embeddings"])
    assert found.labels.tolist() == twin["labels"].tolist()
    assert twin["ids"].tobytes().decode().split("\0") == list(found.ids)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(2, 9),
    dims=st.integers(1, 4),
    extra=st.integers(0, 7),
    kind=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_files_of_the_safetensors_library_at_any_alignment(
    tmp_path_factory: pytest.TempPathFactory, rows: int, dims: int, extra: int, kind: Any
) -> None:
    path = tmp_path_factory.mktemp("pool") / "p.safetensors"
    values = np.random.default_rng(rows).normal(size=(rows, dims)).astype(kind)
    save_file({"embeddings": values, "labels": np.arange(rows)}, path, metadata={"note": "x" * extra})
    np.testing.assert_array_equal(load_pool(path).embeddings, values.astype(np.float32))


def test_texts_in_a_safetensors_file_s_metadata(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    texts = {"classes": json.dumps(["x", "y"]), "ids": json.dumps(["one", "two"])}
    save_file({"embeddings": np.eye(2, dtype=np.float32), "labels": np.array([1, 0])}, path, metadata=texts)
    found = load_pool(path)
    assert (found.classes, list(found.ids), found.labels.tolist()) == (("x", "y"), ["one", "two"], [1, 0])


def test_what_is_left_out_is_filled_in(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", embeddings=np.eye(4), labels=np.array(["wolf", "ape", "wolf", "ape"]))
    found = load_pool(tmp_path / "p.npz")
    assert (found.classes, found.labels.tolist(), list(found.ids)) == (("ape", "wolf"), [1, 0, 1, 0], list("0123"))
    assert (dict(found.annotations), found.contents) == ({}, None)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.float16())])
def test_parquet_of_other_writers(tmp_path: Path, kind: pa.DataType) -> None:
    numbers = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float16)
    columns = {
        "embedding": pa.array(list(numbers), type=pa.list_(pa.float16())).cast(kind),
        "label": pa.array([7, 3, 7]),
        "blur": pa.array([True, False, True]),
        "remark": pa.array(["not", "looked", "at"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "p.parquet", row_group_size=2)
    found = load_pool(tmp_path / "p.parquet")
    np.testing.assert_array_equal(found.embeddings, numbers.astype(np.float32))
    assert (found.classes, found.labels.tolist(), list(found.ids)) == (("3", "7"), [1, 0, 1], ["0", "1", "2"])
    assert found.annotations["blur"].tolist() == [True, False, True]
    assert list(found.annotations) == ["blur"]


# The digest


def test_two_backbones_pools_of_the_same_images_share_a_digest() -> None:
    one = pool()
    other = replace(one, embeddings=np.ones((12, 3), np.float32), annotations={})
    assert one.digest == other.digest
    assert replace(one, contents=None).digest != replace(other, contents=None).digest


@pytest.mark.parametrize("known", [True, False])
def test_a_changed_pool_has_another_digest(known: bool) -> None:
    one = pool() if known else pool(contents=None)
    labels, ids = one.labels.copy(), list(one.ids)
    labels[3], ids[3] = 1, "other"
    changed = [replace(one, labels=labels), replace(one, ids=ids), replace(one, classes=("ant", "bee", "cat"))]
    # Where one text ends and the next begins counts, too.
    changed.append(replace(one, ids=[one.ids[0] + one.ids[1][:1], one.ids[1][1:], *one.ids[2:]]))
    if one.contents is None:
        values = one.embeddings.copy()
        values[11, 4] = np.nextafter(values[11, 4], np.float32(9))
        changed.append(replace(one, embeddings=values))
    else:
        contents = one.contents.copy()
        contents[11] ^= np.uint64(1)
        changed.append(replace(one, contents=contents))
    digests = {one.digest, *(each.digest for each in changed)}
    assert len(digests) == 1 + len(changed)
    assert one.digest == replace(one).digest


# Bad input


def good(**changes: Any) -> dict[str, Any]:
    arrays = {"embeddings": np.eye(4, dtype=np.float32), "labels": np.array([0, 1, 0, 1])} | changes
    return {name: values for name, values in arrays.items() if values is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (good(labels=np.array([0, 1, 0])), "4 embeddings and 3 labels"),
        (good(labels=np.zeros(4, int)), "1 class: a few-shot task needs at least two"),
        (good(embeddings=np.where(np.eye(4) == 1, np.nan, 0)), r"embedding of '0' \(row 0\) is not finite"),
        (good(embeddings=np.full((4, 2), 1e300)), "is not finite"),
        (good(embeddings=np.zeros(4)), r"shape \(4,\)"),
        (good(labels=None), r"has no 'labels' \(it has embeddings\)"),
        (good(labels=np.array([0.5, 1, 0, 1])), "labels of type float64"),
        (good(ids=np.array(["a", "b", "a", "c"])), "the id 'a' stands for two images"),
        (good(ids=np.array(["a", "b"])), "4 embeddings and 2 ids"),
        (good(classes=np.array(["a", "a"])), "names a class twice"),
        (good(labels=np.array([0, 1, 0, 5]), classes=np.array(["a", "b"])), "labels from 0 to 5 for 2 classes"),
        (good(labels=np.array(["a", "b", "c", "a"]), classes=np.array(["a", "b"])), "the label 'c'"),
        (good(annotations=np.full((4, 1), 2), annotation_names=np.array(["blur"])), "not 0 or 1"),
        (good(annotations=np.zeros((4, 2), bool), annotation_names=np.array(["blur"])), "1 annotation_names"),
        (good(contents=np.zeros(4)), "contents of type float64"),
        (good(ids=np.array([None, 1, 2, 3], dtype=object)), "no pickled objects"),
    ],
)
def test_pools_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_pool(tmp_path / "p.npz")
    assert "\n" not in str(caught.value)
    assert "p.npz" in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_are_missing_damaged_or_pickles(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    with pytest.raises(DataError, match="there is no file"):
        load_pool(path)
    save_pool(pool(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) * 2 // 3], b"", b"{}", pickle.dumps({"embeddings": [1]})):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot read") as caught:
            load_pool(path)
        assert "\n" not in str(caught.value)


def test_parquet_columns_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    for embedding, label, message in (
        ([[1.0, 2.0], [3.0]], ["a", "b"], r"of different length \(1, 2\)"),
        ([[1.0], None], ["a", "b"], "1 empty cells in its column 'embedding'"),
        ([1.0, 2.0], ["a", "b"], "of type double: give lists"),
        ([[1.0], [2.0]], ["a", None], "1 empty cells in its column 'label'"),
    ):
        pq.write_table(pa.table({"embedding": embedding, "label": label}), path)
        with pytest.raises(DataError, match=message):
            load_pool(path)


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot save a pool as 'p\.pkl'"):
        save_pool(pool(), tmp_path / "p.pkl")
    with pytest.raises(DataError, match="is no pool"):
        load_pool(tmp_path / "p.pkl")
