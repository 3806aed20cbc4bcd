"""The folder that `--out` names: checked before long work, cleared only of what is ours, files written whole."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DataError

SCHEMA = "pellucid-result/1"
RESULT = "result.json"
PAGE = "report.html"
_MARKER = ".pellucid"


def prepare_out(out: Path, fresh: bool) -> None:
    """Make the folder, or raise before hours are spent on what could not be written.

    A folder is ours if it is empty, or holds a result.json of ours, a ledger, or the marker `.pellucid` that this
    function leaves, so that a run which died early can go on.

    Args:
        out: the folder of `--out`; it may not exist yet.
        fresh: remove result.json, report.html, `tables/*.csv`, `figures/*.png` and ledgers (folders `ledger*` that
            are empty, or hold `segments` or such folders); anything else in the folder stays.

    Raises:
        DataError: if `out` is not a folder, cannot be written, or holds files and none of them is ours.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in out.iterdir()]
        if names and not (_MARKER in names or _is_result(out / RESULT) or any(_ledgers(out))):
            raise DataError(f"{out} holds {min(names)!r} and nothing of Pellucid's: give an empty or a new folder")
        write_file(out / _MARKER, b"Pellucid writes its results into this folder.\n")
        if fresh:
            _clear(out)


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or none: into a temporary one beside it, which then takes its name.

    Raises:
        DataError: if the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def listed_files(out: Path) -> set[str]:
    """Return the figures and tables that lie in the folder and that its result.json lists, such as `tables/a.csv`."""
    try:
        result = json.loads((out / RESULT).read_bytes())
        listed = {entry["file"] for entry in [*result["figures"], *result["tables"]]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    # Only what is found by looking counts: a result.json from elsewhere may list any path.
    return {path.relative_to(out).as_posix() for path in _figures_and_tables(out)} & listed


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal into one line that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; give a folder you can write to") from error


def _is_result(path: Path) -> bool:
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(result, dict) and str(result.get("schema", "")).startswith("pellucid-result/")


def _ledgers(out: Path) -> Iterator[Path]:
    """Yield the folders `ledger*` that a sweep made; somebody's `ledger2024` of accounts is not one."""
    yield from (path for path in out.glob("ledger*") if _is_ledger(path))


def _is_ledger(path: Path) -> bool:
    """Tell whether a folder holds segments, nothing, or only such folders: a command may run several sweeps."""
    if not path.is_dir() or path.is_symlink():
        return False
    return (path / "segments").is_dir() or all(_is_ledger(inner) for inner in path.iterdir())


def _figures_and_tables(out: Path) -> list[Path]:
    found = [*out.glob("figures/*.png"), *out.glob("tables/*.csv")]
    return [path for path in found if path.is_file() and not path.parent.is_symlink()]


def _clear(out: Path) -> None:
    for path in [out / RESULT, out / PAGE, *_figures_and_tables(out)]:
        path.unlink(missing_ok=True)
    for folder in _ledgers(out):
        shutil.rmtree(folder)
