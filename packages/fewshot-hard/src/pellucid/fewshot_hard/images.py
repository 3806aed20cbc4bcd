"""An image set: labelled images as files or as one array, read from a folder, a file, or by name."""

import csv
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pellucid.core.assets import resolve_asset
from pellucid.core.errors import DataError
from pellucid.core.progress import progress

from .array_files import marks, numbered, read_arrays

ANNOTATIONS = "annotations.csv"
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Of image files. Pillow knows more, of which some start programs (EPS)."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of C classes.

    Attributes:
        images: n paths of files, read when they are needed; or (n, h, w) grey or (n, h, w, 3) RGB, uint8.
        labels: (n,) int64, indices into `classes`.
        classes: the classes' names.
        ids: a name for each image, none twice.
        annotations: by name, (n,) bool.
        contents: (n,) uint64, hashes of the decoded pixels; where left out, they are computed. A grey picture and the
            same one in RGB have one hash, whether it lies in a file or in an array.
        skipped: what could not be read, each with the reason.
    """

    images: Sequence[Path] | NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    ids: Sequence[str]
    annotations: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    contents: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.images)
        if not n:
            raise DataError("there are no images: give at least one")
        if isinstance(self.images, np.ndarray) and (
            self.images.dtype != np.uint8 or self.images.shape[3:] not in ((), (3,)) or self.images.ndim < 3
        ):
            raise DataError(
                f"images are {self.images.dtype} of shape {self.images.shape}: give uint8, (images, height, width) "
                "or (images, height, width, 3)"
            )
        if not len(self.contents):
            hashes = [content_hash(pixels) for pixels in self.read(range(n))]
            object.__setattr__(self, "contents", np.array(hashes, dtype=np.uint64))
        lengths = {"labels": len(self.labels), "ids": len(self.ids), "contents": len(self.contents)}
        for name, length in (lengths | {k: len(v) for k, v in self.annotations.items()}).items():
            if length != n:
                raise DataError(f"there are {n} images and {length} {name}: give one for each image")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DataError(f"labels run from {self.labels.min()} to {self.labels.max()} for {len(self.classes)} names")
        if len(set(self.ids)) < n:
            seen: set[str] = set()
            twice = next(name for name in self.ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise DataError(f"the id {twice!r} stands for two images: give each a name of its own")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield the pixels of some rows, one image after another: (h, w, 3), or (h, w) of a set of grey arrays.

        Raises:
            DataError: a file cannot be read any more.
        """
        for row in rows:
            image = self.images[row]
            if isinstance(image, np.ndarray):
                yield image
                continue
            try:
                yield decoded(image)
            except Exception as error:  # whatever a decoder meets in damaged bytes
                raise DataError(f"cannot read the image {image} ({_reason(error)}): get it again") from error

    def subset(self, rows: Sequence[int] | NDArray[np.int64]) -> "ImageSet":
        """Return the images of some rows, with the same classes."""
        rows = np.asarray(rows, dtype=np.int64)
        images = self.images[rows] if isinstance(self.images, np.ndarray) else [self.images[row] for row in rows]
        return ImageSet(
            images,
            self.labels[rows],
            self.classes,
            tuple(self.ids[row] for row in rows),
            {name: values[rows] for name, values in self.annotations.items()},
            self.contents[rows],
        )


def load_images(source: str | Path) -> ImageSet:
    """Read an image set.

    Args:
        source: `digits` (scikit-learn's 1,797 of 8x8), a name such as `zoo:mnist5k` or `zoo:animals`, or

            - a folder with a folder of images for each class (BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF, WebP; folders
              inside are searched too; names that begin with a dot are not looked at). Ids are paths relative to it. It
              may hold `annotations.csv` with a column `id`, then one column of 0 and 1 for each annotation.
            - a .npz or .safetensors file with `images` (uint8, (n, h, w) or (n, h, w, 3)), `labels` (integers or
              text), and perhaps `classes`, `ids`, `annotations` (n, a) with `annotation_names` (see `array_files`).

    Returns:
        The images in sorted order of their ids (a folder's) or as they lie in the file. What could not be read is
        left out and named in `skipped`.

    Raises:
        DataError: there is no such source, a class has no image that can be read, or the parts do not fit together.
    """
    if source == "digits":
        return _digits()
    if str(source).startswith("zoo:"):
        return _file(resolve_asset(str(source)), str(source))
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() in (".npz", ".safetensors"):
        return _file(path, str(path))
    raise DataError(
        f"{source} is no image set: give a folder with a folder for each class, a .npz or .safetensors file, "
        "digits, zoo:mnist5k or zoo:animals"
    )


def from_files(
    paths: Sequence[Path],
    kinds: Sequence[str],
    ids: Sequence[str],
    annotations: Mapping[str, NDArray[np.bool_]] | None = None,
    skipped: Sequence[str] = (),
) -> ImageSet:
    """Make an image set of files: each is decoded once for its hash, and left out (and named) if it cannot be.

    Args:
        paths: n files.
        kinds: the n names of their classes.
        ids: n names.
        annotations: by name, (n,) bool.
        skipped: what was left out before.

    Raises:
        DataError: no image of a class can be read.
    """
    with progress("reading images", len(paths)) as advance, ThreadPoolExecutor() as threads:
        found = []
        for result in threads.map(_hash_of, paths):
            found.append(result)
            advance(1)
    kept = np.array([row for row, result in enumerate(found) if isinstance(result, int)], dtype=np.int64)
    unread = {row: f"{ids[row]}: {result}" for row, result in enumerate(found) if isinstance(result, str)}
    classes = sorted(set(kinds))
    lost = set(kinds) - {kinds[row] for row in kept}
    if lost:
        row = next(row for row in unread if kinds[row] in lost)
        raise DataError(
            f"no image of the class {kinds[row]!r} can be read ({unread[row]}): get them again, or remove the class"
        )
    labels = {name: label for label, name in enumerate(classes)}
    return ImageSet(
        [Path(os.path.abspath(paths[row])) for row in kept],
        np.array([labels[kinds[row]] for row in kept], dtype=np.int64),
        tuple(classes),
        tuple(ids[row] for row in kept),
        {name: values[kept] for name, values in (annotations or {}).items()},
        np.array([found[row] for row in kept], dtype=np.uint64),
        (*skipped, *unread.values()),
    )


