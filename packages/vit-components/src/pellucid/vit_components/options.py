"""The options that all of `pellucid vit` share: which model, which pictures, where contributions are kept."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pellucid.core.cli import Address, Device, Model, Workers
from pellucid.core.errors import OptionError
from pellucid.core.model_options import Cpus, Gpus

if TYPE_CHECKING:
    from .pictures import Pictures

Images = Annotated[
    Path,
    typer.Option("--images", metavar="DIR", help="Pictures, with annotations.parquet or .csv, or a folder a class."),
]
Split = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Of annotations with a column split.")]
Count = Annotated[int | None, typer.Option("-n", min=2, help="How many pictures, spread over those there are.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Pictures at a time.")]
Store = Annotated[
    Path | None, typer.Option("--store", metavar="DIR", help="Where contributions are kept, for several commands.")
]


@dataclass(frozen=True)
class Source:
    """A model, pictures, and how a sweep over them runs.

    Attributes:
        model: as in `load_vision`.
        images: a folder.
        split: of its annotations.
        n: how many pictures.
        store: a folder of ledgers; the `--out` folder's own where it is not given.
        batch: pictures at a time.
        device: where models run.
        workers: Ray tasks; 0 for none.
        cpus: of each worker.
        gpus: of each worker.
        address: of a running Ray.
    """

    model: Model
    images: Images
    split: Split = None
    n: Count = None
    store: Store = None
    batch: Batch = 16
    device: Device = "auto"
    workers: Workers = 0
    cpus: Cpus = 1
    gpus: Gpus = 0
    address: Address = None

    def pictures(self) -> "Pictures":
        """The pictures asked for."""
        from .pictures import read_pictures

        found = read_pictures(self.images, self.split)
        if self.n is None or self.n >= len(found):
            return found
        return found.some(place * len(found) // self.n for place in range(self.n))

    def placed(self) -> str:
        """The device, with `auto` decided."""
        if self.device != "auto":
            if self.workers and self.device.startswith("cuda") and not self.gpus:
                raise OptionError("--device cuda with workers needs --gpus: give each its share")
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() and (self.gpus or not self.workers) else "cpu"

    def running(self) -> dict[str, Any]:
        """What `contributions` and `embeddings` take beside model, pictures and ledger."""
        return {
            "device": self.placed(),
            "workers": self.workers,
            "cpus": self.cpus,
            "gpus": self.gpus,
            "address": self.address,
            "batch": self.batch,
        }

    def ledger(self, out: Path, kind: str) -> Path:
        """Where rows of one kind are kept: `parts` or `whole`."""
        return (self.store or out / "ledger") / kind


def takes_source(command: Callable[..., None]) -> Callable[..., None]:
    """Give a typer command the options of a `Source` in the place of its parameter `source`."""
    own = inspect.signature(command)
    given = list(inspect.signature(Source).parameters.values())
    kept = [one for one in own.parameters.values() if one.name != "source"]
    shown = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*given[:2], *kept, *given[2:])]

    def run(**options: Any) -> None:
        source = Source(**{one.name: options.pop(one.name) for one in fields(Source)})
        command(**options, source=source)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run
