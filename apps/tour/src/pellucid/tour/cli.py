"""`pellucid tour`: see every method work, on small real models, within minutes."""

from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import TRY, Fresh, Json, Out, Seed, Workers, show

from .tour import CHAPTERS

Only = Annotated[str, typer.Option("--only", metavar="NAMES", help="Which chapters, by commas.")]
Full = Annotated[bool, typer.Option("--full", help="Samples as large as those behind the READMEs; takes hours.")]
ALL = ",".join(CHAPTERS)

app = typer.Typer(help="See every method work once, in one report.", rich_help_panel=TRY)


@app.command()
def tour(
    out: Out = Path("runs/tour"),
    only: Only = ALL,
    seed: Seed = 0,
    workers: Workers = 2,
    full: Full = False,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """See every method work once, in one report."""
    from pellucid.core.outfolder import prepare_out

    from .tour import run_tour

    prepare_out(out, fresh)
    names = [name.strip() for name in only.split(",") if name.strip()]
    show(run_tour(out, names, seed, workers, full, lambda line: typer.echo(line, err=True)), out, as_json)
