"""`pellucid tour`: see every method work, on small real models, within minutes."""

from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import Fresh, Json, Out, Seed, Workers, show

from .tour import CHAPTERS

Only = Annotated[str, typer.Option("--only", metavar="NAMES", help="Which chapters, by commas.")]
ALL = ",".join(CHAPTERS)

app = typer.Typer(help="See every method work once, on small real models, in one report.")


@app.command()
def tour(
    out: Out = Path("runs/tour"),
    only: Only = ALL,
    seed: Seed = 0,
    workers: Workers = 2,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """See every method work once, on small real models, in one report."""
    from pellucid.core.outfolder import prepare_out

    from .tour import run_tour

    prepare_out(out, fresh)
    names = [name.strip() for name in only.split(",") if name.strip()]
    show(run_tour(out, names, seed, workers), out, as_json)
