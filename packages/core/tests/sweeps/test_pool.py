"""Sweeps on a real local Ray: the same rows as inline, whoever dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from pellucid.core.errors import LedgerError, SweepError
from pellucid.core.sweeps import Context, Sweep, pool
from pellucid.core.sweeps.batch import Job, run_batch
from pellucid.core.sweeps.ledger import Ledger

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray", "by_value")]


@dataclass(frozen=True)
class Cell:
    number: int


@dataclass(frozen=True)
class Row:
    value: float
    values: list[float]


def cells(count: int) -> list[Cell]:
    return [Cell(n) for n in range(count)]


def executed(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def product(cells: Sequence[Cell], context: Context) -> list[Row]:
    """A batched product whose last bits depend on the batch's make-up and on the number of threads."""
    weights = context.shared["weights"]
    inputs = torch.stack([torch.randn(300, generator=torch.Generator().manual_seed(seed)) for seed in context.seeds])
    outputs = torch.tanh(inputs @ weights) @ weights.T
    offset = context.shared["offset"].sum()
    return [Row(float(row.sum()) + offset, row[:5].tolist()) for row in outputs]


def test_the_same_rows_to_the_bit_whatever_the_workers(tmp_path: Path) -> None:
    shared = {"weights": torch.randn(300, 300, generator=torch.Generator().manual_seed(0)), "offset": np.arange(3.0)}
    sweep = Sweep(product, cells(30), version="1", row=Row, shared=shared, batch=7)
    rows = []
    for workers in (0, 1, 2):
        summary = sweep.run(tmp_path / str(workers), workers=workers)
        assert (summary.done, summary.skipped, summary.failed) == (30, 0, 0)
        assert summary.peak_memory > 1e6
        rows.append(sweep.rows(tmp_path / str(workers)))
    assert rows[0] == rows[1] == rows[2]
    # A segment that workers wrote comes back the same from elsewhere.
    next(iter((tmp_path / "2" / "segments").iterdir())).unlink()
    assert sweep.run(tmp_path / "2").done in (2, 7)
    assert sweep.rows(tmp_path / "2") == rows[0]


def meeting(cells: Sequence[Cell], context: Context) -> list[Row]:
    """One cell, which waits until all others are being computed, too; its value is how many it saw."""
    folder: Path = context.shared
    (folder / str(cells[0].number)).touch()
    until = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    return [Row(float(len(list(folder.iterdir()))), [])]


def test_no_worker_queues_what_another_could_do(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    sweep = Sweep(meeting, cells(2), version="1", row=Row, shared=tmp_path / "seen", batch=1)
    assert sweep.run(tmp_path / "ledger", workers=2).done == 2
    assert [row.value for row in sweep.rows(tmp_path / "ledger")] == [2.0, 2.0]


@dataclass(frozen=True)
class Danger:
    """Which cells kill their worker, how often (marked in `folder`), and where executions leave a line."""

    folder: Path
    lethal: tuple[int, ...] = ()
    times: int = 1


def dangerous(cells: Sequence[Cell], context: Context) -> list[Row]:
    shared: Danger = context.shared
    rows = []
    for cell in cells:
        mark = shared.folder / f"killed-{cell.number}"
        deaths = len(executed(mark))
        if cell.number in shared.lethal and deaths < shared.times:
            with mark.open("a") as file:
                file.write("1\n")
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.number == 101:
            raise ValueError("no 101 please")
        with (shared.folder / "log").open("a") as file:
            file.write(f"{cell.number}\n")
        rows.append(Row(cell.number, []))
    return rows


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    sweep = Sweep(dangerous, cells(12), version="1", row=Row, shared=Danger(tmp_path, (3, 7)), batch=2)
    summary = sweep.run(tmp_path / "ledger", workers=2)
    assert (summary.done, summary.failed) == (12, 0)
    assert [row.value for row in sweep.rows(tmp_path / "ledger")] == list(range(12))
    assert [executed(tmp_path / f"killed-{number}") for number in (3, 7)] == [[1], [1]]


def test_a_batch_whose_worker_died_before_it_could_say_so_counts_as_done(tmp_path: Path) -> None:
    sweep = Sweep(dangerous, cells(4), version="1", row=Row, shared=Danger(tmp_path), batch=2)
    book = Ledger(tmp_path / "ledger")
    mark = book.open_for_writing()
    job = Job(sweep.fn, None, sweep.function, "1", Row, book, threads=1, driver=mark)
    told, lost = (run_batch(job, sweep.cells[:2], sweep.keys[:2], sweep.shared, None) for _ in range(2))
    assert (told.done, told.shared) == (lost.done, lost.shared) == (2, 0)
    other = run_batch(replace(job, driver="another"), sweep.cells[:2], sweep.keys[:2], sweep.shared, None)
    assert (other.done, other.shared) == (0, 2)
    assert executed(tmp_path / "log") == [0, 1]


def test_a_lethal_cell_is_the_only_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "RESUBMISSIONS", 1)  # every death costs seconds
    shared = Danger(tmp_path, (1,), times=1000)
    sweep = Sweep(dangerous, [*cells(8), Cell(101)], version="1", row=Row, shared=shared, batch=3)
    summary = sweep.run(tmp_path / "ledger", workers=2)
    assert (summary.done, summary.failed) == (7, 2)
    (lethal, text), (raising, traceback) = sweep.failures(tmp_path / "ledger")
    deaths = 3  # twice in its batch, once alone
    assert (lethal.number, raising.number) == (1, 101)
    assert text == f"the worker died {deaths} times on this cell (killed, out of memory or crashed)"
    assert len(executed(tmp_path / "killed-1")) == deaths
    assert "ValueError: no 101 please" in traceback


