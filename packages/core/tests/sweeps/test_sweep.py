"""Sweeps inline: what is computed, what is kept, what is refused."""

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pellucid.core.errors import LedgerError, OptionError, SweepError
from pellucid.core.sweeps import Context, Sweep
from pellucid.core.sweeps import ledger as ledger_module
from pellucid.core.sweeps.ledger import Ledger


@dataclass(frozen=True)
class Cell:
    number: int
    device: str = field(default="cpu", compare=False)


@dataclass(frozen=True)
class Row:
    value: float
    layers: list[int]
    note: str | None = None


@dataclass(frozen=True)
class OtherRow:
    value: int


@dataclass(frozen=True)
class Settings:
    """The shared data of most tests: what to do to whom, and where each execution leaves a line."""

    factor: int = 1
    raises: tuple[int, ...] = ()
    infinite: tuple[int, ...] = ()
    log: Path | None = None


def measure(cells: Sequence[Cell], context: Context) -> list[Row]:
    shared: Settings = context.shared
    for cell in cells:
        if cell.number in shared.raises and not os.environ.get("PELLUCID_TEST_MENDED"):
            raise ValueError(f"no {cell.number} please")
    if shared.log is not None:
        with shared.log.open("a") as file:
            file.write("".join(f"{cell.number}\n" for cell in cells))
    return [
        Row(
            float("inf") if cell.number in shared.infinite else cell.number * shared.factor + seed / 2**32,
            [cell.number],
        )
        for cell, seed in zip(cells, context.seeds, strict=True)
    ]


def sweep_of(numbers: Sequence[int], batch: int = 3, version: str = "1", **changes: Any) -> Sweep[Cell, Row]:
    return Sweep(measure, [Cell(n) for n in numbers], version=version, row=Row, shared=Settings(**changes), batch=batch)


def executed(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def segments(ledger: Path) -> list[Path]:
    return sorted((ledger / "segments").glob("*.parquet"))


def test_rows_come_in_the_order_of_the_cells(tmp_path: Path) -> None:
    sweep = sweep_of([3, 1, 2, 7])
    summary = sweep.run(tmp_path)
    assert (summary.done, summary.skipped, summary.failed, summary.damaged) == (4, 0, 0, ())
    assert summary.peak_memory > 1e6
    assert summary.seconds > 0
    assert [cell.number for cell, _ in sweep.pairs(tmp_path)] == [3, 1, 2, 7]
    assert [int(row.value) for row in sweep.rows(tmp_path)] == [3, 1, 2, 7]
    assert sweep.rows(tmp_path)[3].layers == [7]
    assert len(segments(tmp_path)) == 2
    assert os.listdir(tmp_path) == ["segments"]


def test_segments_tell_who_made_them(tmp_path: Path) -> None:
    sweep_of([1]).run(tmp_path)
    meta = json.loads(pq.read_schema(segments(tmp_path)[0]).metadata[b"pellucid"])
    assert meta["function"] == f"{__name__}.measure"
    assert meta["version"] == "1"
    assert meta["host"]
    assert meta["seconds"] > 0
    assert meta["peak_memory"] > 1e6


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(9)), st.integers(1, 11), st.integers(1, 11), st.integers(0, 9))
def test_neither_order_nor_batch_nor_resume_matters(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], batch: int, other_batch: int, first: int
) -> None:
    ledger = tmp_path_factory.mktemp("ledger")
    sweep_of(order[:first], batch=other_batch).run(ledger)
    sweep = sweep_of(order, batch=batch)
    summary = sweep.run(ledger)
    assert (summary.done, summary.skipped) == (9 - first, first)
    plain = sweep_of(range(9), batch=1)
    plain.run(f"memory://{ledger}")
    assert {c.number: r for c, r in sweep.pairs(ledger)} == {c.number: r for c, r in plain.pairs(f"memory://{ledger}")}


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    sweep_of(range(5), log=log).run(tmp_path)
    summary = sweep_of(range(8), log=log).run(tmp_path)
    assert (summary.done, summary.skipped) == (3, 5)
    assert sorted(executed(log)) == list(range(8))
    assert sweep_of(range(8), log=log).run(tmp_path).done == 0


def test_a_finished_sweep_needs_no_setup(tmp_path: Path) -> None:
    Sweep(measure, [Cell(1)], version="1", row=Row, shared=Settings()).run(tmp_path)
    assert Sweep(measure, [Cell(1)], version="1", row=Row, shared=Settings(), setup=lethal).run(tmp_path).skipped == 1


