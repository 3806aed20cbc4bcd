"""`pellucid vit`: what each head and MLP of a vision transformer adds to its representation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pellucid.core.cli import Address, Device, Fresh, Json, Model, Out, Seed, Workers, finish
from pellucid.core.errors import OptionError
from pellucid.core.model_options import Cpus, Gpus

if TYPE_CHECKING:
    from .pictures import Pictures

app = typer.Typer(help="What each head and MLP of a vision transformer says.", no_args_is_help=True)

Images = Annotated[
    Path,
    typer.Option("--images", metavar="DIR", help="Pictures, with annotations.parquet or .csv, or a folder a class."),
]
Split = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Of annotations with a column split.")]
Count = Annotated[int | None, typer.Option("-n", min=2, help="How many pictures, spread over those there are.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Pictures at a time.")]


@app.command()
def decompose(
    model: Model,
    images: Images,
    out: Out,
    last_layers: Annotated[
        int | None, typer.Option("--last-layers", min=1, help="Layers taken apart, from the last; all if not given.")
    ] = None,
    split: Split = None,
    n: Count = None,
    batch: Batch = 16,
    seed: Seed = 0,
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    address: Address = None,
    device: Device = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Take representations apart into what each head, MLP and convolution writes (RepDecompose)."""
    from .commands import decompose_report

    pictures = _pictures(images, split, n)
    running = _running(device, workers, cpus, gpus, address, batch)
    finish(
        lambda: decompose_report(model, pictures, out, seed, last_layers=last_layers, **running), out, fresh, as_json
    )


@app.command()
def ablate(
    model: Model,
    images: Images,
    out: Out,
    label: Annotated[str, typer.Option("--label", help="The annotation that the classifier names.")] = "label",
    split: Split = None,
    n: Count = None,
    batch: Batch = 16,
    seed: Seed = 0,
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    address: Address = None,
    device: Device = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Set layer after layer to its mean, from the last on, and measure the classifier's accuracy."""
    from .commands import ablate_report

    pictures = _pictures(images, split, n)
    running = _running(device, workers, cpus, gpus, address, batch)
    finish(lambda: ablate_report(model, pictures, label, out, seed, **running), out, fresh, as_json)


def _pictures(folder: Path, split: str | None, count: int | None) -> "Pictures":
    from .pictures import Pictures, read_pictures

    found = read_pictures(folder, split)
    if count is None or count >= len(found):
        return found
    chosen = [place * len(found) // count for place in range(count)]
    return Pictures(
        tuple(found.paths[place] for place in chosen),
        tuple(found.ids[place] for place in chosen),
        {name: tuple(values[place] for place in chosen) for name, values in found.labels.items()},
    )


def _running(device: str, workers: int, cpus: int, gpus: float, address: str | None, batch: int) -> dict[str, Any]:
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() and (gpus or not workers) else "cpu"
    if workers and device.startswith("cuda") and not gpus:
        raise OptionError("--device cuda with workers needs --gpus: give each its share")
    return {"device": device, "workers": workers, "cpus": cpus, "gpus": gpus, "address": address, "batch": batch}
