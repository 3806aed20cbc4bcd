"""Folders that are built once: written beside their place, renamed at the end, checked at each use.

An interrupted build leaves nothing that looks finished, two processes that build the same folder at once
both succeed, and a folder that lost a file or was cut short is noticed and built anew.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from pellucid.core.errors import DataError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ABANDONED_AFTER = 24 * 3600.0  # seconds; no build takes nearly so long


def cache_root() -> Path:
    """Where prepared assets are kept: `$PELLUCID_CACHE`, or `pellucid` in the platform's user cache folder."""
    if chosen := os.environ.get("PELLUCID_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "pellucid"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault_of(folder: Path) -> str | None:
    """What is wrong with a built folder, in a few words; None where it is whole.

    Sizes are compared each time. A content hash is compared only where a file's time of change is not
    the one at the build, so that an untouched folder costs nothing to check.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, known in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            found = path.stat()
            if found.st_size != known["size"]:
                return f"{name} has {found.st_size} bytes instead of {known['size']}"
            if found.st_mtime_ns != known["mtime_ns"] and sha256_of(path) != known["sha256"]:
                return f"the content of {name} has changed"
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its {MANIFEST} cannot be read"
    return None


def built(folder: Path, build: Callable[[Path], None], source: dict[str, str]) -> Path:
    """Return `folder`, building it first where it is missing or damaged.

    Args:
        folder: where the result belongs.
        build: fills the empty folder it is given.
        source: what the content was made from; kept in the manifest for whoever looks later.

    Raises:
        DataError: the folder cannot be written.
    """
    fault = fault_of(folder)
    if fault is None:
        return folder
    if folder.exists():
        log.warning("%s is damaged (%s): building it anew", folder, fault)
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        try:
            scratch.mkdir(parents=True)
        except OSError as error:
            raise DataError(
                f"cannot write to the cache folder {folder.parent} ({error.strerror}): "
                "set PELLUCID_CACHE to a folder that you can write to"
            ) from error
        _remove_abandoned(folder)
        try:
            build(scratch)
            _seal(scratch, source)
            _install(scratch, folder)
        except OSError as error:
            raise DataError(
                f"writing {folder} failed ({error.strerror or error}): free some space, or set PELLUCID_CACHE elsewhere"
            ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _remove_abandoned(folder: Path) -> None:
    """Remove what builds that were killed left behind."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - leftover.stat().st_mtime > ABANDONED_AFTER:
            shutil.rmtree(leftover, ignore_errors=True)


def _seal(folder: Path, source: dict[str, str]) -> None:
    manifest = folder / MANIFEST
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found = path.stat()
        files[path.relative_to(folder).as_posix()] = {
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "sha256": sha256_of(path),
        }
    manifest.write_text(json.dumps({"source": source, "files": files}, indent=2) + "\n", encoding="utf-8")
    # Some writers make their files private; a cache may be shared, so all files get an ordinary file's mode.
    for name in files:
        (folder / name).chmod(manifest.stat().st_mode & 0o777)


def _install(scratch: Path, folder: Path) -> None:
    """Rename the finished folder to its place; another process may have been quicker."""
    for _ in range(10):
        try:
            scratch.rename(folder)
            return
        except OSError as error:
            # Occupied. Another process may just have moved that folder away again, so look at the error alone.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not folder.exists():
                raise
        if fault_of(folder) is None:
            return
        aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
        try:
            folder.rename(aside)
        except FileNotFoundError:
            continue
        shutil.rmtree(aside, ignore_errors=True)
    raise DataError(f"{folder} keeps coming back damaged: remove it, and check who else writes there")
