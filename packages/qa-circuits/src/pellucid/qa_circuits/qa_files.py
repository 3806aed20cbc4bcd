"""Records of published data files: JSON Lines, JSON, CSV or Parquet, each with its place for messages."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError

Record = tuple[str, dict[str, Any]]


def file_records(path: str | Path) -> Iterator[Record]:
    """Yield a file's records with their place, such as "FILE, line 3"; the name tells the format.

    `.json` is one list of objects, `.csv` has a header, `.parquet` one record a row, all else is JSON Lines. Each may
    be packed (`.gz`), but for Parquet. Files are read as they are asked for, but for `.json`.

    Raises:
        DataError: the file cannot be read, or is not what its name says; the message names the place.
    """
    path = Path(path)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    readers = {".json": _json, ".csv": _csv, ".parquet": _parquet}
    try:
        yield from readers.get(kind, _json_lines)(path)
    except EOFError as error:
        raise DataError(f"{path} breaks off: fetch it again") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def field(record: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """A field of a record, of the type that the format asks for.

    Raises:
        DataError: it is missing or of another type.
    """
    if name not in record:
        raise DataError(f"{where}: the field {name!r} is missing")
    value = record[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "text", list: "list", dict: "object", int: "whole number"}
        raise DataError(f"{where}: the field {name!r} is {type(value).__name__}, not a {names.get(kind, kind)}")
    return value


def text(record: dict[str, Any], name: str, where: str) -> str:
    """A field that is a text and not blank, else a DataError."""
    value: str = field(record, name, str, where)
    if not value.strip():
        raise DataError(f"{where}: the field {name!r} is empty")
    return value


def texts(record: dict[str, Any], name: str, where: str) -> list[str]:
    """A field that is a text or a list of texts, none of them blank and at least one, else a DataError."""
    if isinstance(record.get(name), str):
        return [text(record, name, where)]
    values = field(record, name, list, where)
    if not values or not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f"{where}: the field {name!r} must hold one text or more, none of them empty")
    return list(values)


def objects(record: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """A field that is a list of objects, else a DataError."""
    values: list[dict[str, Any]] = field(record, name, list, where)
    for value in values:
        if not isinstance(value, dict):
            raise DataError(f"{where}: the field {name!r} holds a {type(value).__name__} where objects are wanted")
    return values


def _open(path: Path) -> io.TextIOBase:
    # utf-8-sig: some editors put a byte-order mark in front.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _json_lines(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, _object(_parsed(line, where), where)


def _json(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        whole = _parsed(file.read(), str(path))
    if not isinstance(whole, list):
        raise DataError(f"{path}: {type(whole).__name__} where a list of objects is wanted")
    for number, value in enumerate(whole, 1):
        where = f"{path}, record {number}"
        yield where, _object(value, where)


def _csv(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        rows = csv.DictReader(file, strict=True)
        try:
            for row in rows:
                # Cells beyond the header, and missing ones, are a sign of broken quotes.
                if None in row or None in row.values():
                    raise DataError(f"{path}, line {rows.line_num}: not as many cells as the header has")
                yield f"{path}, line {rows.line_num}", row
        except csv.Error as error:
            # The reader beneath has counted the broken line, too.
            raise DataError(f"{path}, line {rows.reader.line_num}: not CSV ({error})") from error


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", record
    except pyarrow.ArrowException as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def _parsed(content: str, where: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: {type(value).__name__} where a JSON object is wanted")
    return value
