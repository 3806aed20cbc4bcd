"""Running batches in this process: no Ray, same ledger, same rows."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .batch import Job, Report, Unit, prepare, run_batch


def run_inline(
    job: Job, units: Iterable[Unit], cells: Sequence[Any], keys: Sequence[str], shared: Any
) -> Iterator[Report]:
    """Yield a report for every unit as it is finished; torch's number of threads is put back afterwards."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else None
    try:
        state = prepare(job, shared)
        for unit in units:
            yield run_batch(job, [cells[at] for at in unit.places], [keys[at] for at in unit.places], shared, state)
    finally:
        if torch is not None and threads is not None:
            torch.set_num_threads(threads)
