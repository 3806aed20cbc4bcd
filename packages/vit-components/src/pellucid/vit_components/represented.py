"""A model's representations of many pictures, whole: what CompAlign maps towards. A sweep, kept in its ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pellucid.core.pictures import open_picture
from pellucid.core.sweeps import Context, Sweep

from .encoders import VisionModel
from .pictures import Pictures
from .representations import representation_of
from .store import Picture, Setting, cells_of, decoded, encoded, load_again, rows_of


@dataclass(frozen=True)
class Row:
    """A picture's representation: float32, little-endian, in base64."""

    representation: str


def embeddings(
    model: VisionModel,
    pictures: Pictures,
    ledger: str | Path,
    *,
    workers: int = 0,
    address: str | None = None,
    device: str = "cpu",
    cpus: int = 1,
    gpus: float = 0,
    batch: int = 16,
) -> np.ndarray:
    """Represent every picture.

    Args: as in `contributions`.

    Returns:
        (pictures, width) float32.

    Raises:
        DataError: a picture cannot be read.
    """
    shared = Setting(model.revision, None, model.name, device, model if workers == 0 else None)
    sweep = Sweep(
        _embed,
        cells_of(pictures),
        version="1",
        row=Row,
        shared=shared,
        setup=load_again,
        batch=batch,
        cpus=cpus,
        gpus=gpus,
    )
    rows: list[Any] = rows_of(sweep, ledger, workers, address)
    return np.stack([decoded(row.representation) for row in rows])


@torch.no_grad()
def _embed(cells: Sequence[Picture], context: Context) -> list[Row]:
    """The sweep's function: some pictures in one batch."""
    model: VisionModel = context.state
    images = model.prepare([open_picture(Path(cell.path)) for cell in cells]).to(context.shared.device)
    found = representation_of(model.model)(model.model, images)
    return [Row(encoded(one)) for one in found]
