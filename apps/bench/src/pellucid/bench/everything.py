"""All comparisons one after the other, and the page of what they found."""

import csv
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pellucid.core.command_lines import execute
from pellucid.core.outfolder import write_file
from pellucid.core.report import RESULT

COMMANDS: dict[str, tuple[str, ...]] = {
    "circuits": ("circuits", "--threads", "1"),
    "sweeps": ("sweeps",),
    "nodes": ("sweeps", "--nodes", "1,2"),
    "influence": ("influence",),
    "fewshot": ("fewshot", "-n", "50", "--slow", "3", "--many", "200"),
    "edits": ("edits", "--threads", "1"),
    "attribution": ("attribution", "--threads", "1"),
    "vit": ("vit", "--threads", "1"),
    "mllm": ("mllm", "--threads", "1"),
    "compose": ("compose", "--threads", "1"),
}
"""Every comparison by name: the words after `pellucid bench`."""

_ROWS = 12  # of a table that are shown
_RUN = "run.json"


def run_all(
    out: Path,
    tell: Callable[[str], None],
    commands: dict[str, tuple[str, ...]] | None = None,
    run: Callable[[Sequence[str]], tuple[int, str]] = execute,
) -> bool:
    """Run every comparison that has not gone well in this folder before.

    Args:
        out: a folder; each comparison has one of its name in it.
        tell: is told what happens, a line at a time.
        commands: others than `COMMANDS`.
        run: runs the words after `pellucid`, and returns the exit code and the last line of standard error.

    Returns:
        Whether all went well.
    """
    well = True
    for name, words in (COMMANDS if commands is None else commands).items():
        kept = _read(out / name / _RUN)
        if kept is not None and kept["words"] == list(words) and not kept["failed"]:
            tell(f"{name}: kept from {kept['date']}")
            continue
        tell(f"{name}: pellucid bench {' '.join(words)}")
        began = time.monotonic()
        code, said = run(["bench", *words, "--out", str(out / name), "--fresh"])
        if code == 130:
            raise KeyboardInterrupt
        failed = "" if code == 0 else said or f"exit code {code}"
        date = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"words": list(words), "failed": failed, "date": date, "seconds": round(time.monotonic() - began, 1)}
        write_file(out / name / _RUN, json.dumps(record, indent=1).encode())
        well = well and not failed
        if failed:
            tell(f"{name}: failed: {failed}")
    return well


def results_page(out: Path, commands: dict[str, tuple[str, ...]] | None = None) -> str:
    """The page of what lies in a folder of runs: for each comparison its finding, its tables, and how it was got."""
    lines = ["# What was measured", "", "Written by `pellucid bench --all` from its runs; not by hand.", ""]
    for name, words in (COMMANDS if commands is None else commands).items():
        lines += [f"## {name}", *_part(out / name, words), ""]
    return "\n".join(lines)


def _part(folder: Path, words: Sequence[str]) -> list[str]:
    run, found = _read(folder / _RUN), _read(folder / RESULT)
    if run is None:
        return ["Not run."]
    if run["failed"] or found is None:
        return [f"Failed on {run['date']}: {run['failed'] or 'it left no result'} (`pellucid bench {' '.join(words)}`)"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if "pellucid" not in name)
    lines = [
        found["summary"],
        "",
        f"`pellucid bench {' '.join(words)}`, seed {found['seed']}, {found['device']}, {run['date']}, "
        f"{run['seconds']:.0f} s; {versions}",
    ]
    for path in sorted((folder / "tables").glob("*.csv")):
        lines += ["", *_table(path)]
    return lines


def _table(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file))
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *(map(_short, rows[:_ROWS])))]
    left = len(rows) - _ROWS
    return [*lines, *([f"and {left} more rows in `tables/{path.name}`"] if left > 0 else [])]


def _short(cells: Sequence[str]) -> list[str]:
    return [_number(cell).replace("|", "/").replace("\n", " ") for cell in cells]


def _number(cell: str) -> str:
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
