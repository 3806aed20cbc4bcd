"""Running batches on Ray: a pool of actors, a few batches in flight, and what to do when a worker dies."""

import logging
import math
import platform
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import LedgerError, PellucidError, SweepError
from .batch import Job, Report, Unit, prepare, run_batch, write_results
from .cluster import connected, fits, shortage

log = logging.getLogger("pellucid.sweeps")

RESUBMISSIONS = 3  # of one unit whose worker died
DEATHS_IN_A_ROW = 5  # on as many different units, with no batch finished in between: it is not the cells' fault
IN_FLIGHT = 2  # batches a worker has: the one it runs and the next
PATIENCE = 600.0  # seconds to wait for a machine that an autoscaler may yet bring
_LOOK_AROUND = 10.0  # seconds between two looks at a cluster that gives nothing


@dataclass(frozen=True)
class Fatal:
    """Why a worker says that the sweep cannot go on; the cause travels apart, as pickling drops `__cause__`."""

    error: PellucidError
    cause: BaseException | None


class Actor:
    """The worker's side. What may fail is in its methods: an `__init__` that raises ends an actor for good."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._ready: tuple[Job, Any, Any] | None = None

    def prepare(self, common: list[Any]) -> Fatal | None:
        """Load the function, look for the ledger, fetch the shared data, run the setup; once a process."""
        try:
            self._prepared(common)
        except PellucidError as error:
            return Fatal(error, _portable(error.__cause__))
        return None

    def run(self, common: list[Any], cells: list[Any], keys: list[str]) -> Report | Fatal:
        """Compute and write one batch."""
        try:
            job, shared, state = self._prepared(common)
            return run_batch(job, cells, keys, shared, state)
        except PellucidError as error:
            return Fatal(error, _portable(error.__cause__))

    def _prepared(self, common: list[Any]) -> tuple[Job, Any, Any]:
        # With every call, since Ray may have started this process anew behind the driver's back.
        import ray

        if self._ready is None:
            try:
                job: Job = ray.cloudpickle.loads(ray.get(common[0]))
            except Exception as error:
                raise SweepError(
                    f"a worker on {platform.node()} cannot load the sweep's function: {type(error).__name__}: {error}; "
                    "install its module there, or call ray.cloudpickle.register_pickle_by_value(module) first"
                ) from error
            if not job.ledger.sees(self._mark):
                raise LedgerError(
                    f"ledger {job.ledger.url}: the worker on {platform.node()} does not see it; "
                    "choose a volume that all machines share, or a bucket"
                )
            shared = ray.get(common[1])
            self._ready = job, shared, prepare(job, shared)
        return self._ready


@dataclass
class _Worker:
    """The driver's side of a worker: its handle, whether it is ready, and its batches in the order they were sent."""

    handle: Any
    preparing: Any
    flying: deque[tuple[Any, Unit]] = field(default_factory=deque)

    @property
    def next(self) -> Any:
        """The reference that will be answered first: an actor works in order."""
        return self.preparing if self.preparing is not None else self.flying[0][0] if self.flying else None


