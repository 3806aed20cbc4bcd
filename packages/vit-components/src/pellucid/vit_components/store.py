"""The contributions of many pictures, computed once as a sweep and kept in its ledger."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError, ModelError
from pellucid.core.pictures import open_picture
from pellucid.core.sweeps import Context, Sweep

from .components import Component
from .decompose import rep_decompose
from .encoders import VisionModel, load_vision
from .pictures import Pictures


@dataclass(frozen=True)
class Picture:
    """A cell: a picture, told by its name in its folder and its content."""

    id: str
    content: int
    path: str = field(compare=False)


@dataclass(frozen=True)
class Setting:
    """What all cells share; only the weights and the number of layers enter the keys."""

    revision: str
    last_layers: int | None
    name: str = field(compare=False)
    device: str = field(compare=False)
    loaded: VisionModel | None = field(compare=False)


@dataclass(frozen=True)
class Row:
    """A picture's parts and representation: float32, little-endian, in base64."""

    parts: str
    representation: str


@dataclass(frozen=True)
class Contributions:
    """What each component writes, for each picture.

    Attributes:
        components: as in `rep_decompose`.
        parts: (components, pictures, width) float32.
        representation: (pictures, width) float32; the sum of the parts.
        pictures: whose they are.
        revision: of the model's weights.
    """

    components: tuple[Component, ...]
    parts: np.ndarray
    representation: np.ndarray
    pictures: Pictures
    revision: str = ""

    def some(self, places: np.ndarray) -> "Contributions":
        """Those of some of the pictures, by their places."""
        return Contributions(
            self.components,
            self.parts[:, places],
            self.representation[places],
            self.pictures.some(places),
            self.revision,
        )


def contributions(
    name: str | VisionModel,
    pictures: Pictures,
    ledger: str | Path,
    *,
    last_layers: int | None = None,
    workers: int = 0,
    address: str | None = None,
    device: str = "cpu",
    cpus: int = 1,
    gpus: float = 0,
    batch: int = 16,
) -> Contributions:
    """Decompose a model's representation of every picture, as a Ray sweep where workers are asked for.

    Args:
        name: as in `load_vision`, or a loaded model (its name must load it again where there are workers).
        pictures: which ones.
        ledger: a folder, or an fsspec url, for what is finished.
        last_layers: as in `rep_decompose`.
        workers: Ray actors; 0 computes in this process.
        address: of a running Ray.
        device: where to compute.
        cpus: threads of each worker.
        gpus: of each worker.
        batch: pictures at a time.

    Raises:
        DataError: a picture cannot be read.
        ModelError, OptionError: of the model.
    """
    model = name if isinstance(name, VisionModel) else load_vision(name, device)
    shared = Setting(model.revision, last_layers, model.name, device, model if workers == 0 else None)
    cells = cells_of(pictures)
    sweep = Sweep(
        _decompose, cells, version="1", row=Row, shared=shared, setup=load_again, batch=batch, cpus=cpus, gpus=gpus
    )
    rows: list[Any] = rows_of(sweep, ledger, workers, address)
    first = model.prepare([open_picture(pictures.paths[0])]).to(device)
    found = rep_decompose(model.model, first, last_layers=last_layers).components
    whole = np.stack([decoded(row.representation) for row in rows])
    parts = np.stack([decoded(row.parts).reshape(len(found), -1) for row in rows], 1)
    return Contributions(found, parts, whole, pictures, model.revision)


def cells_of(pictures: Pictures) -> list[Picture]:
    """A cell a picture."""
    return [
        Picture(one, _content(path), str(path.absolute()))
        for one, path in zip(pictures.ids, pictures.paths, strict=True)
    ]


def rows_of(sweep: Sweep, ledger: str | Path, workers: int, address: str | None) -> list[Any]:
    """Run a sweep over pictures and return its rows.

    Raises:
        DataError: a picture failed.
    """
    summary = sweep.run(ledger, workers, address=address)
    if summary.failed:
        cell, text = sweep.failures(ledger)[0]
        reason = text.strip().splitlines()[-1].partition("Error: ")[2]
        raise DataError(f"{cell.id} ({summary.failed} such) could not be read and run: {reason}")
    return list(sweep.rows(ledger))


def _content(path: Path) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(path.read_bytes(), digest_size=7).digest(), "big")


def decoded(text: str) -> np.ndarray:
    """The float32 numbers that `encoded` wrote."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def encoded(values: Any) -> str:
    """A tensor as text, for a row."""
    return base64.b64encode(values.float().cpu().numpy().astype("<f4").tobytes()).decode()


def load_again(shared: Setting) -> VisionModel:
    """A worker's own model: the same weights as the driver's."""
    if shared.loaded is not None:
        return shared.loaded
    found = load_vision(shared.name, shared.device)
    if found.revision != shared.revision:
        raise ModelError(f"{shared.name} has other weights on a worker than here: give both the same files")
    return found


def _decompose(cells: Sequence[Picture], context: Context) -> list[Row]:
    """The sweep's function: take some pictures apart in one batch."""
    model: VisionModel = context.state
    images = model.prepare([open_picture(Path(cell.path)) for cell in cells]).to(context.shared.device)
    found = rep_decompose(model.model, images, last_layers=context.shared.last_layers)
    return [Row(encoded(found.parts[:, place]), encoded(found.representation[place])) for place in range(len(cells))]