def test_workers_that_all_die_stop_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "DEATHS_IN_A_ROW", 3)
    shared = Danger(tmp_path, tuple(range(20)), times=1000)
    sweep = Sweep(dangerous, cells(20), version="1", row=Row, shared=shared, batch=2)
    with pytest.raises(SweepError, match="3 workers died in a row"):
        sweep.run(tmp_path / "ledger", workers=1)
    assert sum(len(executed(mark)) for mark in tmp_path.glob("killed-*")) == 3


def failing(shared: Any) -> None:
    raise OSError("no such model")


def test_a_failing_setup_stops_at_once_with_its_cause(tmp_path: Path) -> None:
    sweep = Sweep(dangerous, cells(3), version="1", row=Row, shared=Danger(tmp_path), setup=failing)
    with pytest.raises(SweepError, match="setup failing failed: OSError: no such model") as caught:
        sweep.run(tmp_path / "ledger", workers=1)
    assert isinstance(caught.value.__cause__, OSError)
    assert "in failing" in "".join(caught.value.__cause__.__notes__)
    assert executed(tmp_path / "log") == []


def noted(shared: Danger) -> int:
    with (shared.folder / "setups").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


def report_state(cells: Sequence[Cell], context: Context) -> list[Row]:
    time.sleep(0.05)  # long enough for both workers to get some
    assert context.state == os.getpid()
    return [Row(context.state, []) for _ in cells]


def test_setup_is_called_once_a_worker(tmp_path: Path) -> None:
    sweep = Sweep(report_state, cells(40), version="1", row=Row, shared=Danger(tmp_path), setup=noted, batch=2)
    assert sweep.run(tmp_path / "ledger", workers=2).done == 40
    setups = executed(tmp_path / "setups")
    assert len(setups) == len(set(setups)) == 2
    assert {row.value for row in sweep.rows(tmp_path / "ledger")} == set(setups)


def test_more_than_any_machine_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The Ray of these tests counts as the caller's, which might grow; waiting for that is for real clusters.
    monkeypatch.setattr(pool, "PATIENCE", 0.0)
    monkeypatch.setattr(pool, "_LOOK_AROUND", 0.1)
    sweep = Sweep(dangerous, cells(3), version="1", row=Row, shared=Danger(tmp_path), gpus=64)
    with pytest.raises(SweepError, match=r"asks for CPU 1, GPU 64; the cluster has .*CPU 2, GPU 0"):
        sweep.run(tmp_path / "ledger", workers=1)


def test_a_ray_of_our_own_never_grows_so_it_refuses_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "connected", lambda address, cpus: nullcontext(True))
    sweep = Sweep(dangerous, cells(3), version="1", row=Row, shared=Danger(tmp_path), memory=2**60)
    with pytest.raises(SweepError, match=r"asks for CPU 1, memory 1\.15\d*e\+18; the cluster has"):
        sweep.run(tmp_path / "ledger", workers=1)


def test_fewer_workers_than_asked_for_will_do(tmp_path: Path) -> None:
    sweep = Sweep(dangerous, cells(4), version="1", row=Row, shared=Danger(tmp_path), cpus=2, batch=2)
    assert sweep.run(tmp_path / "ledger", workers=2).done == 4