def decoded(path: Path) -> NDArray[np.uint8]:
    """Return a file's picture as (h, w, 3) uint8, the first one where there are several; transparency is left out."""
    from PIL import Image

    with Image.open(path, formats=_FORMATS) as image:
        if image.mode.startswith("I"):  # 16 bits a pixel, also where Pillow keeps them in 32
            grey = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode == "F":
            raise ValueError("its pixels are floating point; save it with 8 or 16 bits a pixel")
        if image.mode == "P" and "transparency" in image.info:
            return np.asarray(image.convert("RGBA").convert("RGB"))
        return np.asarray(image.convert("RGB"))


def content_hash(pixels: NDArray[np.uint8]) -> int:
    """Return a 64-bit hash of an image's shape and pixels, the same for a grey image and for it as RGB."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    hasher = hashlib.blake2b(f"{pixels.shape[0]}x{pixels.shape[1]};".encode(), digest_size=8)
    hasher.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(hasher.digest(), "little")


def _hash_of(path: Path) -> int | str:
    """Return a file's hash, or why it cannot be read."""
    try:
        return content_hash(decoded(path))
    except Exception as error:  # whatever a decoder meets in damaged bytes
        return _reason(error)


def _reason(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # Pillow's own line quotes the path, which is named already.
    return "not an image of a known format" if type(error).__name__ == "UnidentifiedImageError" else text


def _digits() -> ImageSet:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return ImageSet(pixels, labels.astype(np.int64), tuple("0123456789"), _counted(len(labels)))


def _counted(n: int) -> tuple[str, ...]:
    return tuple(str(row) for row in range(n))


def _file(path: Path, source: str) -> ImageSet:
    found = read_arrays(path)
    for name in ("images", "labels"):
        if name not in found:
            raise DataError(f"{source} has no {name!r} (it has {', '.join(sorted(found)) or 'nothing'}): add it")
    labels, classes = numbered(found["labels"], found.get("classes"), source)
    ids = tuple(found.get("ids") or _counted(len(labels)))
    try:
        return ImageSet(np.asarray(found["images"]), labels, classes, ids, marks(found, source))
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _folder(root: Path) -> ImageSet:
    kinds = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not kinds:
        raise DataError(f"{root} has no folders: put the images of each class into a folder of its own")
    paths: list[Path] = []
    labels: list[str] = []
    skipped = []
    for kind in kinds:
        before = len(paths)
        for path in _files(root / kind):
            try:
                path.as_posix().encode()
            except UnicodeEncodeError:
                skipped.append(f"{path.relative_to(root).as_posix()!r}: its name is not UTF-8")
                continue
            paths.append(path)
            labels.append(kind)
        if len(paths) == before:
            raise DataError(f"{root / kind} holds no image: put some there, or remove the folder")
    ids = [path.relative_to(root).as_posix() for path in paths]
    table = root / ANNOTATIONS
    return from_files(paths, labels, ids, _annotations(table, ids) if table.is_file() else {}, skipped)


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder and of those inside, sorted; links are followed, each folder entered once."""
    found, entered = [], set()
    for place, inner, names in os.walk(folder, followlinks=True):
        entered.add(os.path.realpath(place))
        inner[:] = sorted(
            name for name in inner if name[0] != "." and os.path.realpath(os.path.join(place, name)) not in entered
        )
        found += [Path(place, name) for name in names if name[0] != "."]
    return sorted(found)


def _annotations(path: Path, ids: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Read a table of annotations; it may have rows of images that are not there, but none twice."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows: list[dict[Any, Any]] = list(reader := csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path} ({error}): save it as a CSV file in UTF-8") from error
    names = [name for name in reader.fieldnames or [] if name != "id"]
    if len(names) + 1 != len(set(reader.fieldnames or [])) or not names:
        raise DataError(f"{path} needs a column 'id' and one for each annotation, each named once in its first line")
    held: dict[str, list[bool]] = {}
    for number, row in enumerate(rows, start=2):
        wrong = [name for name in names if row[name] not in ("0", "1")]
        if wrong or row["id"] in held:
            what = f"{row[wrong[0]]!r} for {wrong[0]!r}" if wrong else f"the id {row['id']!r} again"
            raise DataError(f"{path}, line {number}, has {what}: give each image once, and each annotation as 0 or 1")
        held[row["id"]] = [row[name] == "1" for name in names]
    absent = [name for name in ids if name not in held]
    if absent:
        raise DataError(f"{path} lacks {len(absent)} of {len(ids)} images, such as {absent[0]!r}: add their rows")
    table = np.array([held[name] for name in ids], dtype=bool)
    return {name: table[:, column] for column, name in enumerate(names)}
