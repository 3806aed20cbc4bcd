"""What `pellucid reproduce` prints, and the runs behind it."""

from collections.abc import Sequence
from pathlib import Path

import typer
from pellucid.core.command_lines import execute
from pellucid.core.errors import DataError
from pellucid.core.outfolder import write_file

from .dry_run import check, models_of
from .entry import Entry
from .results_page import quoted, results_page
from .running import FAILED, Ran, outcomes, run_entry


def list_entries(entries: Sequence[Entry], scale: str) -> None:
    """Print a row an entry: how long it takes at a scale, by which package, and what it shows."""
    from rich.console import Console
    from rich.table import Table

    table = Table("entry", "package", "minutes" if scale == "zoo" else "hours", "shows", box=None, pad_edge=False)
    for entry in entries:
        minutes = sum(step.seconds for step in entry.zoo.steps) / 60 if entry.zoo else None
        hours = entry.paper.hours if entry.paper else "-"
        takes = hours if scale == "paper" else "-" if minutes is None else f"{max(minutes, 0.1):.1f}"
        table.add_row(entry.id, entry.package, takes, entry.shows)
    Console().print(table)


def show_paper(entry: Entry) -> None:
    """Print how an entry is run at the thesis's scale, and how its models would be placed; nothing is downloaded."""
    typer.echo(f"{entry.id}: {entry.shows}\n  thesis: {entry.thesis}")
    if entry.paper is None:
        typer.echo(f"  no command at scale paper: {entry.why_not}\n")
        return
    paper = entry.paper
    for name in ("models", "data", "hardware", "hours"):
        typer.echo(f"  {name}: {getattr(paper, name)}")
    typer.echo("  dry run, on configs without weights:")
    for name in models_of(paper):
        typer.echo(f"building {name}, without weights", err=True)
        typer.echo(f"    {check(name, paper)}")
    for argv in paper.argvs:
        typer.echo(f"  pellucid {quoted(argv)}")
    typer.echo("")


def show_run(entries: Sequence[Entry], out: Path, page: Path, address: str | None) -> bool:
    """Run entries at the zoo's scale, say what was found, and write the page of results.

    Args:
        entries: which; those without a command are told, where they are several.
        out: the folder of runs.
        page: where the page goes: it holds all that was ever run in the folder.
        address: of a Ray cluster.

    Returns:
        Whether all went well.

    Raises:
        DataError: the only entry has no command at the zoo's scale.
    """
    from .entries import ENTRIES

    if len(entries) == 1 and entries[0].zoo is None:
        raise DataError(f"{entries[0].id} has no command at scale zoo: {entries[0].why_not}")
    failed: dict[str, Ran] = {}
    well = True
    for number, entry in enumerate(entries, 1):
        typer.echo(f"[{number} of {len(entries)}] {entry.id}: {entry.shows}", err=True)
        if entry.zoo is None:
            typer.echo(f"{entry.id}: no command at scale zoo: {entry.why_not}")
            continue
        found = run_entry(entry, out, address, _told, failed)
        _write(page, results_page(ENTRIES, outcomes(out)))
        typer.echo(f"{found.id}: {found.verdict}{': ' + found.failed if found.failed else ''}")
        for what, value in found.numbers.items():
            typer.echo(f"  {what}: {value}")
        well = well and found.verdict != FAILED
    typer.echo(f"\nResults: {page}")
    return well


def _told(words: Sequence[str]) -> tuple[int, str]:
    """Run the words after `pellucid`, and say so where people watch."""
    typer.echo(f"  pellucid {quoted(words)}", err=True)
    return execute(words)


def _write(path: Path, text: str) -> None:
    write_file(path, text.encode())
