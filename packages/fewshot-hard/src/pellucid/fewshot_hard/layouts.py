"""Local copies of published data sets as image sets: one small TOML file says how each is laid out."""

import json
import re
import tomllib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import writing
from pellucid.core.progress import progress

from .layout_readers import Box, Found, Layout, find, mark_names, matching

if TYPE_CHECKING:
    from .images import ImageSet

_FOLDER = Path(__file__).with_name("layouts")
_FIELDS = {
    "files": ("glob", "match", "class_name"),
    "table": ("tables", "image"),
    "npy": ("glob", "side"),
    "coco": ("tables", "image", "class_name"),
    "mat": ("tables", "image", "variable"),
}
"""What a layout of each kind must have."""


def layout_names() -> tuple[str, ...]:
    """Return the data sets whose structure is known, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_layout(name: str | Path) -> Layout:
    """Return the layout of a known data set, or that of a TOML file of one's own (fields: see `Layout`).

    Raises:
        OptionError: there is no such layout.
        DataError: the file is no layout.
    """
    own = str(name).endswith(".toml")
    path = Path(name) if own else _FOLDER / f"{name}.toml"
    if not own and name not in layout_names():
        raise OptionError(
            f"there is no layout {str(name)!r}: give one of {', '.join(layout_names())}, or a .toml file of your own"
        )
    try:
        given: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"cannot read the layout {path} ({error}): correct the file") from error
    if "class" in given:
        given["class_name"] = given.pop("class")
    known = {each.name for each in fields(Layout)} - {"name"}
    for key in given.keys() - known:
        raise DataError(f"{path} has the key {key!r}, which a layout has not: take it out")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        layout = Layout(name=path.stem, **values)
        re.compile(layout.match)
    except (TypeError, re.error) as error:
        raise DataError(f"{path} is not a whole layout ({error}): add what is missing") from error
    if layout.kind not in _FIELDS:
        raise DataError(f"{path} has the kind {layout.kind!r}: give one of {', '.join(_FIELDS)}")
    lacking = [each.removesuffix("_name") for each in _FIELDS[layout.kind] if not getattr(layout, each)]
    if lacking:
        raise DataError(f"{path} is of the kind {layout.kind!r} and has no {lacking[0]!r}: add it")
    return layout


def check_dataset(name: str | Path, root: Path) -> None:
    """Raise a DataError that says what is missing if the data set's files and folders are not there."""
    layout, root = load_layout(name), Path(root)
    if not root.is_dir():
        raise DataError(_missing(layout, root, "the folder itself"))
    looked = [need for need in layout.needs if not (root / need).exists()]
    if looked:
        raise DataError(_missing(layout, root, ", ".join(looked)))


def read_dataset(
    name: str | Path,
    root: Path,
    *,
    classes: Path | Sequence[str] | None = None,
    per_class: int | None = None,
    seed: int = 0,
    crops: Path | None = None,
) -> "ImageSet":
    """Read a local copy of a data set.

    Args:
        name: of a known layout (see `layout_names`), or a TOML file of one's own.
        root: the folder that holds the copy.
        classes: which classes to keep: names, or a file of them: text of one a line, or JSON as Meta-Dataset's
            `NAME_splits.json` (its list "test"). Where None, such a file at the root is used if the data set has one;
            otherwise all classes are kept. A name matches also by its number alone ("5" and "005.marigold").
        per_class: keep at most so many images of a class, chosen by the seed; the others are never opened.
        seed: of that choice.
        crops: a folder for the pictures of data sets that are cut out of the published ones (aircraft, mscoco,
            objectnet), as PNG files; those already there are kept, so that a run can go on.

    Returns:
        Images with class names, ids (paths relative to the root), annotations, and what had to be skipped and why.

    Raises:
        DataError: the data set is not there (the message says what was looked for and where it is documented), none
            of its images can be used, or a list of classes names none that exists.
        OptionError: the layout is unknown, `per_class` is below 1, or crops are needed and there is no folder.
    """
    layout, root = load_layout(name), Path(root)
    if per_class is not None and per_class < 1:
        raise OptionError(f"per_class is {per_class}: it must be 1 or more")
    if layout.cuts and crops is None:
        raise OptionError(f"{layout.title} is cut out of the published pictures: give a folder for them (crops=...)")
    check_dataset(name, root)
    wanted = _wanted(layout, root, classes)
    if layout.kind == "npy":
        return _from_arrays(layout, root, wanted, per_class, seed)
    found, skipped = find(layout, root)
    if not found:
        raise DataError(_missing(layout, root, skipped[0] if skipped else layout.glob or layout.image))
    kinds = _kept([each.kind for each in found], wanted, layout)
    found = [each for each in found if each.kind in kinds]
    chosen = _limited([each.kind for each in found], per_class, seed)
    found = [found[index] for index in chosen]
    if layout.cuts and crops is not None:
        found, unusable = _cut(found, layout.border, Path(crops))
        skipped += unusable
    if not found:
        raise DataError(_missing(layout, root, skipped[0]))
    return _image_set(found, mark_names(layout, root), skipped)


def _missing(layout: Layout, root: Path, looked: str) -> str:
    return (
        f"{layout.title} is not in {root} (looked for {looked}): unpack it there as {layout.documentation} documents it"
    )


