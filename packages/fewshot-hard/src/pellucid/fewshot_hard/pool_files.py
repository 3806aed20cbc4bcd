"""Pools as .npz, .safetensors and .parquet files."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import writing

from .array_files import joined, marks, numbered, read_arrays

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".npz", ".safetensors", ".parquet")
_CLASSES = b"pellucid.classes"  # of a Parquet file's metadata: their order, and those without an image
_KINDS = {"f4": "F32", "i8": "I64", "u8": "U64", "u1": "U8", "b1": "BOOL"}
_NAMES = {"embedding": "embeddings", "label": "labels", "id": "ids", "content": "contents"}  # columns of Parquet
_ROWS = 65_536  # written together


def read_pool(path: Path) -> dict[str, Any]:
    """Return a pool's parts by the names of its fields; for the formats see `load_pool`.

    Raises:
        DataError: the file is missing, damaged or of another kind, or lacks a part.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is no pool: give a .npz, .safetensors or .parquet file of embeddings and labels")
    found = _parquet(path) if suffix == ".parquet" else read_arrays(path)
    for name in ("embeddings", "labels"):
        if name not in found:
            raise DataError(f"{path} has no {name!r} (it has {', '.join(sorted(found)) or 'nothing'}): add it")
    embeddings = found["embeddings"]
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu":
        raise DataError(
            f"{path} has embeddings of type {embeddings.dtype} and shape {embeddings.shape}: give numbers, "
            "(images, dimensions)"
        )
    if embeddings.dtype != np.float32:
        with np.errstate(over="ignore"):  # what becomes infinite is named as such
            embeddings = embeddings.astype(np.float32)
    labels, classes = numbered(found["labels"], found.get("classes"), str(path))
    if not len(labels):
        raise DataError(f"{path} has no labels: give one for each image")
    contents = found.get("contents")
    if contents is not None and (np.ndim(contents) != 1 or contents.dtype.kind not in "iu"):
        raise DataError(f"{path} has contents of type {contents.dtype}: give one 64-bit hash for each image")
    return {
        "embeddings": embeddings,
        "labels": labels,
        "classes": classes,
        "ids": found["ids"] if "ids" in found else [str(row) for row in range(len(embeddings))],
        "annotations": marks(found, str(path)),
        "contents": None if contents is None else np.asarray(contents).astype(np.uint64),
    }


def write_pool(
    path: Path,
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    ids: Sequence[str],
    annotations: Mapping[str, NDArray[np.bool_]],
    contents: NDArray[np.uint64] | None,
) -> None:
    """Write a pool's parts, in little memory; see `save_pool`."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(f"cannot save a pool as {path.name!r}: name it .npz, .safetensors or .parquet")
    arrays: dict[str, Any] = {"embeddings": embeddings, "labels": np.asarray(labels, dtype=np.int64)}
    if contents is not None:
        arrays["contents"] = np.asarray(contents, dtype=np.uint64)
    if annotations:
        arrays["annotations"] = np.stack([np.asarray(each, dtype=bool) for each in annotations.values()], axis=1)
    texts = {"classes": classes, "ids": ids} | ({"annotation_names": list(annotations)} if annotations else {})
    with _replacing(path) as file:
        if suffix == ".npz":
            arrays |= {name: _array(each, name) for name, each in texts.items()}
            np.savez(file, **arrays)
        elif suffix == ".safetensors":
            _write_safetensors(file, arrays | {name: joined(each, name) for name, each in texts.items()})
        else:
            _write_parquet(file, arrays, classes, ids, annotations)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside the target, which takes its name once it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _array(texts: Sequence[str], name: str) -> NDArray[np.str_]:
    joined(texts, name)  # NumPy would cut zero characters off
    return np.array(list(texts), dtype=str)


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield some rows after others, little-endian and contiguous."""
    for start in range(0, len(array), _ROWS):
        piece = array[start : start + _ROWS]
        yield np.ascontiguousarray(piece, dtype=piece.dtype.newbyteorder("<"))


