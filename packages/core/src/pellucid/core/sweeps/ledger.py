"""The ledger: a folder or bucket of segments, each the finished rows of one batch; whoever dies, they stay."""

import errno
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from ..errors import LedgerError
from .rows import Column, schema_of

log = logging.getLogger("pellucid.sweeps")

PAUSES = (0.2, 1.0, 3.0)  # seconds before each further try after a passing fault
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_META = b"pellucid"
_READERS = 8
_MARK = ".driver-"

Result = TypeVar("Result")


def retried(work: Callable[[], Result], passing: tuple[type[Exception], ...]) -> Result:
    """Return `work()`, tried again after a passing fault up to as many times as there are `PAUSES`."""
    for pause in PAUSES:
        try:
            return work()
        except passing as error:
            if isinstance(error, PermissionError) or getattr(error, "errno", None) in _HOPELESS:
                raise
            log.info("passing fault, trying again in %s s: %r", pause, error)
            time.sleep(pause)
    return work()


@dataclass(frozen=True)
class Segment:
    """What one readable segment holds: its rows, and what was noted of the batch that made them."""

    name: str
    table: pa.Table
    meta: dict[str, Any]


@dataclass(frozen=True)
class Contents:
    """What a ledger holds of a sweep: keys with a row, keys with nothing but an error, segments that cannot be read."""

    done: frozenset[str]
    failed: frozenset[str]
    damaged: tuple[str, ...]


