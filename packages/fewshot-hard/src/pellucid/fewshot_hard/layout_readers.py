"""How images, classes and boxes are found in a local copy of a data set: by file names or by lists."""

import glob
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Layout:
    """Where a data set's published structure keeps images and classes; read from a small TOML file.

    Attributes:
        name: of the data set, which is the TOML file's.
        title: how people call it.
        documentation: address of the page that describes the data set and how to get it.
        kind: of reading: files (names say all), table (lines of text), npy (an array a class), coco, or mat.
        needs: files and folders below the root without which it is not this data set.
        glob: files and npy: which files are looked at, relative to the root.
        match: files: a regular expression of a file's relative path, whose groups `class` and annotations may use.
        class_name: `class` in the TOML file: how a class is called, from groups (files) or a category (coco).
        names: files: a JSON file that maps the classes to their names.
        tables: table, coco and mat: the lists.
        image: table, coco and mat: where an image lies, from the fields of its entry.
        boxes: table: lines "id xmin ymin xmax ymax", pixels counted from 1, ends included.
        box_scale: coco: cut images to annotated boxes, made so many times as wide and high; 0: whole images.
        border: pixels to cut off on every side.
        side: npy: width and height of the square pictures.
        variable: mat: the name of the array of classes.
        annotations: files: by name, the values that groups must have (any of a list, in every group).
        frames: files: JSON files of one entry an image: `folder`, `file` (from groups) and `names` of true or false.
        tasks: the sampler that suits: meta-dataset (variable ways and shots) or fixed.
        within: as in `sample_tasks`.
        split: the file of Meta-Dataset's class splits that belongs to it (see `read_dataset`).
    """

    name: str
    title: str
    documentation: str
    kind: str
    needs: tuple[str, ...]
    tasks: str
    glob: str = ""
    match: str = ""
    class_name: str = ""
    names: str = ""
    tables: tuple[str, ...] = ()
    image: str = ""
    boxes: str = ""
    box_scale: float = 0.0
    border: int = 0
    side: int = 0
    variable: str = ""
    annotations: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)
    frames: Mapping[str, Any] = field(default_factory=dict)
    within: str | None = None
    split: str = ""

    @property
    def cuts(self) -> bool:
        """Whether images must be cut out of the published ones."""
        return bool(self.boxes or self.box_scale or self.border)


@dataclass(frozen=True)
class Found:
    """An image of a data set, not yet opened.

    Attributes:
        path: of its file.
        kind: its class, by name.
        id: a name that no other image has.
        box: left, top, right and bottom to cut out; None for the whole image.
        marks: its annotations, in the order of `mark_names`.
    """

    path: Path
    kind: str
    id: str
    box: Box | None = None
    marks: tuple[bool, ...] = ()


def mark_names(layout: Layout, root: Path) -> tuple[str, ...]:
    """Return the names of the annotations that the local copy has."""
    frames = layout.frames["names"] if layout.frames and (root / layout.frames["folder"]).is_dir() else ()
    return (*layout.annotations, *frames)


def find(layout: Layout, root: Path) -> tuple[list[Found], list[str]]:
    """Return the images that the data set lists, and those that cannot be used with the reason.

    Raises:
        DataError: a list cannot be read.
    """
    readers: dict[str, Callable[[Layout, Path], Iterator[Found | str]]] = {
        "files": _files,
        "table": _table,
        "coco": _coco,
        "mat": _mat,
    }
    entries = list(readers[layout.kind](layout, root))
    found = [entry for entry in entries if isinstance(entry, Found)]
    return found, [entry for entry in entries if isinstance(entry, str)]


def matching(layout: Layout, root: Path) -> list[str]:
    """Return the files that the layout's pattern gives, relative to the root, sorted; hidden ones are left out."""
    return sorted(path.replace("\\", "/") for path in glob.iglob(layout.glob, root_dir=root, recursive=True))


