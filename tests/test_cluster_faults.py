"""Sweeps on a cluster of several raylets on this machine: the same rows, and a count of what each fault costs."""

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CELLS, BATCH = 40, 2
HERE = {"node_ip_address": "127.0.0.1"}
SCRIPT = f"""
import json, sys, time
from dataclasses import dataclass, field
from pathlib import Path
from pellucid.core.sweeps import Sweep

@dataclass(frozen=True)
class Cell:
    number: int
    log: str = field(compare=False)

@dataclass(frozen=True)
class Row:
    value: float
    seed: int

def work(cells, context):
    with open(cells[0].log, "a") as file:
        file.write("".join(f"{{cell.number}}\\n" for cell in cells))
    time.sleep(0.4)
    return [Row(cell.number / 3, seed % 1000) for cell, seed in zip(cells, context.seeds)]

if __name__ == "__main__":
    ledger, workers, address = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
    cells = [Cell(n, str(Path("started").resolve())) for n in range({CELLS})]
    sweep = Sweep(work, cells, version="1", row=Row, batch={BATCH})
    summary = sweep.run(ledger, workers=workers, address=address)
    print(json.dumps([summary.done, summary.skipped, summary.failed, [[r.value, r.seed] for r in sweep.rows(ledger)]]))
"""


@pytest.fixture(scope="module")
def cluster():
    """Three nodes of one CPU; the tests wear it down in their order, the last kills its head."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **HERE})
    for _ in range(2):
        found.add_node(num_cpus=1, **HERE)
    found.wait_for_nodes()
    yield found
    found.shutdown()


def start(folder: Path, ledger: str, workers: int, address: str = "") -> subprocess.Popen[str]:
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", ledger, str(workers), address]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(driver: subprocess.Popen[str]) -> list:
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def finished(folder: Path) -> set[int]:
    """Numbers of cells with a row in the ledger."""
    from pyarrow import parquet

    files = (folder / "ledger/segments").glob("*.parquet")
    return {round(3 * value) for file in files for value in parquet.read_table(file)["value"].to_pylist()}


def started(folder: Path) -> collections.Counter[int]:
    log = folder / "started"
    return collections.Counter(int(line) for line in log.read_text().split()) if log.exists() else collections.Counter()


def wait_for(condition, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_quiet(log: Path) -> None:
    """Wait until orphaned workers are gone: their last batch takes 0.4 s."""
    size = -1
    while size != (size := log.stat().st_size):
        time.sleep(1.5)


def rows_of(folder: Path) -> list:
    """Rows of an undisturbed run in one process."""
    (folder / "inline").mkdir()
    return finish(start(folder / "inline", "ledger", 0))[3]


def test_the_same_rows_inline_on_a_local_ray_and_on_three_nodes(tmp_path: Path, cluster) -> None:
    rows = rows_of(tmp_path)
    for name, workers, address in (("local", 2, ""), ("nodes", 3, cluster.address)):
        (tmp_path / name).mkdir()
        assert finish(start(tmp_path / name, "ledger", workers, address)) == [CELLS, 0, 0, rows]


def test_a_node_that_is_killed_in_mid_sweep(tmp_path: Path, cluster) -> None:
    driver = start(tmp_path, "ledger", 3, cluster.address)
    wait_for(lambda: len(finished(tmp_path)) >= 6)
    before = finished(tmp_path)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    done, skipped, failed, rows = finish(driver)
    assert before
    assert (done, skipped, failed) == (CELLS, 0, 0)  # 0 lost
    assert rows == rows_of(tmp_path)  # 0 doubled: one row a cell
    twice = {number for number, times in started(tmp_path).items() if times > 1}
    assert len(twice) <= BATCH  # what the dead node was running
    assert not twice & before


def test_the_head_is_killed_and_a_new_cluster_goes_on(tmp_path: Path, cluster) -> None:
    from ray.cluster_utils import Cluster

    driver = start(tmp_path, "ledger", 3, cluster.address)
    wait_for(lambda: len(finished(tmp_path)) >= 8)
    cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_until_quiet(tmp_path / "started")
    kept, before = finished(tmp_path), started(tmp_path)
    assert 8 <= len(kept) < CELLS
    again = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **HERE})
    try:
        done, skipped, failed, rows = finish(start(tmp_path, "ledger", 2, again.address))
    finally:
        again.shutdown()
    assert (done, skipped, failed) == (CELLS - len(kept), len(kept), 0)  # 0 lost
    assert rows == rows_of(tmp_path)
    computed = started(tmp_path) - before
    assert set(computed) == set(range(CELLS)) - kept  # what was finished is not computed again
    assert max(computed.values()) == 1
    assert len(set(before) & set(computed)) <= 3 * BATCH  # what three workers were running


def test_two_drivers_on_one_ledger_share_the_work(tmp_path: Path) -> None:
    first = start(tmp_path, "ledger", 0)
    wait_for(lambda: len(finished(tmp_path)) >= BATCH)
    second = start(tmp_path, "ledger", 0)
    told = [finish(first), finish(second)]
    rows = rows_of(tmp_path)
    for done, skipped, failed, found in told:
        assert done + skipped == CELLS
        assert failed == 0
        assert done > 0
        assert found == rows or len(found) < CELLS  # the first to end may not see the last batch of the other
    assert max(told, key=lambda one: len(one[3]))[3] == rows  # 0 lost, 0 doubled
    assert sum(started(tmp_path).values()) <= CELLS + 2 * BATCH  # at most where they meet


def test_a_hundred_thousand_cells_hold_the_drivers_memory_flat(tmp_path: Path) -> None:
    """The driver holds cells and keys, never rows: its peak grows by less than 2 kB a cell."""
    script = """
import resource, sys
from dataclasses import dataclass
from pellucid.core.sweeps import Sweep

@dataclass(frozen=True)
class Cell:
    number: int

@dataclass(frozen=True)
class Row:
    values: list[float]

def wide(cells, context):
    return [Row([float(cell.number)] * 20) for cell in cells]

if __name__ == "__main__":
    count = int(sys.argv[1])
    sweep = Sweep(wide, [Cell(n) for n in range(count)], version="1", row=Row, batch=1000)
    summary = sweep.run(sys.argv[2])
    assert summary.done == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    (tmp_path / "wide.py").write_text(script)
    peaks = []
    for count in (1_000, 100_000):
        command = [sys.executable, "wide.py", str(count), f"ledger-{count}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ})
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) * 1024)
    assert (peaks[1] - peaks[0]) / 99_000 < 2_000
