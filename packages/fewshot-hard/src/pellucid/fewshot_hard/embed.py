"""Embedding an image set: a sweep over its images, so that no image is embedded twice and a crash loses nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.errors import DataError, ModelError
from pellucid.core.sweeps import Context, Sweep

from .images import ImageSet, load_images
from .pools import Pool

if TYPE_CHECKING:
    from .backbones import Backbone


@dataclass(frozen=True)
class Picture:
    """A cell: an image, told by its content alone; `row` says where it stands in the set."""

    content: int
    row: int = field(compare=False)


@dataclass(frozen=True)
class Setting:
    """What all cells share. Only the weights and the preparation enter the keys, so files may be moved."""

    revision: str
    spec: str = field(compare=False)
    weights: str | None = field(compare=False)
    device: str = field(compare=False)
    images: ImageSet = field(compare=False)
    loaded: "Backbone | None" = field(compare=False)


@dataclass(frozen=True)
class Embedding:
    """A row: the embedding's float32 bytes, little-endian, in base64 (a list of numbers takes six times the time)."""

    values: str


def embed(
    images: ImageSet | str | Path,
    backbone: str,
    ledger: str | Path,
    *,
    weights: str | Path | None = None,
    workers: int = 0,
    address: str | None = None,
    device: str = "cpu",
    batch: int = 64,
) -> Pool:
    """Embed an image set, as a Ray sweep where workers are asked for.

    Images are known by their content and backbones by their weights: what the ledger holds is not computed again,
    also where images were added or moved. Of images that are alike, one is computed.

    Args:
        images: the set, or its source as in `load_images`.
        backbone: as in `load_backbone`.
        ledger: a folder, or an fsspec url of a bucket, for finished embeddings.
        weights: as in `load_backbone`; workers elsewhere must see the file under the same path.
        workers: Ray actors of one CPU (and, on CUDA, one GPU) each; 0 computes in this process.
        address: of a running Ray.
        device: where to compute, such as "cuda".
        batch: images that go through the backbone together.

    Returns:
        The pool, (n, d), with the set's labels, ids, annotations and contents; equal to 1e-5 whatever the workers.

    Raises:
        DataError: an image cannot be read any more, or its embedding is not finite; the message names it.
        ModelError, OptionError: of the backbone.
    """
    import torch

    from .backbones import load_backbone

    images = images if isinstance(images, ImageSet) else load_images(images)
    weights = weights if weights is None or weights == "random" else str(Path(weights).absolute())
    loaded = load_backbone(backbone, weights, device)
    shared = Setting(loaded.revision, backbone, weights, device, images, loaded if workers == 0 else None)
    contents, first, places = np.unique(images.contents, return_index=True, return_inverse=True)
    order = np.argsort(first)  # in the order of the set, where neighbours often lie in one folder
    sweep = Sweep(
        embed_pictures,
        [Picture(int(contents[at]), int(first[at])) for at in order],
        version="1",
        row=Embedding,
        shared=shared,
        setup=load_for,
        batch=batch,
        cpus=1 if workers else torch.get_num_threads(),
        gpus=1 if workers and device.startswith("cuda") else 0,
    )
    summary = sweep.run(ledger, workers, address=address)
    if summary.failed:
        summary = sweep.run(ledger, workers, retry_failed=True, address=address)
    if summary.failed:
        failures = sweep.failures(ledger)
        cell, text = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        reason = text.strip().splitlines()[-1].removeprefix("pellucid.core.errors.DataError: ")
        raise DataError(f"cannot embed the image {images.ids[cell.row]!r}{more}: {reason}")
    rows = sweep.rows(ledger)
    held = np.frombuffer(b"".join(base64.b64decode(row.values) for row in rows), dtype="<f4").reshape(len(rows), -1)
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    return Pool(
        held[position[places.reshape(-1)]].astype(np.float32, copy=False),
        images.labels,
        images.classes,
        images.ids,
        images.annotations,
        images.contents,
    )


def load_for(shared: Setting) -> Any:
    """The sweep's setup: the caller's own backbone, or in a worker the same one loaded again."""
    if shared.loaded is not None:
        return shared.loaded
    from .backbones import load_backbone

    loaded = load_backbone(shared.spec, shared.weights, shared.device)
    if loaded.revision != shared.revision:
        raise ModelError(f"{shared.spec} has other weights on a worker than here: give both the same file or cache")
    return loaded


def embed_pictures(cells: Sequence[Picture], context: Context) -> list[Embedding]:
    """The sweep's function: embed some images in one batch."""
    pixels = list(context.shared.images.read([cell.row for cell in cells]))
    found = context.state(pixels)
    if not np.isfinite(found).all():
        raise DataError("its embedding is not finite: look at the image, or give sound weights")
    return [Embedding(base64.b64encode(each.astype("<f4").tobytes()).decode()) for each in found]