def test_version_and_shared_content_are_part_of_the_key_but_placement_is_not(tmp_path: Path) -> None:
    sweep_of([1, 2]).run(tmp_path)
    assert sweep_of([1, 2], version="2").run(tmp_path).done == 2
    assert sweep_of([1, 2], factor=3).run(tmp_path).done == 2
    assert sweep_of([1, 2]).run(tmp_path).done == 0
    moved = [Cell(1, device="cuda:1"), Cell(2)]
    assert Sweep(measure, moved, version="1", row=Row, shared=Settings(), batch=3).run(tmp_path).skipped == 2


def test_shared_arrays_count_by_content() -> None:
    def key(shared: Any) -> str:
        return Sweep(measure, [Cell(1)], version="1", row=Row, shared=shared).keys[0]

    assert key({"probes": np.arange(3)}) == key({"probes": np.arange(3)}) != key({"probes": np.arange(1, 4)})


def test_alike_cells_and_strange_cells_are_refused() -> None:
    with pytest.raises(OptionError, match="cells 0 and 2 are alike"):
        sweep_of([1, 2, 1])
    with pytest.raises(OptionError, match="cell 0 is a dict"):
        Sweep(measure, [{"number": 1}], version="1", row=Row)  # type: ignore[list-item]
    with pytest.raises(OptionError, match="batch=0"):
        sweep_of([1], batch=0)
    with pytest.raises(OptionError, match="workers=-1"):
        sweep_of([1]).run("memory://x", workers=-1)
    with pytest.raises(OptionError, match="address"):
        sweep_of([1]).run("memory://x", address="auto")


def test_one_bad_cell_costs_only_its_own_row(tmp_path: Path) -> None:
    sweep = sweep_of(range(6), raises=(4,))
    summary = sweep.run(tmp_path)
    assert (summary.done, summary.failed) == (5, 1)
    ((cell, text),) = sweep.failures(tmp_path)
    assert cell.number == 4
    assert "ValueError: no 4 please" in text
    assert "in measure" in text
    assert [row.layers for row in sweep.rows(tmp_path)] == [[0], [1], [2], [3], [5]]


def test_retry_failed_runs_exactly_those(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    sweep = sweep_of(range(6), raises=(1, 4), log=log)
    sweep.run(tmp_path)
    again = sweep.run(tmp_path)
    assert (again.done, again.skipped, again.failed) == (0, 4, 2)
    assert sweep.run(tmp_path, retry_failed=True).failed == 2
    segments(tmp_path)[0].unlink()  # makes cells that are missing rather than failed
    log.unlink()
    monkeypatch.setenv("PELLUCID_TEST_MENDED", "1")
    failed = {cell.number for cell, _ in sweep.failures(tmp_path)}
    assert failed
    mended = sweep.run(tmp_path, retry_failed=True)
    assert mended.done == len(failed)
    assert mended.done + mended.skipped + mended.failed == 6
    assert set(executed(log)) == failed
    assert sweep.failures(tmp_path) == []
    sweep.run(tmp_path)
    assert len(sweep.rows(tmp_path)) == 6


def test_nan_and_infinity_are_errors(tmp_path: Path) -> None:
    sweep = sweep_of(range(4), infinite=(2,))
    assert sweep.run(tmp_path).failed == 1
    ((cell, text),) = sweep.failures(tmp_path)
    assert cell.number == 2
    assert "'value' holds inf" in text


def too_few(cells: Sequence[Cell], context: Context) -> list[Row]:
    return [Row(0, [])] * (len(cells) - 1)


def nothing(cells: Sequence[Cell], context: Context) -> Any:
    return None


def other_rows(cells: Sequence[Cell], context: Context) -> Any:
    return [OtherRow(1) if cell.number == 1 else Row(1, []) for cell in cells]


def leaving(cells: Sequence[Cell], context: Context) -> Any:
    sys.exit("enough")


@pytest.mark.parametrize(
    ("fn", "text", "failed"),
    [
        (too_few, "returned 0 rows for 1 cells", 3),
        (nothing, "a NoneType, not a sequence", 3),
        (other_rows, "a OtherRow where a Row was due", 1),
        (leaving, "SystemExit: enough", 3),
    ],
)
def test_wrong_rows(tmp_path: Path, fn: Any, text: str, failed: int) -> None:
    sweep = Sweep(fn, [Cell(n) for n in range(3)], version="1", row=Row)
    assert sweep.run(tmp_path).failed == failed
    assert text in sweep.failures(tmp_path)[0][1]


def flaky(cells: Sequence[Cell], context: Context) -> list[Row]:
    with context.shared.open("a") as file:
        file.write("1\n")
    if len(executed(context.shared)) <= len(ledger_module.PAUSES):
        raise ConnectionError("the line is down")
    return [Row(1, []) for _ in cells]


def test_passing_faults_of_the_function_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "PAUSES", (0.0, 0.0, 0.0))
    summary = Sweep(flaky, [Cell(1), Cell(2)], version="1", row=Row, shared=tmp_path / "log").run(tmp_path)
    assert (summary.done, summary.failed) == (2, 0)
    assert len(executed(tmp_path / "log")) == 4


