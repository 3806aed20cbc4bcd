"""Running entries: steps once each, what is finished is kept, what fails is told and the rest goes on."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pellucid.core.command_lines import execute, takes
from pellucid.core.errors import DataError
from pellucid.core.outfolder import write_file
from pellucid.core.report import RESULT

from .entry import Entry, Step
from .picking import Found, pick

STEPS = "steps"
ENTRIES = "entries"


@dataclass(frozen=True)
class Ran:
    """What became of one step.

    Attributes:
        step: its name.
        ok: whether it went well.
        seconds: it took, when it ran.
        said: the last line on standard error, where it went wrong.
        date: UTC, ISO 8601.
    """

    step: str
    ok: bool
    seconds: float
    said: str = ""
    date: str = ""


@dataclass(frozen=True)
class Outcome:
    """One entry, run.

    Attributes:
        id: the entry's.
        date: of the last of its steps, UTC.
        device: as the reports say.
        seeds: as the reports say.
        seconds: of all its steps.
        numbers: ours, by what they are.
        verdict: one of `VERDICTS`.
        failed: what went wrong; nothing where all went well.
    """

    id: str
    date: str
    device: str
    seeds: str
    seconds: float
    numbers: dict[str, str]
    verdict: str
    failed: str = ""


CARRIES, NOT, OPEN, EYE, FAILED = "carries over", "does not carry over", "left open", "for the eye", "failed"
VERDICTS = (CARRIES, NOT, OPEN, EYE, FAILED)


def run_step(
    step: Step, out: Path, address: str | None = None, run: Callable[[Sequence[str]], tuple[int, str]] = execute
) -> Ran:
    """Run a step, unless the same command line went well in this folder before.

    A command with a report goes on from its ledger. What another one wrote before it was stopped is removed: data sets
    are only written into new folders.

    Args:
        step: what to run.
        out: the folder of runs.
        address: of a Ray cluster, for the commands that take one.
        run: runs the words after `pellucid`.
    """
    record = out / STEPS / f"{step.name}.json"
    argv = [word.replace("{out}", str(out)) for word in step.argv]
    kept = _kept(record)
    if kept is not None and kept["argv"] == list(step.argv) and kept["ran"]["ok"]:
        return Ran(**kept["ran"])
    if address is not None and takes(step.argv, "--address"):
        argv += ["--address", address]
    if not step.reports:
        shutil.rmtree(out / step.name, ignore_errors=True)
    started = time.monotonic()
    code, said = run(argv)
    ran = Ran(
        step.name, code == 0, round(time.monotonic() - started, 1), "" if code == 0 else said or f"exit code {code}",
        datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    if code == 130:
        raise KeyboardInterrupt
    write_file(record, json.dumps({"argv": list(step.argv), "ran": asdict(ran)}, indent=1).encode())
    return ran


def run_entry(
    entry: Entry,
    out: Path,
    address: str | None = None,
    run: Callable[[Sequence[str]], tuple[int, str]] = execute,
    failed: dict[str, Ran] | None = None,
) -> Outcome:
    """Run an entry at the zoo's scale, and keep what was found in `entries/ID.json` of the folder.

    Args:
        entry: which has a `zoo`.
        out: the folder of runs; steps that went well there before are not run again.
        address: of a Ray cluster.
        run: runs the words after `pellucid`.
        failed: steps that failed for another entry a moment ago, which are not tried again; new ones are added.

    Raises:
        DataError: the entry has no command at the zoo's scale.
    """
    if entry.zoo is None:
        raise DataError(f"{entry.id} has no command at scale zoo: {entry.why_not}")
    known = {} if failed is None else failed
    done: list[Ran] = []
    for step in entry.zoo.steps:
        ran = known[step.name] if step.name in known else run_step(step, out, address, run)
        done.append(ran)
        if not ran.ok:
            known[step.name] = ran
            outcome = _failure(entry, done, f"{step.name}: {ran.said}")
            break
    else:
        outcome = _outcome(entry, out, done)
    write_file(out / ENTRIES / f"{entry.id}.json", json.dumps(asdict(outcome), indent=1).encode())
    return outcome


def outcomes(out: Path) -> dict[str, Outcome]:
    """The entries that were run in a folder, by id."""
    found = {}
    for path in sorted((out / ENTRIES).glob("*.json")):
        kept = _kept(path)
        if kept is not None:
            found[path.stem] = Outcome(**kept)
    return found


def _outcome(entry: Entry, out: Path, done: Sequence[Ran]) -> Outcome:
    assert entry.zoo is not None
    reports = {step.name: _report(out / step.name) for step in entry.zoo.steps if step.reports}
    try:
        numbers = {n.what: pick(reports[n.step]["results"], n.place) for n in entry.zoo.numbers}
        verdict = _verdict(entry, numbers)
    except DataError as error:
        return _failure(entry, done, str(error))
    used = [reports[name] for name in dict.fromkeys(n.step for n in entry.zoo.numbers)]
    return Outcome(
        entry.id, max(ran.date for ran in done), _joined(report["device"] for report in used),
        _joined(report["seed"] for report in used), round(sum(ran.seconds for ran in done), 1),
        {what: str(found) for what, found in numbers.items()}, verdict,
    )  # fmt: skip


def _verdict(entry: Entry, numbers: dict[str, Found]) -> str:
    assert entry.zoo is not None
    if entry.zoo.carries is None:
        return EYE
    told = entry.zoo.carries(numbers)
    return OPEN if told is None else CARRIES if told else NOT


def _failure(entry: Entry, done: Sequence[Ran], said: str) -> Outcome:
    date = max(ran.date for ran in done)
    return Outcome(entry.id, date, "", "", round(sum(ran.seconds for ran in done), 1), {}, FAILED, said)


def _report(folder: Path) -> dict[str, Any]:
    kept = _kept(folder / RESULT)
    if kept is None:
        raise DataError(f"{folder} has no {RESULT} although its step went well: remove the folder and run again")
    return kept


def _kept(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or "none"
