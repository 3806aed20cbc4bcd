"""The sweep: a function over many cells, computed in batches anywhere, remembered in a ledger, resumed from it."""

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import LedgerError, OptionError
from ..progress import progress
from .batch import Context, Job, Report, Unit
from .inline import run_inline
from .keys import cell_key, digest, function_name
from .ledger import Ledger
from .rows import columns_of

Cell = TypeVar("Cell")
Row = TypeVar("Row")


@dataclass(frozen=True)
class Summary:
    """What one run did: `done`, `skipped` and `failed` add up to the sweep's cells.

    Attributes:
        done: cells that this run computed.
        skipped: cells that this run left alone, as they were finished before, or meanwhile by another driver.
        failed: cells with nothing but an error to show, from this run or (where they were not tried again) before.
        damaged: names of segments that could not be read; their cells were computed again.
        peak_memory: the largest resident memory of any process that computed, in bytes.
        seconds: how long the run took.
        peak_gpu_memory: the same of CUDA memory, 0 where none was used.
    """

    done: int
    skipped: int
    failed: int
    damaged: tuple[str, ...]
    peak_memory: int
    seconds: float
    peak_gpu_memory: int = 0


class Sweep(Generic[Cell, Row]):
    """A function over many cells.

    A cell's key is a hash of the function's name, `version`, the cell's parameters and the content of `shared`: what
    is in the ledger under that key is never computed again. `cells`, `shared` and what the function returns must
    therefore say all that the result depends on; raise `version` when the function's own code changes its results.

    Args:
        fn: takes cells and a `Context`, returns exactly one row a cell, in order. It has a name of its own (no lambda).
        cells: instances of a frozen dataclass of plain values; fields declared `compare=False` stay out of the key.
        version: of the function.
        row: a dataclass with fields of int, float, str, bool, lists of one of these, and `X | None`.
        shared: data that all cells need; hashed by content, sent to each machine once; the function must not write it.
        setup: called once in each process with `shared`; what it returns is `Context.state`. Load models here.
        batch: cells a call. Batches are cut from the full list, so that a resumed sweep computes them alike.
        cpus: CPUs a worker; torch is held to as many threads, inline too, so that results are the same to the bit.
        gpus: GPUs a worker (for Ray's scheduling; inline it is up to the function).
        memory: bytes of memory a worker is promised, None for no promise.

    Raises:
        OptionError: two cells are alike, a value cannot be hashed, the row cannot be stored, or a number is off.
    """

    def __init__(
        self,
        fn: Callable[[Sequence[Cell], Context], Sequence[Row]],
        cells: Sequence[Cell],
        *,
        version: str,
        row: type[Row],
        shared: Any = None,
        setup: Callable[[Any], Any] | None = None,
        batch: int = 16,
        cpus: float = 1,
        gpus: float = 0,
        memory: int | None = None,
    ) -> None:
        if batch < 1 or cpus <= 0 or gpus < 0 or (memory is not None and memory <= 0):
            raise OptionError(
                f"batch={batch}, cpus={cpus}, gpus={gpus}, memory={memory}: give batch of at least 1, cpus and memory "
                "above 0, gpus of at least 0"
            )
        self.fn, self.cells, self.version, self.row = fn, cells, version, row
        self.shared, self.setup = shared, setup
        self.batch, self.cpus, self.gpus, self.memory = batch, cpus, gpus, memory
        self.function = function_name(fn)
        self._columns = columns_of(row)
        self.keys = self._keys()

    def run(
        self,
        ledger: str | os.PathLike[str],
        workers: int = 0,
        retry_failed: bool = False,
        address: str | None = None,
    ) -> Summary:
        """Compute what the ledger does not hold yet.

        Two drivers on one ledger share the work: the second begins at the other end, and neither computes a batch
        that the other has finished.

        Args:
            ledger: a folder, or an fsspec url of a bucket; made if it is not there.
            workers: Ray actors; 0 computes in this process, without Ray.
            retry_failed: compute the cells that failed before, and only these.
            address: a running Ray's; otherwise the one already connected to, or `RAY_ADDRESS`, or a local one.

        Raises:
            OptionError: the options contradict each other.
            LedgerError: the ledger cannot be written or is another sweep's.
            SweepError: the setup fails, workers keep dying, or no machine can hold one.
        """
        started = time.monotonic()
        if workers < 0 or (address is not None and workers == 0):
            raise OptionError(f"workers={workers}, address={address}: an address needs at least one worker")
        book = Ledger(ledger)
        if workers and book.in_memory:
            raise LedgerError(f"ledger {book.url}: workers cannot share it; choose a folder or a bucket, or workers=0")
        mark = book.open_for_writing()
        try:
            contents = book.contents(self.function, self._columns, self.keys)
            chosen = contents.failed if retry_failed else set(self.keys) - contents.done - contents.failed
            done, failed, shared, peak, gpu_peak = 0, 0, 0, 0, 0
            threads = max(1, int(self.cpus))
            job = Job(self.fn, self.setup, self.function, self.version, self.row, book, threads, mark, retry_failed)
            # Closed whatever happens, so that an interrupt ends the workers, too.
            running = closing(self._reports(job, chosen, workers, address, mark))
            with progress("cells", len(chosen)) as advance, running as reports:
                for report in reports:
                    done, failed, shared = done + report.done, failed + report.failed, shared + report.shared
                    peak, gpu_peak = max(peak, report.peak_memory), max(gpu_peak, report.peak_gpu_memory)
                    advance(report.cells)
        finally:
            book.remove(mark)
        earlier = 0 if retry_failed else len(contents.failed)
        return Summary(
            done=done,
            skipped=len(self.keys) - len(chosen) - earlier + shared,
            failed=failed + earlier,
            damaged=contents.damaged,
            peak_memory=peak,
            seconds=time.monotonic() - started,
            peak_gpu_memory=gpu_peak,
        )

    def pairs(self, ledger: str | os.PathLike[str]) -> list[tuple[Cell, Row]]:
        """Return each finished cell with its row, in the order of the cells.

        Raises:
            LedgerError: there is no such ledger, or it is another sweep's.
        """
        records = Ledger(ledger).results(self.function, self._columns, self.keys)
        names = [column.name for column in self._columns]
        return [
            (cell, self.row(**{name: records[key][name] for name in names}))
            for cell, key in zip(self.cells, self.keys, strict=True)
            if key in records and records[key]["error"] is None
        ]

    def rows(self, ledger: str | os.PathLike[str]) -> list[Row]:
        """Return the rows of finished cells, in the order of the cells.

        Raises:
            LedgerError: there is no such ledger, or it is another sweep's.
        """
        return [row for _, row in self.pairs(ledger)]

    def failures(self, ledger: str | os.PathLike[str]) -> list[tuple[Cell, str]]:
        """Return each cell that only failed, with its traceback's text, in the order of the cells.

        Raises:
            LedgerError: there is no such ledger, or it is another sweep's.
        """
        records = Ledger(ledger).results(self.function, self._columns, self.keys)
        return [
            (cell, records[key]["error"])
            for cell, key in zip(self.cells, self.keys, strict=True)
            if key in records and records[key]["error"] is not None
        ]

    def _keys(self) -> list[str]:
        shared_digest = digest(self.shared)
        places: dict[str, int] = {}
        for place, cell in enumerate(self.cells):
            if not getattr(getattr(type(cell), "__dataclass_params__", None), "frozen", False):
                kind = type(cell).__qualname__
                raise OptionError(f"cell {place} is a {kind}: a cell is an instance of a frozen dataclass")
            key = cell_key(self.function, self.version, shared_digest, cell)
            if key in places:
                raise OptionError(f"cells {places[key]} and {place} are alike: {cell!r}; give each cell once")
            places[key] = place
        return list(places)

    def _units(self, chosen: frozenset[str] | set[str], backwards: bool) -> Iterator[Unit]:
        """Cut the full list first and choose inside each piece, so that a cell's company never depends on history."""
        starts = range(0, len(self.keys), self.batch)
        for start in reversed(starts) if backwards else starts:
            piece = range(start, min(start + self.batch, len(self.keys)))
            places = tuple(place for place in piece if self.keys[place] in chosen)
            if places:
                yield Unit(places)

    def _reports(
        self, job: Job, chosen: frozenset[str] | set[str], workers: int, address: str | None, mark: str
    ) -> Generator[Report, None, None]:
        if not chosen:
            return
        units = self._units(chosen, backwards=job.ledger.has_other_drivers(mark))
        if workers == 0:
            yield from run_inline(job, units, self.cells, self.keys, self.shared)
            return
        from .pool import run_on_ray

        request: dict[str, float] = {"CPU": self.cpus}
        if self.gpus:
            request["GPU"] = self.gpus
        if self.memory is not None:
            request["memory"] = self.memory
        yield from run_on_ray(
            job,
            units,
            len(chosen),
            self.cells,
            self.keys,
            self.shared,
            workers=workers,
            address=address,
            request=request,
            mark=mark,
        )
