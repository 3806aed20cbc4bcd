"""Running batches on Ray: a pool of actors, a few batches in flight, and what to do when a worker dies."""

import logging
import math
import platform
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import LedgerError, PellucidError, SweepError
from .batch import Job, Report, Unit, prepare, run_batch, write_results
from .cluster import connected, fits, shortage

log = logging.getLogger("pellucid.sweeps")

RESUBMISSIONS = 3  # of one unit whose worker died
DEATHS_IN_A_ROW = 5  # on as many different units, with no batch finished in between: it is not the cells' fault
IN_FLIGHT = 2  # batches a worker has: the one it runs and, where batches are brief, the next
BRIEF = 1.0  # seconds: a batch that waits behind a longer one would keep it from a worker that has none
PATIENCE = 600.0  # seconds to wait for a machine that an autoscaler may yet bring
_LOOK_AROUND = 10.0  # seconds between two looks at a cluster that gives nothing


@dataclass(frozen=True)
class Fatal:
    """Why a worker says that the sweep cannot go on; the cause travels apart, as pickling drops `__cause__`."""

    error: PellucidError
    cause: BaseException | None


class Actor:
    """The worker's side: one process, prepared once; all that may fail is in its methods, where it can be told."""

    def prepare(self, common: list[Any], mark: str) -> Fatal | None:
        """Load the function, look for the ledger, fetch the shared data, run the setup."""
        import ray

        try:
            self._job = self._load(ray.get(common[0]), mark)
            self._shared = ray.get(common[1])
            self._state = prepare(self._job, self._shared)
        except PellucidError as error:
            return Fatal(error, _portable(error.__cause__))
        return None

    def run(self, cells: list[Any], keys: list[str]) -> Report | Fatal:
        """Compute and write one batch."""
        try:
            return run_batch(self._job, cells, keys, self._shared, self._state)
        except PellucidError as error:
            return Fatal(error, _portable(error.__cause__))

    def _load(self, pickled: bytes, mark: str) -> Job:
        import ray

        try:
            job: Job = ray.cloudpickle.loads(pickled)
        except Exception as error:
            raise SweepError(
                f"a worker on {platform.node()} cannot load the sweep's function: {type(error).__name__}: {error}; "
                "install its module there, or call ray.cloudpickle.register_pickle_by_value(module) first"
            ) from error
        if not job.ledger.sees(mark):
            raise LedgerError(
                f"ledger {job.ledger.url}: the worker on {platform.node()} does not see it; "
                "choose a volume that all machines share, or a bucket"
            )
        return job


@dataclass(eq=False)
class _Worker:
    """The driver's side of a worker: its actor, whether that is ready, and its batches in the order they were sent."""

    handle: Any
    preparing: Any
    flying: deque[tuple[Any, Unit]] = field(default_factory=deque)

    @property
    def next(self) -> Any:
        """The reference that will be answered first: an actor works in order."""
        return self.preparing if self.preparing is not None else self.flying[0][0] if self.flying else None

    @property
    def has_suspect(self) -> bool:
        """Whether it was sent a batch on which a worker has died before."""
        return any(unit.deaths for _, unit in self.flying)


class _Pool:
    """The loop that hands out units and takes in reports, with the memory of deaths that it needs."""

    def __init__(
        self,
        job: Job,
        units: Iterable[Unit],
        total: int,
        cells: Sequence[Any],
        keys: Sequence[str],
        hire: Callable[[], _Worker],
    ) -> None:
        self._hire = hire
        self._job, self._left, self._cells, self._keys = job, total, cells, keys
        # A unit on which a worker died stays suspect, behind all fresh ones, until some other unit finishes: so one
        # lethal batch never looks like a broken cluster, and a broken cluster shows itself in a few deaths.
        self._again, self._fresh, self._suspects = deque[Unit](), iter(units), deque[Unit]()
        self._fatal_places: set[tuple[int, ...]] = set()
        self._failed_starts = 0
        self._brief = False  # whether the last batch was; nobody knows before the first

    def run(self, count: int, request: dict[str, float], ours: bool) -> Iterator[Report]:
        """Yield a report for every unit (or a cell of one) as it is finished."""
        workers = [self._hire() for _ in range(count)]
        try:
            yield from self._run(workers, request, ours)
        finally:
            for worker in workers:
                _dismiss(worker)

    def _run(self, workers: list[_Worker], request: dict[str, float], ours: bool) -> Iterator[Report]:
        import ray

        limit = max(DEATHS_IN_A_ROW, 2 * len(workers))
        quiet_since, warned = time.monotonic(), False
        while self._left > 0:
            self._hand_out(workers)
            waiting = {worker.next: worker for worker in workers if worker.next is not None}
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_LOOK_AROUND)
            for reference in ready:
                for report in self._take_in(workers, waiting[reference], limit):
                    self._left -= report.cells
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
        """Fill the queues of the workers that are ready, evenly.

        A suspect travels alone. When a worker dies right after a batch, that batch's answer may be lost with it, and
        the death is charged to it: no harm to a fresh one, which is run again, but the last straw for a suspect.
        """
        for depth in range(1, 1 + (IN_FLIGHT if self._brief else 1)):
            for worker in workers:
                if worker.preparing is None and len(worker.flying) < depth and not worker.has_suspect:
                    unit = self._next_unit(alone=not worker.flying)
                    if unit is None:
                        continue
                    cells, keys = [self._cells[at] for at in unit.places], [self._keys[at] for at in unit.places]
                    worker.flying.append((worker.handle.run.remote(cells, keys), unit))

    def _next_unit(self, alone: bool) -> Unit | None:
        for place, unit in enumerate(self._again):
            if alone or not unit.deaths:
                del self._again[place]
                return unit
        fresh = next(self._fresh, None)
        return self._suspects.popleft() if fresh is None and alone and self._suspects else fresh

    def _take_in(self, workers: list[_Worker], worker: _Worker, limit: int) -> Iterator[Report]:
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
            _dismiss(worker)  # it may be alive, only out of reach
            workers[workers.index(worker)] = self._hire()
            return
        if isinstance(answer, Fatal):
            raise answer.error from answer.cause
        if worker.preparing is not None:
            worker.preparing, self._failed_starts = None, 0
            return
        worker.flying.popleft()
        self._brief = answer.seconds < BRIEF
        self._fatal_places.clear()
        self._again.extend(self._suspects)
        self._suspects.clear()
        yield answer

    def _bury(self, worker: _Worker) -> Iterator[Report]:
        """Charge a worker's death to the unit it was running, and to none that was waiting behind it."""
        if worker.preparing is not None:
            self._failed_starts += 1
            return
        (_, unit), *queued = worker.flying
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
        common = [ray.put(pickled), ray.put(shared)]  # in a list, references travel as such
        # No restarts or retries by Ray: a restarted actor is out of reach for a while, and calls that fail meanwhile
        # look like deaths of the batch they carried. A new actor for a dead one leaves no such doubt.
        remote = ray.remote(Actor).options(
            num_cpus=request["CPU"],
            num_gpus=request.get("GPU", 0),
            memory=request.get("memory"),
            max_restarts=0,
            max_task_retries=0,
        )

        def hire() -> _Worker:
            handle: Any = remote.remote()
            return _Worker(handle, handle.prepare.remote(common, mark))

        yield from _Pool(job, units, total, cells, keys, hire).run(workers, request, ours)


def _dismiss(worker: _Worker) -> None:
    import ray

    with suppress(Exception):  # a cluster that is gone must not hide why we are here
        ray.kill(worker.handle)


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