def _wanted(layout: Layout, root: Path, classes: Path | Sequence[str] | None) -> list[str] | None:
    if classes is None:
        if not layout.split or not (root / layout.split).is_file():
            return None
        classes = root / layout.split
    if not isinstance(classes, str | Path):
        return [str(each) for each in classes]
    path = Path(classes)
    try:
        text = path.read_text(encoding="utf-8")
        listed = json.loads(text) if path.suffix == ".json" else text.splitlines()
        names = listed["test"] if isinstance(listed, dict) else listed
        return [str(each).strip() for each in names if str(each).strip()]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"cannot read the classes of {path} ({error}): give names one a line, or JSON with 'test'"
        ) from error


def _kept(kinds: Iterable[str], wanted: list[str] | None, layout: Layout) -> set[str]:
    """Return the classes to keep; a wanted name stands for a class of the same text, or of its leading number."""
    known = set(kinds)
    if wanted is None:
        return known
    numbers = {_number(kind): kind for kind in known if _number(kind)}
    found = {each: each if each in known else numbers.get(_number(each)) for each in wanted}
    absent = [each for each, kind in found.items() if kind is None]
    if absent or not found:
        raise DataError(
            f"{layout.title} here has no class {(absent or [''])[0]!r} ({len(absent)} of {len(wanted)} are missing): "
            f"its classes are called like {min(known)!r}"
        )
    return {kind for kind in found.values() if kind is not None}


def _number(name: str) -> str:
    """Return the number that a class is called by or begins with ("005.marigold"), without zeros; else nothing."""
    start = re.match(r"0*(\d+)(\.|$)", name)
    return start[1] if start else ""


def _limited(kinds: Sequence[str], per_class: int | None, seed: int) -> list[int]:
    """Return the indices to keep, ascending: at most `per_class` of a class, whatever other classes there are."""
    if per_class is None:
        return list(range(len(kinds)))
    places: dict[str, list[int]] = {}
    for index, kind in enumerate(kinds):
        places.setdefault(kind, []).append(index)
    return sorted(held[int(i)] for kind, held in places.items() for i in _drawn(kind, len(held), per_class, seed))


def _drawn(kind: str, size: int, per_class: int | None, seed: int) -> NDArray[np.int64]:
    if per_class is None or size <= per_class:
        return np.arange(size)
    random = np.random.default_rng((seed, zlib.crc32(kind.encode())))
    return np.sort(random.choice(size, per_class, replace=False))


def _from_arrays(layout: Layout, root: Path, wanted: list[str] | None, per_class: int | None, seed: int) -> "ImageSet":
    from .images import ImageSet

    files = {Path(path).stem: root / path for path in matching(layout, root)}
    if not files:
        raise DataError(_missing(layout, root, layout.glob))
    kinds = sorted(_kept(files, wanted, layout))
    parts, labels, ids = [], [], []
    for label, kind in enumerate(kinds):
        try:
            held = np.load(files[kind], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"cannot read {files[kind]} ({error}): get it again") from error
        if held.ndim != 2 or held.shape[1] != layout.side**2 or held.dtype != np.uint8:
            raise DataError(
                f"{files[kind]} holds {held.dtype} of shape {held.shape}: it must be uint8 (drawings, {layout.side**2})"
            )
        rows = _drawn(kind, len(held), per_class, seed)
        parts.append(np.asarray(held[rows]))
        labels += [label] * len(rows)
        ids += [f"{kind}/{row}" for row in rows.tolist()]
    images = np.concatenate(parts).reshape(-1, layout.side, layout.side)
    return ImageSet(images=images, labels=np.array(labels, dtype=np.int64), classes=tuple(kinds), ids=tuple(ids))


def _cut(found: Sequence[Found], border: int, folder: Path) -> tuple[list[Found], list[str]]:
    """Write each picture's part into the folder, and return the images as files of it."""
    from PIL import Image

    from .images import decoded

    # Boxes of one picture come together, so that it is decoded once.
    picture = lru_cache(maxsize=1)(decoded)
    kept: dict[int, Found] = {}
    skipped = []
    with progress("cutting out pictures", len(found)) as advance, writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for index, each in sorted(enumerate(found), key=lambda entry: str(entry[1].path)):
            target = folder / (re.sub(r"[^\w.-]", "_", each.id) + f"-{zlib.crc32(each.id.encode()):08x}.png")
            advance(1)
            if not target.is_file():
                try:
                    part = _part(picture(each.path), each.box, border)
                except Exception as error:  # whatever a decoder meets in damaged bytes
                    skipped.append(f"{each.id}: {(str(error).splitlines() or [type(error).__name__])[0]}")
                    continue
                temporary = target.with_suffix(".tmp")
                Image.fromarray(part).save(temporary, format="PNG")
                temporary.replace(target)
            kept[index] = replace(each, path=target)
    return [kept[index] for index in sorted(kept)], skipped


def _part(pixels: NDArray[np.uint8], box: Box | None, border: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    left, top, right, bottom = box or (0, 0, width, height)
    left, top = max(left, border), max(top, border)
    right, bottom = min(right, width - border), min(bottom, height - border)
    if right <= left or bottom <= top:
        raise ValueError(f"its box {box} lies outside of {width} x {height} pixels")
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def _image_set(found: Sequence[Found], names: Sequence[str], skipped: Sequence[str]) -> "ImageSet":
    from .images import from_files

    marks = np.array([each.marks for each in found], dtype=bool).reshape(len(found), len(names))
    return from_files(
        [each.path for each in found],
        [each.kind for each in found],
        [each.id for each in found],
        {name: marks[:, column] for column, name in enumerate(names)},
        skipped,
    )
