"""One batch of cells: call the function, check its rows, write them as one segment. Inline and in workers alike."""

import hashlib
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SweepError
from .keys import cell_seed
from .ledger import Ledger, retried
from .rows import RowError, columns_of, table_of, values_of

_PASSING = (ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Context:
    """What a sweep's function gets beside its cells.

    Attributes:
        shared: the sweep's shared data; read only (workers hold one copy a machine, of which arrays cannot be written).
        state: what `setup(shared)` returned in this process, None without a setup.
        seeds: one seed a cell, drawn from the cell's key, so that it does not depend on order, batch or worker.
    """

    shared: Any
    state: Any
    seeds: list[int]


@dataclass(frozen=True)
class Job:
    """What every batch of a sweep has in common."""

    fn: Callable[[Sequence[Any], Context], Sequence[Any]]
    setup: Callable[[Any], Any] | None
    function: str
    version: str
    row: type
    ledger: Ledger
    threads: int
    driver: str  # the mark it left in the ledger: what its workers wrote is told from what another driver's did
    again: bool = False  # cells that failed before are computed once more, over what the ledger holds of them


@dataclass(frozen=True)
class Unit:
    """Cells that are computed together, by their places in the sweep; `deaths`: workers that died on them so far."""

    places: tuple[int, ...]
    deaths: int = 0


@dataclass(frozen=True)
class Report:
    """What a batch tells the driver: counts, peaks and time, never rows."""

    done: int
    failed: int
    peak_memory: int
    peak_gpu_memory: int
    shared: int = 0  # cells that another driver has finished since this one looked
    seconds: float = 0.0  # it took to compute

    @property
    def cells(self) -> int:
        """How many cells need no more thought."""
        return self.done + self.failed + self.shared


def prepare(job: Job, shared: Any) -> Any:
    """Run the sweep's setup.

    Raises:
        SweepError: it raised; the cause is what it raised.
    """
    limit_threads(job.threads)
    if job.setup is None:
        return None
    try:
        return job.setup(shared)
    except (Exception, SystemExit) as error:
        name = getattr(job.setup, "__qualname__", repr(job.setup))
        raise SweepError(f"the sweep's setup {name} failed: {type(error).__name__}: {error}") from error


def run_batch(job: Job, cells: Sequence[Any], keys: Sequence[str], shared: Any, state: Any) -> Report:
    """Compute a batch and write its segment, unless it is there already.

    It is where another driver on the same ledger was faster, or where a worker wrote it and died before it could say
    so. A batch that raises is computed again cell by cell, so that one bad cell costs only its own row.

    Raises:
        LedgerError: the segment cannot be written.
    """
    found = None if job.again else job.ledger.find(segment_name(keys))
    if found is not None:
        if found.meta.get("driver") != job.driver:
            return Report(0, 0, *_peaks(), shared=len(keys))
        failed = len(keys) - found.table["error"].null_count
        return Report(len(keys) - failed, failed, *_peaks())
    started = time.perf_counter()
    limit_threads(job.threads)
    results = _compute(job, cells, keys, shared, state)
    return write_results(job, keys, results, time.perf_counter() - started)


def write_results(job: Job, keys: Sequence[str], results: Sequence[dict[str, Any] | str], seconds: float) -> Report:
    """Write a segment of rows and error texts, with a note of who made it at what cost."""
    failed = sum(isinstance(result, str) for result in results)
    report = Report(len(results) - failed, failed, *_peaks(), seconds=seconds)
    meta = {
        "function": job.function,
        "version": job.version,
        "driver": job.driver,
        "host": platform.node(),
        "seconds": seconds,
        "peak_memory": report.peak_memory,
        "peak_gpu_memory": report.peak_gpu_memory,
    }
    job.ledger.write(segment_name(keys), table_of(keys, results, columns_of(job.row)), meta)
    return report


def segment_name(keys: Sequence[str]) -> str:
    """Return the name of the segment that holds these cells, and only these."""
    return hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()


def limit_threads(threads: int) -> None:
    """Hold torch, if somebody imported it, to a number of threads: sums split differently round differently."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _compute(
    job: Job, cells: Sequence[Any], keys: Sequence[str], shared: Any, state: Any
) -> list[dict[str, Any] | str]:
    """Return each cell's values, or the text of its error."""
    context = Context(shared, state, [cell_seed(key) for key in keys])
    try:
        rows = retried(lambda: job.fn(cells, context), _PASSING)
        _check_count(rows, len(cells))
    except (Exception, SystemExit) as error:
        if len(cells) == 1:
            return [_text(error)]
        return [
            result
            for cell, key in zip(cells, keys, strict=True)
            for result in _compute(job, [cell], [key], shared, state)
        ]
    columns = columns_of(job.row)
    results: list[dict[str, Any] | str] = []
    for row in rows:
        try:
            results.append(values_of(row, job.row, columns))
        except RowError as error:
            results.append(f"{type(error).__name__}: {error}")
    return results


def _check_count(rows: Any, due: int) -> None:
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        kind = type(rows).__qualname__
        raise RowError(f"the function returned a {kind}, not a sequence of rows: one row a cell is due, in order")
    if len(rows) != due:
        raise RowError(f"the function returned {len(rows)} rows for {due} cells: one row a cell is due, in order")


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _peaks() -> tuple[int, int]:
    """Return this process's peak memory so far and, if CUDA is in use, the peak on the devices; in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return peak, 0
    return peak, sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