def _write_safetensors(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the published format; the library's own writer would hold all the bytes at once."""
    header: dict[str, Any] = {}
    place = 0
    # The widest types first, so that every array lies at a multiple of its item's size.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    for name in order:
        array = arrays[name]
        kind = _KINDS[f"{array.dtype.kind}{array.dtype.itemsize}"]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        for piece in _pieces(arrays[name]):
            file.write(piece.data)


def _write_parquet(
    file: IO[bytes],
    arrays: Mapping[str, NDArray[Any]],
    classes: Sequence[str],
    ids: Sequence[str],
    annotations: Mapping[str, NDArray[np.bool_]],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in annotations:
        if name in _NAMES:
            raise DataError(f"an annotation is called {name!r}, as a column of the file is: rename it")
    embeddings = arrays["embeddings"]
    types: dict[str, Any] = {
        "id": pa.string(),
        "label": pa.string(),
        "embedding": pa.list_(pa.float32(), embeddings.shape[1]),
    }
    types |= {"content": pa.uint64()} if "contents" in arrays else {}
    types |= dict.fromkeys(annotations, pa.bool_())
    schema = pa.schema(types.items(), metadata={_CLASSES: json.dumps(list(classes))})
    names = np.array(list(classes), dtype=object)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, len(embeddings), _ROWS):
            rows = slice(start, start + _ROWS)
            flat = pa.array(np.ascontiguousarray(embeddings[rows], dtype=np.float32).reshape(-1))
            columns = {
                "id": [str(name) for name in ids[rows]],
                "label": names[arrays["labels"][rows]].tolist(),
                "embedding": pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]),
            }
            columns |= {"content": arrays["contents"][rows]} if "contents" in arrays else {}
            columns |= {name: values[rows] for name, values in annotations.items()}
            writer.write_table(pa.table(columns, schema=schema))


def _parquet(path: Path) -> dict[str, Any]:
    """Return a Parquet file's columns under the names of `read_arrays`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
        classes = (table.schema.metadata or {}).get(_CLASSES)
        found: dict[str, Any] = {} if classes is None else {"classes": json.loads(classes)}
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check the name") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read {path} ({reason}): give a sound .parquet file") from error
    flags = []
    for name in table.column_names:
        column = table[name]
        if name not in _NAMES and not pa.types.is_boolean(column.type):
            continue
        if column.null_count:
            raise DataError(f"{path} has {column.null_count} empty cells in its column {name!r}: fill them, or drop it")
        if name == "embedding":
            found["embeddings"] = _matrix(column, path)
        elif name == "id":
            found["ids"] = [str(value) for value in column.to_pylist()]
        elif name in _NAMES:
            found[_NAMES[name]] = _values(column)
        else:
            flags.append(name)
    if flags:
        found["annotations"] = np.stack([table[name].to_numpy() for name in flags], axis=1)
        found["annotation_names"] = flags
    return found


def _values(column: "pa.ChunkedArray") -> NDArray[Any]:
    """Return a column of numbers or text as an array of a type that says which."""
    values = column.to_numpy()
    return np.array(values.tolist(), dtype=str) if values.dtype == object else values


def _matrix(column: "pa.ChunkedArray", path: Path) -> NDArray[Any]:
    """Return a column of equally long lists of numbers as (n, d)."""
    import pyarrow as pa

    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise DataError(f"{path} has a column 'embedding' of type {kind}: give lists of numbers")
    parts = []
    lengths: set[int] = set()
    for chunk in column.chunks:
        values = chunk.flatten()
        if values.null_count:
            raise DataError(f"{path} has embeddings with empty places: give numbers")
        lengths |= set(chunk.value_lengths().unique().to_pylist())
        parts.append(values.to_numpy(zero_copy_only=False))
    if len(lengths) != 1:
        some = ", ".join(str(length) for length in sorted(lengths)[:3]) or "none"
        raise DataError(f"{path} has embeddings of different length ({some}): give all of one length")
    return np.concatenate(parts).reshape(-1, lengths.pop())