def _files(layout: Layout, root: Path) -> Iterator[Found | str]:
    pattern = re.compile(layout.match)
    names = _json(root / layout.names) if layout.names else {}
    frames = _Frames(layout, root) if mark_names(layout, root)[len(layout.annotations) :] else None
    for path in matching(layout, root):
        groups = pattern.fullmatch(path)
        if groups is None:
            yield f"{path}: its name is not of the data set's form"
            continue
        fields = groups.groupdict()
        kind = layout.class_name.format(**fields)
        marks = tuple(
            all(fields[group] in values for group, values in wanted.items()) for wanted in layout.annotations.values()
        )
        if frames:
            seen = frames.marks(path, fields)
            if seen is None:
                yield f"{path}: it is not annotated"
                continue
            marks += seen
        yield Found(root / path, str(names.get(kind, kind)), path, None, marks)


class _Frames:
    """Annotations of frames, read one file of a video at a time: files come sorted, so that each is read once."""

    def __init__(self, layout: Layout, root: Path) -> None:
        self.folder, self.form, self.names = (
            root / layout.frames["folder"],
            layout.frames["file"],
            layout.frames["names"],
        )
        self.path, self.held = Path(), dict[str, Any]()

    def marks(self, path: str, fields: Mapping[str, str]) -> tuple[bool, ...] | None:
        file = self.folder / self.form.format(**fields)
        if file != self.path:
            self.path, self.held = file, _json(file) if file.is_file() else {}
        entry = self.held.get(Path(path).name)
        return None if entry is None else tuple(bool(entry.get(name)) for name in self.names)


def _table(layout: Layout, root: Path) -> Iterator[Found | str]:
    boxes = {}
    if layout.boxes:
        for line in _lines(root / layout.boxes):
            name, *edges = line.split()
            try:
                left, top, right, bottom = (int(edge) for edge in edges)
            except ValueError as error:
                raise DataError(
                    f"{root / layout.boxes} has the line {line!r}: it must be an id and four edges"
                ) from error
            boxes[name] = (left - 1, top - 1, right, bottom)
    for table in layout.tables:
        for line in _lines(root / table):
            name, _, kind = line.partition(" ")
            relative = layout.image.format(id=name)
            if layout.boxes and name not in boxes:
                yield f"{relative}: it has no box in {layout.boxes}"
            else:
                yield _listed(root, relative, kind, relative, boxes.get(name))


def _coco(layout: Layout, root: Path) -> Iterator[Found | str]:
    for table in layout.tables:
        listed = _json(root / table)
        try:
            files = {image["id"]: image["file_name"] for image in listed["images"]}
            kinds = {each["id"]: layout.class_name.format(**each) for each in listed["categories"]}
            for each in listed["annotations"]:
                relative = layout.image.format(file_name=files[each["image_id"]])
                kind = kinds[each["category_id"]]
                if not layout.box_scale:
                    yield _listed(root, relative, kind, relative, None)
                    continue
                box = _scaled(each["bbox"], layout.box_scale)
                yield _listed(root, relative, kind, f"{relative}#{each['id']}", box)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{root / table} is not of COCO's form ({error!r}): get it again") from error


def _scaled(box: list[float], scale: float) -> Box:
    x, y, width, height = box
    more = (scale - 1) / 2
    return (
        math.floor(x - more * width),
        math.floor(y - more * height),
        math.ceil(x + (1 + more) * width),
        math.ceil(y + (1 + more) * height),
    )


def _mat(layout: Layout, root: Path) -> Iterator[Found | str]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    for table in layout.tables:
        try:
            # Only numbers are wanted; loadmat reads data and runs nothing.
            numbers = loadmat(root / table, variable_names=[layout.variable])[layout.variable].ravel().astype(int)
        except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MatReadError) as error:
            raise DataError(f"{root / table} has no array {layout.variable!r} of classes: get it again") from error
        for place, number in enumerate(numbers.tolist(), start=1):
            relative = layout.image.format(number=place)
            yield _listed(root, relative, str(number), relative, None)


def _listed(root: Path, relative: str, kind: str, name: str, box: Box | None) -> Found | str:
    path = root / relative
    return Found(path, kind, name, box) if path.is_file() else f"{relative}: it is listed and not there"


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}): get it again") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as JSON ({error}): get it again") from error
