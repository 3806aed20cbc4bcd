"""Image-text matching benchmarks as one kind of record: Winoground, ARO, and one's own (CLEVR's, Tinyworld's)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import DataError
from pellucid.core.outfolder import write_file
from pellucid.core.pictures import open_picture

from .captioned import read_json, read_table, text_of

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]
_TAGS = {"Object": "object", "Relation": "relation", "Both": "both"}
_SUFFIXES = ("", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Shown:
    """A picture of a record.

    Attributes:
        path: of the file.
        box: (left, top, right, bottom) in pixels that is cut out of it; None shows all.
    """

    path: str
    box: Box | None = None

    def open(self) -> "Image":
        """Read the picture, cut.

        Raises:
            DataError: it cannot be read, or the box is empty.
        """
        picture = open_picture(self.path)
        if self.box is None:
            return picture
        if self.box[0] >= self.box[2] or self.box[1] >= self.box[3]:
            raise DataError(f"the box {self.box} in {self.path} is empty: mend or remove its record")
        return picture.crop(self.box)


@dataclass(frozen=True)
class MatchingCase:
    """Pictures and captions to be matched.

    Attributes:
        id: tells the record from others.
        images: two, of which the first goes with the first caption and the second with the second; or one, which goes
            with the first caption.
        captions: two with two pictures, else two or more.
        tags: what kind of record it is, such as "relation", "1 main predicate".

    Raises:
        DataError: the numbers do not fit.
    """

    id: str
    images: tuple[Shown, ...]
    captions: tuple[str, ...]
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pair = len(self.images) == 2 and len(self.captions) == 2
        if not pair and (len(self.images) != 1 or len(self.captions) < 2):
            raise DataError(
                f"the record {self.id} has {len(self.images)} pictures and {len(self.captions)} captions: give two of "
                "both, or one picture with two or more captions"
            )


def read_winoground(folder: str | Path) -> list[MatchingCase]:
    """Read a local copy of Winoground: `examples.jsonl` and the unpacked `images` beside it, or both in `data`.

    A record's tags are "object", "relation" or "both" (its `collapsed_tag`), and "1 main predicate" or "2 main
    predicates".

    Raises:
        DataError: files are missing or malformed.
    """
    place = Path(folder)
    place = place / "data" if (place / "data" / "examples.jsonl").is_file() else place
    path = place / "examples.jsonl"
    found: list[MatchingCase] = []
    for where, row in read_table(path):
        images = tuple(_picture(place / "images", text_of(row, (f"image_{side}",), where), where) for side in (0, 1))
        captions = tuple(text_of(row, (f"caption_{side}",), where) for side in (0, 1))
        tags = [_TAGS.get(str(row.get("collapsed_tag")), str(row.get("collapsed_tag", "")).lower())]
        if (count := row.get("num_main_preds")) is not None:
            tags.append(f"{count} main predicate{'s' if count != 1 else ''}")
        found.append(MatchingCase(str(row.get("id", len(found))), images, captions, tuple(tag for tag in tags if tag)))
    return _some(found, path)


def read_aro(path: str | Path, images: str | Path | None = None) -> list[MatchingCase]:
    """Read ARO's `visual_genome_relation.json` or `visual_genome_attribution.json`.

    Pictures are cut to the box that holds the relation's or the attributes' things. A record's tag is its relation's
    name, or its two attributes.

    Args:
        path: of the file.
        images: the folder of Visual Genome's pictures; by default `images` beside the file.

    Raises:
        DataError: files are missing or malformed.
    """
    file = Path(path)
    found: list[MatchingCase] = []
    folder = Path(images) if images is not None else file.parent / "images"
    for where, row in _records(file):
        captions = tuple(text_of(row, (name,), where) for name in ("true_caption", "false_caption"))
        left, top, width, height = (_number(row, f"bbox_{side}", where) for side in "xywh")
        shown = _picture(folder, text_of(row, ("image_path",), where), where)
        shown = Shown(shown.path, (left, top, left + width, top + height))
        kind = row.get("relation_name") or "_".join(map(str, row.get("attributes", ())))
        found.append(MatchingCase(str(len(found)), (shown,), captions, (kind,) if kind else ()))
    return _some(found, file)


def read_cases(path: str | Path) -> list[MatchingCase]:
    """Read records of one's own, such as CLEVR's or Tinyworld's: JSON Lines with `images`, `captions` and `tags`.

    A line is `{"id": ..., "images": ["a.png", "b.png"], "captions": [..., ...], "tags": ["colour"]}`; pictures' names
    start from the file's folder. The first picture goes with the first caption, a second one with the second.

    Raises:
        DataError: the file or a picture is missing, or a line is malformed.
    """
    file = Path(path)
    found: list[MatchingCase] = []
    for where, row in read_table(file):
        lists = {name: row.get(name, []) for name in ("images", "captions", "tags")}
        for name, value in lists.items():
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise DataError(f"{where}: the field {name!r} is {value!r}: a list of texts is wanted")
        images = tuple(_picture(file.parent, name, where) for name in lists["images"])
        name = str(row.get("id", len(found)))
        found.append(MatchingCase(name, images, tuple(lists["captions"]), tuple(lists["tags"])))
    return _some(found, file)


def write_cases(path: str | Path, cases: Sequence[MatchingCase]) -> None:
    """Write records as `read_cases` reads them; pictures must lie in the file's folder or below, and be whole.

    Raises:
        DataError: a picture lies elsewhere or is cut, or the file cannot be written.
    """
    file, lines = Path(path), []
    for case in cases:
        for shown in case.images:
            if shown.box is not None or not Path(shown.path).resolve().is_relative_to(file.parent.resolve()):
                raise DataError(f"{shown.path} is cut, or not below {file.parent}: put a whole picture there")
        names = [Path(shown.path).resolve().relative_to(file.parent.resolve()).as_posix() for shown in case.images]
        row = {"id": case.id, "images": names, "captions": list(case.captions), "tags": list(case.tags)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_file(file, "".join(lines).encode())


def _records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is no list of records: give ARO's own file")
    return [(f"{path}, record {number}", row) for number, row in enumerate(rows, 1)]


def _picture(folder: Path, name: str, where: str) -> Shown:
    for suffix in _SUFFIXES:  # Winoground names its pictures without one
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return Shown(str(path))
    raise DataError(f"{where}: there is no picture {folder / name}: put it there")


def _number(row: dict[str, Any], name: str, where: str) -> int:
    value = row.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DataError(f"{where}: the field {name!r} is {value!r}: a number of pixels is wanted")
    return int(value)


def _some(found: list[MatchingCase], path: Path) -> list[MatchingCase]:
    if not found:
        raise DataError(f"{path} holds no records: get the file again")
    return found
