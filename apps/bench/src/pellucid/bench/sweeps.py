"""What a sweep costs beside the work itself: keys, batches, segments, Ray."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pellucid.core.sweeps import Context, Sweep
from pellucid.core.sweeps.cluster import connected


@dataclass(frozen=True)
class TrivialCell:
    """A cell that asks for nothing."""

    number: int


@dataclass(frozen=True)
class TrivialRow:
    """Its row."""

    value: float


def trivial(cells: Sequence[TrivialCell], context: Context) -> list[TrivialRow]:
    """Do as good as nothing, so that all the time measured is overhead."""
    return [TrivialRow(float(cell.number)) for cell in cells]


def measure(cells: int = 10_000, workers: int = 2) -> dict[str, Any]:
    """Measure a sweep's overhead in milliseconds a cell, inline and on Ray, in one run.

    Args:
        cells: how many trivial cells.
        workers: Ray workers, of one CPU each.

    Returns:
        Milliseconds a cell: `keys_ms` (hashing), `inline_ms` (computing inline), `resume_ms` (finding all finished),
        `rows_ms` (reading the rows), `ray_with_start_ms` (a Ray of its own, started and ended), `ray_running_ms` (a Ray
        that runs already, workers started) and `ray_ms` (the same less the start of the workers). Beside them
        `worker_start_seconds`, `rows_equal` (inline and on Ray), and what was measured on what.
    """
    started = time.perf_counter()
    sweep = Sweep(trivial, [TrivialCell(n) for n in range(cells)], version="1", row=TrivialRow)
    per_cell = 1000 / cells
    figures: dict[str, Any] = {"keys_ms": (time.perf_counter() - started) * per_cell}

    def timed(work: Any, *arguments: Any) -> float:
        began = time.perf_counter()
        work(*arguments)
        return (time.perf_counter() - began) * per_cell

    with tempfile.TemporaryDirectory() as folder:
        inline, cold, warm = (Path(folder) / name for name in ("inline", "cold", "warm"))
        figures["inline_ms"] = timed(sweep.run, inline)
        figures["resume_ms"] = timed(sweep.run, inline)
        figures["rows_ms"] = timed(sweep.rows, inline)
        figures["ray_with_start_ms"] = timed(sweep.run, cold, workers)
        with connected(None, workers):
            few = Sweep(trivial, sweep.cells[:workers], version="start", row=TrivialRow, batch=1)
            start = timed(few.run, Path(folder) / "start", workers)
            figures["ray_running_ms"] = timed(sweep.run, warm, workers)
        figures["ray_ms"] = figures["ray_running_ms"] - start
        figures["worker_start_seconds"] = start / per_cell
        figures["rows_equal"] = sweep.rows(inline) == sweep.rows(cold) == sweep.rows(warm)
    measured = {"cells": cells, "batch": sweep.batch, "workers": workers}
    return figures | measured | {"versions": {name: version(name) for name in ("pellucid-core", "ray", "pyarrow")}}