class Ledger:
    """A ledger at a folder or an fsspec url; it is cheap to make and may be sent to another process.

    Args:
        url: a folder, or an fsspec url such as `s3://bucket/name`.

    Raises:
        LedgerError: fsspec does not know the url's protocol or lacks its library.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url)
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise LedgerError(f"ledger {self.url}: {error}") from error
        self._local = isinstance(self._fs, LocalFileSystem)
        self._folder = f"{self._root.rstrip('/')}/segments"
        if self._local:
            # A worker may stand in another folder than the driver.
            self.url = self._root

    def __reduce__(self) -> tuple[type["Ledger"], tuple[str]]:
        return Ledger, (self.url,)

    @property
    def in_memory(self) -> bool:
        """Whether the ledger lives inside this process only."""
        return "memory" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    def open_for_writing(self) -> str:
        """Find out whether the ledger can be written, and leave a mark in it that other machines can look for.

        Returns:
            The mark's path, for `sees` and `remove`.

        Raises:
            LedgerError: it cannot be written.
        """
        mark = f"{self._root.rstrip('/')}/{_MARK}{uuid.uuid4().hex}"
        try:
            # Buckets have no folders and may forbid making one; whether they take the mark is what counts.
            with nullcontext() if self._local else suppress(Exception):
                self._fs.makedirs(self._folder, exist_ok=True)
            retried(lambda: self._fs.pipe_file(mark, b"a sweep is writing here\n"), (OSError,))
        except Exception as error:
            raise self._unwritable(error) from error
        return mark

    def has_other_drivers(self, mark: str) -> bool:
        """Whether some other driver has left its mark: it is writing here, too, or it was killed."""
        try:
            self._fs.invalidate_cache()
            paths = retried(lambda: self._fs.ls(self._root, detail=False), (ConnectionError, TimeoutError))
        except Exception as error:
            log.info("ledger %s cannot be looked through for other drivers: %s", self.url, error)
            return False
        own = mark.rsplit("/", 1)[-1]
        names = (path.rsplit("/", 1)[-1] for path in paths)
        return any(name.startswith(_MARK) and name != own for name in names)

    def find(self, name: str) -> Segment | None:
        """Return the segment of this name, None where there is none or it cannot be made out.

        Raises:
            LedgerError: the file is there and cannot be read.
        """
        file = f"{name}.parquet"
        there = retried(lambda: bool(self._fs.exists(f"{self._folder}/{file}")), (OSError,))
        return self._read(file) if there else None

    def sees(self, mark: str) -> bool:
        """Whether this machine sees the mark that the driver left."""
        return retried(lambda: bool(self._fs.exists(mark)), (OSError,))

    def remove(self, mark: str) -> None:
        """Remove the mark; a bucket that lets us add but not delete keeps it, which harms nobody."""
        try:
            self._fs.rm_file(mark)
        except Exception as error:
            log.info("ledger %s keeps %s: %s", self.url, mark, error)

    def write(self, name: str, table: pa.Table, meta: dict[str, Any]) -> None:
        """Write a segment so that it is there whole or not at all.

        Raises:
            LedgerError: the disk is full, permission is lost, or a passing fault did not pass.
        """
        sink = pa.BufferOutputStream()
        # Checksums find a flipped bit; dictionaries and statistics only cost time in files this small.
        pq.write_table(
            table.replace_schema_metadata({_META: json.dumps(meta)}),
            sink,
            write_page_checksum=True,
            use_dictionary=False,
            write_statistics=False,
        )
        data = sink.getvalue().to_pybytes()
        try:
            retried(lambda: self._put(f"{self._folder}/{name}.parquet", data), (OSError,))
        except Exception as error:
            raise self._unwritable(error) from error

    def contents(self, function: str, columns: Sequence[Column], keys: Iterable[str]) -> Contents:
        """Say which of `keys` the ledger holds, and set damaged segments aside as `*.damaged`.

        Raises:
            LedgerError: a segment is another function's or has other fields, or the ledger cannot be read.
        """
        known, damaged = set(keys), []
        done, failed = set[str](), set[str]()
        for name, segment in self._read_all(function, columns):
            if segment is None:
                try:
                    self._fs.mv(f"{self._folder}/{name}", f"{self._folder}/{name}.damaged")
                except Exception as error:
                    raise self._unwritable(error) from error
                log.warning("ledger %s: %s was damaged; it is now %s.damaged, its cells will run", self.url, name, name)
                damaged.append(name)
                continue
            for key, error_text in zip(
                segment.table["cell"].to_pylist(), segment.table["error"].to_pylist(), strict=True
            ):
                if key in known:
                    (done if error_text is None else failed).add(key)
        return Contents(frozenset(done), frozenset(failed - done), tuple(damaged))

    def results(self, function: str, columns: Sequence[Column], keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return each key's record (`error` and the row's fields); a success wins over any error.

        Raises:
            LedgerError: there is no such ledger, a segment is another function's, or the ledger cannot be read.
        """
        if self._local and not self._fs.exists(self._root):
            raise LedgerError(f"ledger {self.url}: there is no such folder; run the sweep first")
        known, records = set(keys), dict[str, dict[str, Any]]()
        for name, segment in self._read_all(function, columns):
            if segment is None:
                log.warning("ledger %s: segment %s cannot be read; run the sweep again to mend it", self.url, name)
                continue
            for record in segment.table.to_pylist():
                key = record.pop("cell")
                if key in known and (key not in records or record["error"] is None):
                    records[key] = record
        return records

    def _read_all(self, function: str, columns: Sequence[Column]) -> Iterator[tuple[str, Segment | None]]:
        """Yield every segment by name, None where it cannot be read; reading is mostly waiting, hence threads."""
        schema = schema_of(columns)
        with ThreadPoolExecutor(_READERS) as pool:
            for name, segment in zip(names := self._names(), pool.map(self._read, names), strict=True):
                if segment is not None and segment.meta.get("function") != function:
                    raise LedgerError(
                        f"ledger {self.url}: segment {name} is of {segment.meta.get('function')}, not of {function}: "
                        "choose another folder"
                    )
                if segment is not None and not segment.table.schema.remove_metadata().equals(schema):
                    raise LedgerError(
                        f"ledger {self.url}: the rows of segment {name} have other fields "
                        f"({', '.join(segment.table.schema.names[2:])}) than this sweep's "
                        f"({', '.join(schema.names[2:])}), or other types: choose another folder"
                    )
                yield name, segment

    def _names(self) -> list[str]:
        try:
            self._fs.invalidate_cache()  # the workers wrote, not this process's file system object
            paths = retried(lambda: self._fs.ls(self._folder, detail=False), (ConnectionError, TimeoutError))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise LedgerError(f"ledger {self.url}: cannot be listed: {error}") from error
        names = (path.rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if name.endswith(".parquet") and not name.startswith("."))

    def _read(self, name: str) -> Segment | None:
        try:
            data = retried(lambda: self._fs.cat_file(f"{self._folder}/{name}"), (OSError,))
        except Exception as error:
            raise LedgerError(f"ledger {self.url}: segment {name} cannot be read: {error}") from error
        try:
            table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
            meta = json.loads((table.schema.metadata or {}).get(_META, b"{}"))
        except (pa.ArrowException, OSError, ValueError):
            # The bytes came whole from the file system, so what is wrong is in them.
            return None
        return Segment(name, table, meta)

    def _put(self, path: str, data: bytes) -> None:
        if not self._local:
            self._fs.pipe_file(path, data)
            return
        folder, name = path.rsplit("/", 1)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise

    def _unwritable(self, error: Exception) -> LedgerError:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error) or repr(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        return LedgerError(
            f"ledger {self.url}: cannot be written: {reason}; {'free some space' if full else 'mend that'}, or choose "
            "another folder (what is finished stays)"
        )
