"""`pellucid zoo`: what there is to try Pellucid on."""

from typing import Annotated

import typer

app = typer.Typer(help="Small real models and data for trying Pellucid with no hub.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Show what the zoo holds, and what of it is ready."""
    from rich.console import Console
    from rich.table import Table

    from .registry import ASSETS

    table = Table("name", "what", "size", "licence", "source", "ready", box=None, pad_edge=False)
    for asset in ASSETS.values():
        ready = "yes" if asset.cached() else "no"
        table.add_row(f"zoo:{asset.name}", asset.what, asset.size, asset.licence, asset.source, ready)
    Console().print(table)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name from `pellucid zoo list`, with or without zoo: before it.")],
) -> None:
    """Prepare one thing, once, and print where it lies."""
    from .registry import resolve

    typer.echo(resolve(name.removeprefix("zoo:")))