class _Pool:
    """The loop that hands out units and takes in reports, with the memory of deaths that it needs."""

    def __init__(
        self, job: Job, units: Iterable[Unit], total: int, cells: Sequence[Any], keys: Sequence[str], common: list[Any]
    ) -> None:
        self._common = common
        self._job, self._left, self._cells, self._keys = job, total, cells, keys
        # A unit on which a worker died stays suspect, behind all fresh ones, until some other unit finishes: so one
        # lethal batch never looks like a broken cluster, and a broken cluster shows itself in a few deaths.
        self._again, self._fresh, self._suspects = deque[Unit](), iter(units), deque[Unit]()
        self._fatal_places: set[tuple[int, ...]] = set()
        self._failed_starts = 0

    def run(self, handles: Sequence[Any], request: dict[str, float], ours: bool) -> Iterator[Report]:
        """Yield a report for every unit (or a cell of one) as it is finished."""
        import ray

        workers = [_Worker(handle, handle.prepare.remote(self._common)) for handle in handles]
        limit = max(DEATHS_IN_A_ROW, 2 * len(workers))
        quiet_since, warned = time.monotonic(), False
        while self._left > 0:
            self._hand_out(workers)
            waiting = {worker.next: worker for worker in workers if worker.next is not None}
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_LOOK_AROUND)
            for reference in ready:
                for report in self._take_in(waiting[reference], limit):
                    self._left -= report.done + report.failed
                    yield report
            # Nobody ready and nothing coming: either the cluster is busy, or it will never be able to.
            if ready or any(worker.preparing is None for worker in workers):
                quiet_since, warned = time.monotonic(), False
            elif not fits(request):
                if ours or time.monotonic() - quiet_since > PATIENCE:
                    raise SweepError(f"no machine can hold a worker: {shortage(request)}; ask for less")
                if not warned:
                    log.warning("waiting for a machine that can hold a worker: %s", shortage(request))
                    warned = True

    def _hand_out(self, workers: list[_Worker]) -> None:
        """Fill the queues of the workers that are ready, evenly."""
        for depth in range(1, IN_FLIGHT + 1):
            for worker in workers:
                if worker.preparing is None and len(worker.flying) < depth:
                    unit = self._next_unit()
                    if unit is None:
                        return
                    cells, keys = [self._cells[at] for at in unit.places], [self._keys[at] for at in unit.places]
                    worker.flying.append((worker.handle.run.remote(self._common, cells, keys), unit))

    def _next_unit(self) -> Unit | None:
        if self._again:
            return self._again.popleft()
        unit = next(self._fresh, None)
        if unit is None and self._suspects:
            return self._suspects.popleft()
        return unit

    def _take_in(self, worker: _Worker, limit: int) -> Iterator[Report]:
        import ray

        try:
            answer = ray.get(worker.next)
        except ray.exceptions.RayTaskError as error:
            raise SweepError(f"a worker cannot take the sweep's cells: {error}") from error
        except ray.exceptions.RayError as error:
            log.info("a worker died: %s", error)
            yield from self._bury(worker)
            deaths = max(len(self._fatal_places), self._failed_starts)
            if deaths >= limit:
                raise SweepError(
                    f"{deaths} workers died in a row and no batch was finished (killed, out of memory or crashed): "
                    "give each more memory (memory=...), or try one cell with workers=0"
                ) from error
            worker.preparing = worker.handle.prepare.remote(self._common)
            return
        if isinstance(answer, Fatal):
            raise answer.error from answer.cause
        if worker.preparing is not None:
            worker.preparing = None
            return
        worker.flying.popleft()
        self._fatal_places.clear()
        self._failed_starts = 0
        self._again.extend(self._suspects)
        self._suspects.clear()
        yield answer

    def _bury(self, worker: _Worker) -> Iterator[Report]:
        """Charge a worker's death to the unit it was running, and to none that was waiting behind it."""
        if worker.preparing is not None:
            self._failed_starts += 1
            return
        (_, unit), *queued = worker.flying
        worker.flying.clear()
        self._again.extend(innocent for _, innocent in queued)
        self._fatal_places.add(unit.places)
        unit = replace(unit, deaths=unit.deaths + 1)
        if unit.deaths <= RESUBMISSIONS:
            self._suspects.append(unit)
        elif len(unit.places) > 1:
            self._suspects.extend(replace(unit, places=(place,)) for place in unit.places)
        else:
            text = f"the worker died {unit.deaths} times on this cell (killed, out of memory or crashed)"
            yield write_results(self._job, [self._keys[at] for at in unit.places], [text], 0.0)


def run_on_ray(
    job: Job,
    units: Iterable[Unit],
    total: int,
    cells: Sequence[Any],
    keys: Sequence[str],
    shared: Any,
    *,
    workers: int,
    address: str | None,
    request: dict[str, float],
    mark: str,
) -> Iterator[Report]:
    """Yield a report for every unit as some worker finishes it.

    Args:
        job: what all batches have in common.
        units: taken as they are needed.
        total: how many cells they hold.
        cells: all the sweep's cells.
        keys: their keys.
        shared: put in Ray's object store once.
        workers: how many actors.
        address: a running Ray's, None for the caller's or a local one.
        request: what one actor asks for: CPU, GPU and memory (bytes).
        mark: what the driver left in the ledger.

    Raises:
        SweepError: the setup fails, workers keep dying, or no machine can hold one.
        LedgerError: a worker cannot write the ledger.
    """
    import ray

    with connected(address, math.ceil(workers * request["CPU"])) as ours:
        try:
            pickled = ray.cloudpickle.dumps(job)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise SweepError(f"the sweep's function cannot be sent to workers: {reason}") from error
        if ours and not fits(request):
            raise SweepError(f"no machine can hold a worker: {shortage(request)}; ask for less")
        # In a list, references travel as such; given to the constructor, Ray might not find them for a restart.
        common = [ray.put(pickled), ray.put(shared)]
        # Retries are ours: Ray's would run a lethal batch again without telling us that it is one.
        remote = ray.remote(Actor).options(
            num_cpus=request["CPU"],
            num_gpus=request.get("GPU", 0),
            memory=request.get("memory"),
            max_restarts=-1,
            max_task_retries=0,
        )
        handles: list[Any] = [remote.remote(mark) for _ in range(workers)]
        try:
            yield from _Pool(job, units, total, cells, keys, common).run(handles, request, ours)
        finally:
            for handle in handles:
                with suppress(Exception):  # a cluster that is gone must not hide why we are here
                    ray.kill(handle)


def _portable(error: BaseException | None) -> BaseException | None:
    """Return the error with its traceback as a note, or a plain stand-in where it cannot be pickled."""
    import ray

    if error is None:
        return None
    text = "".join(traceback.format_exception(error))
    try:
        copy = ray.cloudpickle.loads(ray.cloudpickle.dumps(error))
        if not isinstance(copy, BaseException):
            raise TypeError
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"in the worker:\n{text}")
    return copy
