"""`pellucid reproduce`: the figures and tables of the thesis, one command each."""

from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import TRY, Address
from pellucid.core.errors import OptionError

app = typer.Typer(rich_help_panel=TRY, help="Redo any figure or table of the thesis.")

Ident = Annotated[str | None, typer.Argument(metavar="ID", help="Such as figure-3.2, or table-7.1.")]


@app.command()
def reproduce(
    entry: Ident = None,
    scale: Annotated[str, typer.Option("--scale", help="zoo runs it; paper says how it would be run.")] = "zoo",
    everything: Annotated[bool, typer.Option("--all", help="All entries, one after the other.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Show what there is, and how long it takes.")] = False,
    package: Annotated[str | None, typer.Option("--package", metavar="NAME", help="Only of this package.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder of runs.")] = Path(
        "runs/reproduce"
    ),
    page: Annotated[
        Path | None, typer.Option("--results", metavar="FILE", dir_okay=False, help="DIR/RESULTS.md if not given.")
    ] = None,
    address: Address = None,
) -> None:
    """Redo a figure or table of the thesis, its numbers beside ours.

    What is finished is kept in DIR: the same command run again goes on. What fails is told, and the rest goes on.
    """
    from .entries import ENTRIES, find, of_package
    from .showing import list_entries, show_paper, show_run

    if scale not in ("zoo", "paper"):
        raise OptionError(f"--scale {scale!r}: choose zoo or paper")
    some = ENTRIES if package is None else of_package(package)
    if listing:
        list_entries(some, scale)
        return
    if (entry is None) == (not everything):
        raise OptionError("give an ID or --all, and not both: pellucid reproduce --list shows what there is")
    chosen = some if entry is None else (find(entry),)
    if scale == "paper":
        for one in chosen:
            show_paper(one)
        return
    if not show_run(chosen, out.absolute(), out / "RESULTS.md" if page is None else page, address):
        raise typer.Exit(1)
