"""Pictures with captions, from the layouts that such data is kept in: tables, text files beside pictures, COCO's."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError
from pellucid.core.pictures import SUFFIXES

TABLES = ("captions.jsonl", "metadata.jsonl", "captions.csv", "annotations.parquet", "annotations.csv")
_IMAGE, _CAPTION = ("image", "file", "file_name", "picture"), ("caption", "text", "prompt")


@dataclass(frozen=True)
class CaptionedImage:
    """A picture and what is said of it.

    Attributes:
        image: path of the file.
        caption: one text; a picture with several captions stands several times.
        id: tells it from others; by default its place in the data.
    """

    image: str
    caption: str
    id: str


def read_captions(path: str | Path, images: str | Path | None = None) -> list[CaptionedImage]:
    """Read captioned pictures in their order.

    Args:
        path: a folder with `captions.jsonl`, `metadata.jsonl` (of Hugging Face's image folders), `captions.csv`,
            `annotations.parquet` or `annotations.csv`, or with pictures that have a text file of the same name beside
            them (as img2dataset writes CC-3M); or one such table; or a captions file of COCO (`captions_*.json`).
            Tables have a column `image` (or `file`, `file_name`, `picture`), a column `caption` (or `text`, `prompt`),
            and perhaps `id`.
        images: the folder that pictures' names start from; by default the table's, and for COCO's
            `annotations/captions_train2017.json` the folder `train2017` where COCO has it.

    Raises:
        DataError: there is nothing of the kind, a record is malformed, or a picture is not there.
    """
    place = Path(path)
    if place.is_dir():
        table = next((place / name for name in TABLES if (place / name).is_file()), None)
        found = _beside(Path(images or place)) if table is None else _from_table(table, Path(images or place))
    elif not place.is_file():
        raise DataError(f"there is no {path}: give a folder or a table of captioned pictures")
    elif place.suffix == ".json":
        found = _coco(place, None if images is None else Path(images))
    else:
        found = _from_table(place, Path(images or place.parent))
    if not found:
        raise DataError(f"{path} has no captioned pictures: it needs one of {', '.join(TABLES)}, or .txt files")
    absent = [item.image for item in found if not Path(item.image).is_file()]
    if absent:
        raise DataError(f"{path} names {absent[0]} ({len(absent)} of {len(found)} missing): put it there")
    return found


def one_caption_each(captioned: Iterable[CaptionedImage]) -> list[CaptionedImage]:
    """The first caption of every picture, as the thesis takes 118 thousand pairs from COCO's 592 thousand captions."""
    found: dict[str, CaptionedImage] = {}
    for item in captioned:
        found.setdefault(item.image, item)
    return list(found.values())


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): get the file again") from error


def read_table(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of a `.jsonl`, `.csv` or `.parquet` table, each with its place ("FILE, row 3").

    Raises:
        DataError: it cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            rows = parquet.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        else:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            rows = [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as {path.suffix.removeprefix('.')} ({error}): mend the file") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: {type(row).__name__} where an object is wanted: give one a line")
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows, 1)]


def text_of(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    """The first of some fields that a row has, checked to be a text.

    Raises:
        DataError: it has none, or that is no text or empty.
    """
    name = next((name for name in names if name in row), None)
    if name is None:
        raise DataError(f"{where}: there is no field {names[0]!r}: it has {', '.join(map(str, row))}")
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: the field {name!r} is {value!r}: a text is wanted")
    return value


def _from_table(path: Path, images: Path) -> list[CaptionedImage]:
    found = []
    for number, (where, row) in enumerate(read_table(path)):
        image, caption = text_of(row, _IMAGE, where), text_of(row, _CAPTION, where)
        found.append(CaptionedImage(str(images / image), caption, str(row.get("id") or number)))
    return found


def _beside(folder: Path) -> list[CaptionedImage]:
    """Pictures with a text file of the same name beside them."""
    return [
        CaptionedImage(str(picture), text, str(picture.relative_to(folder).with_suffix("")))
        for picture, text in _with_texts(folder)
    ]


def _with_texts(folder: Path) -> Iterator[tuple[Path, str]]:
    for picture in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        said = picture.with_suffix(".txt")
        if said.is_file() and (text := said.read_text(encoding="utf-8-sig").strip()):
            yield picture, text


def _coco(path: Path, images: Path | None) -> list[CaptionedImage]:
    """COCO's captions: `images` with `id` and `file_name`, `annotations` with `image_id` and `caption`."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise DataError(f"{path} is no captions file of COCO: it needs `images` and `annotations`")
    if images is None:
        usual = path.parent.parent / path.stem.removeprefix("captions_")
        images = usual if usual.is_dir() else path.parent
    try:
        files = {entry["id"]: entry["file_name"] for entry in content["images"]}
        return [
            CaptionedImage(str(images / files[entry["image_id"]]), str(entry["caption"]).strip(), str(entry["id"]))
            for entry in content["annotations"]
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no captions file of COCO ({error} is missing or wrong): get it again") from error
