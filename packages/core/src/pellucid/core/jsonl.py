"""JSON Lines files of texts: one object a line, with errors that name the file, the line and the field."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import DataError


def read_records(
    path: str | Path, names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the objects of a JSON Lines file with their place ("FILE, line 3").

    Blank lines are skipped, and so are fields of other names.

    Args:
        path: of the file, in UTF-8.
        names: the fields that each object must have, each a text that is not blank.
        optional: further fields, texts where an object has them.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line is no such object.
    """
    try:
        # utf-8-sig: editors on Windows put a byte-order mark in front, which JSON does not allow.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    found = False
    for number, line in enumerate(lines, 1):
        if line.strip():
            found = True
            where = f"{path}, line {number}"
            yield where, _texts(line, where, names, optional)
    if not found:
        raise DataError(f"{path} is empty: give one JSON object a line with the fields {', '.join(names)}")


def write_records(path: str | Path, records: Iterable[Mapping[str, str]]) -> None:
    """Write objects as JSON Lines; the file appears whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(dict(record), ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _texts(line: str, where: str, names: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, str]:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}): give one JSON object a line") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: {type(record).__name__} where a JSON object is wanted: give one object a line")
    kept = {}
    for name in (*names, *optional):
        if name not in record:
            if name in names:
                raise DataError(f"{where}: the field {name!r} is missing: each line needs {', '.join(names)}")
            continue
        if not isinstance(record[name], str):
            found = type(record[name]).__name__
            raise DataError(f"{where}: the field {name!r} is {found}, not a text: put it in quotes")
        if name in names and not record[name].strip():
            raise DataError(f"{where}: the field {name!r} is empty: fill it in, or leave the line out")
        kept[name] = record[name]
    return kept
