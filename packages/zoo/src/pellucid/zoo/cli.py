"""`pellucid zoo`: what there is to try Pellucid on."""

from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import TRY
from pellucid.core.errors import OptionError

app = typer.Typer(
    rich_help_panel=TRY, help="Small real models and data for trying Pellucid with no hub.", no_args_is_help=True
)


@app.command("list")
def list_() -> None:
    """Show what the zoo holds, and what of it is ready."""
    from rich.console import Console
    from rich.table import Table

    from .registry import ASSETS

    table = Table("name", "what", "size", "licence", "source", "ready", box=None, pad_edge=False)
    table.columns[0].no_wrap = True  # it is what other commands ask for
    table.columns[0].min_width = max(len(f"zoo:{name}") for name in ASSETS)
    for asset in ASSETS.values():
        ready = "yes" if asset.cached() else "no"
        table.add_row(f"zoo:{asset.name}", asset.what, asset.size, asset.licence, asset.source, ready)
    Console().print(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A name from `pellucid zoo list`, with or without zoo: before it.")],
) -> None:
    """Prepare one thing, once, and print where it lies."""
    from .registry import resolve

    typer.echo(resolve(name.removeprefix("zoo:")))


@app.command()
def render(
    caption: Annotated[str, typer.Option("--caption", help="Such as: a red circle and a blue star.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="A .png to write.")] = Path(
        "runs/render.png"
    ),
    count: Annotated[int, typer.Option("-n", min=1, help="How many pictures of the caption.")] = 8,
    size: Annotated[int, typer.Option("--size", help="32 or 64 pixels a side.")] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides places, sizes and shades.")] = 0,
) -> None:
    """Draw pictures of Tinyworld that a caption describes, on one sheet."""
    from pellucid.core.outfolder import writing

    from .world import parse, render_all, save_sheet

    if out.suffix != ".png":
        raise OptionError(f"--out is {out}: give a file whose name ends in .png")
    pictures = render_all([parse(caption, seed + step) for step in range(count)], size)
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        save_sheet(pictures, out, columns=min(count, 8))
    typer.echo(out)


@app.command()
def dataset(
    name: Annotated[str, typer.Argument(help="facts, groups, views or compositions.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="A new folder.")],
    train: Annotated[int, typer.Option("--train", min=0, help="Pictures to train on.")] = 1000,
    validation: Annotated[int, typer.Option("--validation", min=0, help="Pictures to choose by.")] = 200,
    test: Annotated[int, typer.Option("--test", min=0, help="Pictures to report on.")] = 200,
    size: Annotated[int | None, typer.Option("--size", help="32 or 64 pixels a side.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the scenes.")] = 0,
) -> None:
    """Write one of Tinyworld's data sets: pictures, their annotations, and questions about them."""
    from .world_datasets import write_dataset

    sizes = {"train": train, "validation": validation, "test": test}
    typer.echo(write_dataset(name, out, sizes, size=size, seed=seed))


@app.command()
def train(
    name: Annotated[
        str, typer.Argument(help="judge, or tinyworld- with clip, sd, llava, vit, swin, maxvit or spurious.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="The model's folder.")],
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of the processor; one gives the same bits.")] = 1,
    clip: Annotated[
        Path | None,
        typer.Option(
            "--clip", metavar="DIR", file_okay=False, help="For sd and llava: the CLIP, if not the shipped one."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on from a checkpoint, or start anew.")] = True,
) -> None:
    """Train one of Tinyworld's models as the shipped one was; cut short, it goes on where it was."""
    import torch

    from .tinyworld import train as trained

    torch.set_num_threads(threads)
    typer.echo(trained(name, out, device=device, resume=resume, clip=clip))


@app.command()
def judge(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of .png pictures, 32 or 64 pixels a side.")],
    captions: Annotated[
        Path | None,
        typer.Option("--captions", metavar="FILE", dir_okay=False, help="CSV with the columns file and caption."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a picture instead of a table.")] = False,
) -> None:
    """Read pictures of Tinyworld, and compare them with what captions ask for where there are some."""
    from .judging import judge_folder, show

    show(judge_folder(folder, captions), as_json)
