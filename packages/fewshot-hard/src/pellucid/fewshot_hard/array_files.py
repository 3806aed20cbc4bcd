"""Arrays and texts of .npz and .safetensors files, read without pickle; large safetensors arrays stay on disk."""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError

TEXTS = ("ids", "classes", "annotation_names")
"""Arrays of text. In safetensors, which has none, they are UTF-8 bytes with a zero byte between two texts."""

_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_HEADER = 100_000_000  # bytes; the format allows no larger one


def read_arrays(path: Path) -> dict[str, Any]:
    """Read a file's arrays by name; `ids`, `classes` and `annotation_names` come as lists of str.

    Args:
        path: of a .npz file, or of a .safetensors file, whose arrays are memory maps. Its texts may also stand in its
            metadata as JSON lists; so may `labels`, which can be text too.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    try:
        found = _npz(path) if path.suffix.lower() == ".npz" else _safetensors(path)
        for name in TEXTS:
            if name in found:
                found[name] = _texts(found[name])
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check the name") from error
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot read {path} ({reason}): give a sound {path.suffix} file of plain arrays (no pickled objects)"
        ) from error
    return found


def numbered(labels: Any, classes: Sequence[str] | None, source: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels as (n,) int64 and the names of the classes that they number.

    Args:
        labels: n integers, or n texts, which are the classes' names.
        classes: their names; where None, the labels' own values, sorted.
        source: for the error's line.

    Raises:
        DataError: labels are of another type, or do not fit the classes.
    """
    held = np.asarray(labels)
    if held.ndim != 1 or held.dtype.kind not in "iuU":
        raise DataError(
            f"{source} has labels of type {held.dtype} and shape {held.shape}: give one integer or text each"
        )
    if classes is not None and len(set(classes)) < len(classes):
        raise DataError(f"{source} names a class twice: give each class a name of its own")
    if classes is None:
        values, places = np.unique(held, return_inverse=True)
        return places.astype(np.int64), tuple(str(value) for value in values.tolist())
    if held.dtype.kind == "U":
        known = {name: label for label, name in enumerate(classes)}
        absent = sorted(set(held.tolist()) - known.keys())
        if absent:
            raise DataError(f"{source} has the label {absent[0]!r}, which its classes do not name: add it to them")
        return np.array([known[name] for name in held.tolist()], dtype=np.int64), tuple(classes)
    if held.size and (held.min() < 0 or held.max() >= len(classes)):
        raise DataError(
            f"{source} has labels from {held.min()} to {held.max()} for {len(classes)} classes: labels count from 0"
        )
    return held.astype(np.int64), tuple(classes)


def marks(found: Mapping[str, Any], source: str) -> dict[str, NDArray[np.bool_]]:
    """Return the annotations of a file's arrays: by name, (n,) bool.

    Raises:
        DataError: they are not one column of 0 and 1 for each name.
    """
    if "annotations" not in found:
        return {}
    table, names = np.asarray(found["annotations"]), found.get("annotation_names", [])
    if table.ndim != 2 or table.shape[1] != len(names) or len(set(names)) < len(names):
        raise DataError(
            f"{source} has annotations of shape {table.shape} and {len(names)} annotation_names: give (images, names)"
        )
    if table.dtype.kind not in "biu" or ((table != 0) & (table != 1)).any():
        raise DataError(f"{source} has annotations that are not 0 or 1: give booleans")
    return {name: table[:, column].astype(bool) for column, name in enumerate(names)}


def joined(texts: Sequence[str], name: str) -> NDArray[np.uint8]:
    """Return texts as the bytes that a safetensors file keeps them as.

    Raises:
        DataError: one of them holds a zero character.
    """
    for text in texts:
        if "\0" in text:
            raise DataError(f"{name} holds {text!r}, with a zero character, which a safetensors file cannot: rename it")
    return np.frombuffer("\0".join(texts).encode(), dtype=np.uint8)


def _npz(path: Path) -> dict[str, Any]:
    # Opened here: of a damaged archive NumPy would leave the file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _safetensors(path: Path) -> dict[str, Any]:
    """Map a file: 8 bytes, little-endian, of the header's length; the header, in JSON; the arrays' bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _HEADER:
            raise ValueError(f"its header would have {length} bytes")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    end = path.stat().st_size
    found: dict[str, Any] = {name: json.loads(text) for name, text in metadata.items() if name in (*TEXTS, "labels")}
    for name, entry in header.items():
        kind, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
        start, stop = (8 + length + place for place in entry["data_offsets"])
        if stop > end or stop - start != kind.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise ValueError(f"the bytes of {name!r} are not all there")
        array: NDArray[Any]
        array = np.memmap(path, kind, "r", start, shape) if stop > start else np.empty(shape, kind)
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        found[name] = array
    return found


def _texts(held: Any) -> list[str]:
    if isinstance(held, np.ndarray) and held.dtype == np.uint8 and held.ndim == 1:
        return held.tobytes().decode().split("\0")
    values = held.tolist() if isinstance(held, np.ndarray) else held
    if not isinstance(values, list) or any(isinstance(value, list | bytes) for value in values):
        raise ValueError("ids, classes and annotation_names are lists of text")
    return [str(value) for value in values]