def test_a_full_disk_in_a_worker_is_one_error(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        sweep = Sweep(dangerous, cells(60), version="1", row=Row, shared=Danger(tmp_path), batch=3)
        with pytest.raises(LedgerError, match="No space left on device; free some space"):
            sweep.run(disk, workers=1)
        assert 0 < len(sweep.rows(disk)) < 60
    finally:
        subprocess.run(["umount", disk], check=True)


SCRIPT = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from pellucid.core.sweeps import Sweep

@dataclass(frozen=True)
class Cell:
    number: int

@dataclass(frozen=True)
class Row:
    value: int

def slow(cells, context):
    with context.shared.open("a") as file:
        file.write("".join(f"{cell.number}\\n" for cell in cells))
    time.sleep(0.2)
    return [Row(2 * cell.number) for cell in cells]

if __name__ == "__main__":
    ledger, workers, log = "ledger", int(sys.argv[1]), Path("log").resolve()
    sweep = Sweep(slow, [Cell(n) for n in range(24)], version="1", row=Row, shared=log, batch=2)
    summary = sweep.run(ledger, workers=workers)
    print(summary.done, summary.skipped, len(sweep.rows(ledger)))
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_driver_that_is_killed_loses_nothing_finished(tmp_path: Path, workers: int) -> None:
    """The driver here starts a Ray of its own; with it die its workers."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    driver = subprocess.Popen([*command, str(workers)], cwd=tmp_path)
    try:
        wait_for(lambda: len(list((tmp_path / "ledger").glob("segments/*.parquet"))) >= 3)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    if workers:
        wait_until_quiet(tmp_path / "log")
    kept = 2 * len(list((tmp_path / "ledger").glob("segments/*.parquet")))
    before = len(executed(tmp_path / "log"))
    assert 6 <= kept < 24
    again = subprocess.run([*command, "0"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert again.stdout.split() == [str(24 - kept), str(kept), "24"]
    assert len(executed(tmp_path / "log")) - before == 24 - kept
    assert set(executed(tmp_path / "log")) == set(range(24))


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_quiet(log: Path) -> None:
    """Wait until orphaned workers are gone: their last batch takes 0.2 s."""
    size = -1
    while size != (size := log.stat().st_size):
        time.sleep(1.0)


SESSION = """
from dataclasses import dataclass
import ray
from pellucid.core.sweeps import Sweep, session

@dataclass(frozen=True)
class Cell:
    number: int

@dataclass(frozen=True)
class Row:
    value: int

def double(cells, context):
    return [Row(2 * cell.number) for cell in cells]

if __name__ == "__main__":
    sweep = Sweep(double, [Cell(1), Cell(2)], version="1", row=Row)
    with session():
        seen = [ray.is_initialized()]
        for ledger in ("a", "b"):
            sweep.run(ledger, workers=1)
            seen.append(ray.get_runtime_context().get_node_id())
    print(seen[0], seen[1] == seen[2], ray.is_initialized())
    with session():
        sweep.run("a", workers=1)
        print(ray.is_initialized())
"""


def test_sweeps_of_a_session_share_one_ray_and_leave_it_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SESSION)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "False", "False"]


def test_our_own_ray_listens_on_this_machine_only() -> None:
    me = psutil.Process()
    listening: set[str] = set()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):  # it may have ended, or be another user's
            found = [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            listening |= {one.laddr.ip.removeprefix("::ffff:") for one in found}
    assert "127.0.0.1" in listening
    assert listening <= {"127.0.0.1", "::1"}


class Recorder:
    """Stands where an actor's handle does: the hand-out alone is looked at, nothing is computed."""

    @property
    def run(self) -> "Recorder":
        return self

    def remote(self, cells: list[Any], keys: list[str]) -> object:
        return object()


def test_a_batch_on_which_a_worker_died_travels_alone() -> None:
    fresh = [pool.Unit((0,)), pool.Unit((1,)), pool.Unit((2,))]
    lot = pool._Pool(None, fresh, 4, range(4), "abcd", None)  # type: ignore[arg-type]
    lot._again.append(pool.Unit((3,), deaths=1))
    lot._brief = True  # so that batches queue
    workers = [pool._Worker(Recorder(), None), pool._Worker(Recorder(), None)]
    sent = lambda: [[unit.places for _, unit in worker.flying] for worker in workers]  # noqa: E731
    lot._hand_out(workers)
    assert sent() == [[(3,)], [(0,), (1,)]]  # nothing behind the suspect
    lot._again.append(pool.Unit((3,), deaths=2))
    workers[1].flying.popleft()
    workers[0].flying.clear()
    workers[0].flying.append((object(), pool.Unit((9,))))
    lot._hand_out(workers)
    assert sent() == [[(9,), (2,)], [(1,)]]  # and the suspect behind nothing