@pytest.mark.parametrize("wound", ["truncate", "empty", "flip"])
def test_a_damaged_segment_is_named_set_aside_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wound: str
) -> None:
    sweep = sweep_of(range(6))
    sweep.run(tmp_path)
    rows, victim = sweep.rows(tmp_path), segments(tmp_path)[0]
    data = bytearray(victim.read_bytes())
    data[data.index(b"PAR1") + 60] ^= 1
    victim.write_bytes({"truncate": bytes(data[: len(data) // 2]), "empty": b"", "flip": bytes(data)}[wound])
    with caplog.at_level(logging.WARNING, "pellucid.sweeps"):
        assert len(sweep.rows(tmp_path)) == 3
        summary = sweep.run(tmp_path)
    assert summary.damaged == (victim.name,)
    assert (summary.done, summary.skipped) == (3, 3)
    assert f"{victim.name} was damaged" in caplog.text
    assert victim.with_name(victim.name + ".damaged").exists()
    assert sweep.rows(tmp_path) == rows
    assert sweep.run(tmp_path).damaged == ()


def test_an_unwritable_ledger_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "ledger", tmp_path / "file"):
        with pytest.raises(LedgerError, match=f"{place}.*choose another folder"):
            sweep_of([1], log=tmp_path / "log").run(place)
    with pytest.raises(LedgerError, match="nosuch"):
        sweep_of([1], log=tmp_path / "log").run("nosuch://bucket/ledger")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_full_disk_stops_the_sweep_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    log, replace, calls = tmp_path / "log", os.replace, []

    def failing(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) > 2:
            raise OSError(number, os.strerror(number))
        replace(source, target)

    monkeypatch.setattr(ledger_module.os, "replace", failing)
    sweep = sweep_of(range(12), log=log)
    with pytest.raises(LedgerError, match=os.strerror(number)):
        sweep.run(tmp_path)
    assert len(calls) == 3
    assert len(executed(log)) == 9
    monkeypatch.undo()
    assert os.listdir(tmp_path / "segments") == [path.name for path in (tmp_path / "segments").glob("*.parquet")]
    assert sweep.run(tmp_path).done == 6


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        sweep = sweep_of(range(40))
        with pytest.raises(LedgerError, match=r"No space left on device; free some space"):
            sweep.run(disk)
        kept = len(sweep.rows(disk))
        assert 0 < kept < 40
        assert kept % 3 == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_passing_faults_of_the_disk_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = os.replace, []

    def failing(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) % 3:
            raise OSError(errno.EIO, "input/output error")
        replace(source, target)

    monkeypatch.setattr(ledger_module, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(ledger_module.os, "replace", failing)
    assert sweep_of(range(4)).run(tmp_path).done == 4
    assert len(calls) == 6


def test_another_sweeps_ledger_is_refused(tmp_path: Path) -> None:
    sweep_of([1]).run(tmp_path)
    with pytest.raises(LedgerError, match=r"is of .*measure, not of .*other_rows: choose another folder"):
        Sweep(other_rows, [Cell(1)], version="1", row=Row).run(tmp_path)
    other = Sweep(measure, [Cell(1)], version="1", row=OtherRow)  # type: ignore[arg-type]
    for use in (other.run, other.rows, other.failures):
        with pytest.raises(LedgerError, match=r"other fields \(value, layers, note\)"):
            use(tmp_path)


def test_a_ledger_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such folder"):
        sweep_of([1]).rows(tmp_path / "typo")


def lethal(shared: Any) -> Any:
    raise ValueError("no such model")


def test_a_failing_setup_stops_at_once(tmp_path: Path) -> None:
    sweep = Sweep(measure, [Cell(1)], version="1", row=Row, setup=lethal)
    with pytest.raises(SweepError, match="setup lethal failed: ValueError: no such model") as caught:
        sweep.run(tmp_path)
    assert isinstance(caught.value.__cause__, ValueError)
    assert segments(tmp_path) == []


def prepared(cells: Sequence[Cell], context: Context) -> list[Row]:
    return [Row(context.state["factor"] * cell.number, []) for cell in cells]


def test_setup_is_called_once_with_shared(tmp_path: Path) -> None:
    calls = []

    def setup(shared: int) -> dict[str, int]:
        calls.append(shared)
        return {"factor": shared}

    sweep = Sweep(prepared, [Cell(n) for n in range(5)], version="1", row=Row, shared=10, setup=setup, batch=2)
    sweep.run(tmp_path)
    assert calls == [10]
    assert [row.value for row in sweep.rows(tmp_path)] == [0, 10, 20, 30, 40]


def test_a_ledger_may_be_a_bucket() -> None:
    sweep = sweep_of(range(5), raises=(3,))
    assert sweep.run("memory://bucket/ledger").failed == 1
    assert len(sweep.rows("memory://bucket/ledger")) == 4
    assert sweep_of(range(6), raises=(3,)).run("memory://bucket/ledger").done == 1
    names = fsspec.filesystem("memory").ls("/bucket/ledger/segments", detail=False)
    assert all(name.endswith(".parquet") for name in names)
    fsspec.filesystem("memory").pipe_file(names[0], b"PAR1")
    assert len(sweep_of(range(6), raises=(3,)).run("memory://bucket/ledger").damaged) == 1
    with pytest.raises(LedgerError, match="workers cannot share it"):
        sweep.run("memory://bucket/ledger", workers=1)


def threads(cells: Sequence[Cell], context: Context) -> list[Row]:
    return [Row(torch.get_num_threads(), []) for _ in cells]


def test_torch_is_held_to_the_cpus_and_let_go(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        sweep = Sweep(threads, [Cell(1)], version="1", row=Row, cpus=2)
        sweep.run(tmp_path)
        assert sweep.rows(tmp_path)[0].value == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_setup_that_takes_more_threads_does_not_get_them(tmp_path: Path) -> None:
    sweep = Sweep(threads, [Cell(1)], version="1", row=Row, setup=lambda shared: torch.set_num_threads(3))
    sweep.run(tmp_path)
    assert sweep.rows(tmp_path)[0].value == 1


def test_other_cells_in_the_ledger_are_not_counted(tmp_path: Path) -> None:
    sweep_of(range(6), raises=(4,)).run(tmp_path)
    summary = sweep_of(range(3), raises=(4,)).run(tmp_path, retry_failed=True)
    assert (summary.done, summary.skipped, summary.failed) == (0, 3, 0)
    assert sweep_of(range(3), raises=(4,)).run(tmp_path).failed == 0


def interrupted(cells: Sequence[Cell], context: Context) -> list[Row]:
    if cells[0].number == 4 and not os.environ.get("PELLUCID_TEST_MENDED"):
        raise KeyboardInterrupt
    return [Row(cell.number, []) for cell in cells]


def test_an_interrupt_leaves_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(interrupted, [Cell(n) for n in range(6)], version="1", row=Row, batch=2)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(tmp_path)
    assert os.listdir(tmp_path) == ["segments"]
    monkeypatch.setenv("PELLUCID_TEST_MENDED", "1")
    assert (sweep.run(tmp_path).done, len(sweep.rows(tmp_path))) == (2, 6)


def test_a_success_wins_over_an_error_whatever_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(range(2), raises=(0,))
    sweep.run(tmp_path)
    monkeypatch.setenv("PELLUCID_TEST_MENDED", "1")
    sweep.run(tmp_path, retry_failed=True)
    first, second = segments(tmp_path)
    for _ in range(2):
        assert sweep.failures(tmp_path) == []
        assert [row.layers for row in sweep.rows(tmp_path)] == [[0], [1]]
        assert sweep.run(tmp_path).skipped == 2
        content = first.read_bytes(), second.read_bytes()
        first.write_bytes(content[1])
        second.write_bytes(content[0])


def test_without_workers_ray_is_never_imported(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(tmp_path / "ledger"), "0"]
    text = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert text.split() == ["script.double", "True"]


SCRIPT = """
import sys
from dataclasses import dataclass
from pellucid.core.sweeps import Sweep

@dataclass(frozen=True)
class Cell:
    number: int

@dataclass(frozen=True)
class Row:
    value: int

def double(cells, context):
    return [Row(2 * cell.number) for cell in cells]

sweep = Sweep(double, [Cell(1)], version="1", row=Row)
sweep.run(sys.argv[1], workers=int(sys.argv[2]))
print(sweep.function, "ray" not in sys.modules)
"""


def test_a_ledger_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    book = Ledger("relative")
    kind, arguments = book.__reduce__()
    monkeypatch.chdir("/")
    assert kind(*arguments).url == str(tmp_path / "relative")
