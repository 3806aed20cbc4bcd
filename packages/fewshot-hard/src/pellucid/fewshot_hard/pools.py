"""A pool: the embeddings that support and query images are drawn from, with labels, ids and annotations."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError

CHECKED = 65_536
"""Rows looked at together, so that a pool on disk is checked in little memory."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Embeddings of n images of C classes.

    Attributes:
        embeddings: (n, d) float32; may be a memory map, of which only the rows needed are read.
        labels: (n,) int64, indices into `classes`.
        classes: the classes' names.
        ids: a name for each image, none twice.
        annotations: by name, (n,) bool: whether an image has the property (blurred, seen from the side).
        contents: (n,) uint64, a hash of each image's own content; where None, hashes of embeddings stand in.
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    ids: Sequence[str]
    annotations: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    contents: NDArray[np.uint64] | None = None

    def __post_init__(self) -> None:
        n = len(self.embeddings)
        if self.embeddings.ndim != 2 or not self.embeddings.size:
            raise DataError(f"embeddings have shape {self.embeddings.shape}: give (images, dimensions)")
        lengths = {"labels": len(self.labels), "ids": len(self.ids)} | {k: len(v) for k, v in self.annotations.items()}
        if self.contents is not None:
            lengths["contents"] = len(self.contents)
        for name, length in lengths.items():
            if length != n:
                raise DataError(f"there are {n} embeddings and {length} {name}: give one for each image")
        if len(self.classes) < 2:
            raise DataError(f"the pool has {len(self.classes)} class: a few-shot task needs at least two")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DataError(f"labels run from {self.labels.min()} to {self.labels.max()} for {len(self.classes)} names")
        if len(set(self.ids)) < n:
            seen: set[str] = set()
            twice = next(name for name in self.ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise DataError(f"the id {twice!r} stands for two images: give each a name of its own")
        for start in range(0, n, CHECKED):
            sound = np.isfinite(self.embeddings[start : start + CHECKED]).all(axis=1)
            if not sound.all():
                row = start + int(np.argmin(sound))
                raise DataError(f"the embedding of {self.ids[row]!r} (row {row}) is not finite: embed it again")

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return self.embeddings.shape[1]

    @cached_property
    def members(self) -> tuple[NDArray[np.int64], ...]:
        """The rows of each class, ascending."""
        order = np.argsort(self.labels, kind="stable")
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return tuple(np.split(order, np.cumsum(counts)[:-1]))

    @cached_property
    def digest(self) -> str:
        """A hash, in hexadecimal digits, of ids, labels, class names and the images' contents.

        Two backbones' pools of the same images have one digest, so that tasks carry over from one to the other. Where
        `contents` is None the embeddings' own bytes stand in, and they have not.
        """
        hasher = hashlib.blake2b(digest_size=32)
        for texts in (self.classes, self.ids):
            hasher.update(f"{len(texts)};".encode())
            for text in texts:
                encoded = text.encode("utf-8", "surrogatepass")
                hasher.update(b"%d:" % len(encoded) + encoded)
        hasher.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        if self.contents is not None:
            hasher.update(b"contents")
            hasher.update(np.ascontiguousarray(self.contents, dtype="<u8").data)
            return hasher.hexdigest()
        hasher.update(f"embeddings {self.dim}".encode())
        for start in range(0, len(self), CHECKED):
            hasher.update(np.ascontiguousarray(self.embeddings[start : start + CHECKED], dtype="<f4").data)
        return hasher.hexdigest()

    def content_of(self, rows: NDArray[np.int64] | Sequence[int]) -> NDArray[np.uint64]:
        """Return (len(rows),) hashes; equal ones are the same image, whatever its row."""
        rows = np.asarray(rows, dtype=np.int64)
        if self.contents is not None:
            return self.contents[rows]
        held = np.ascontiguousarray(self.embeddings[rows])
        return np.array(
            [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") for row in held],
            dtype=np.uint64,
        )


def load_pool(path: Path) -> Pool:
    """Read a pool.

    Args:
        path: of one of

            - a .npz or .safetensors file: `embeddings` (n, d), `labels` (n integers, or n texts), and perhaps `classes`
              (where left out, the labels' own values, sorted), `ids` (else "0", "1", ...), `annotations` (n, a) with
              `annotation_names`, and `contents` (n,) uint64. Of a .safetensors file, float32 embeddings stay on disk
              as a memory map; how texts are kept in it, see `array_files`.
            - a .parquet file: columns `embedding` (lists of n numbers each), `label` (integers or text), and perhaps
              `id` and `content`; boolean columns are annotations.

    Raises:
        DataError: the file is missing, damaged or of another kind, its parts do not fit together, an embedding is not
            finite, an id comes twice, or there is only one class.
    """
    from .pool_files import read_pool

    path = Path(path)
    parts = read_pool(path)
    try:
        return Pool(**parts)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def save_pool(pool: Pool, path: Path) -> None:
    """Write a pool, whole or not at all, as .npz, .safetensors or .parquet; `load_pool` gives it back.

    Raises:
        OptionError: the file's name ends otherwise.
        DataError: the file cannot be written.
    """
    from .pool_files import write_pool

    write_pool(Path(path), pool.embeddings, pool.labels, pool.classes, pool.ids, dict(pool.annotations), pool.contents)
