"""Folders of pictures, with annotations where there are some."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pellucid.core.errors import DataError
from pellucid.core.pictures import SUFFIXES

from .layouts import WATERBIRDS, synset_names, waterbirds_rows

ANNOTATIONS = ("annotations.parquet", "annotations.csv")


@dataclass(frozen=True)
class Pictures:
    """Picture files in an order.

    Attributes:
        paths: of the files.
        ids: their names below the folder.
        labels: for each annotation one value a picture.
    """

    paths: tuple[Path, ...]
    ids: tuple[str, ...]
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def some(self, places: Iterable[int]) -> "Pictures":
        """Those at some places, in their order."""
        chosen = [int(place) for place in places]
        return Pictures(
            tuple(self.paths[place] for place in chosen),
            tuple(self.ids[place] for place in chosen),
            {name: tuple(values[place] for place in chosen) for name, values in self.labels.items()},
        )


def read_pictures(folder: Path, split: str | None = None) -> Pictures:
    """List a folder's pictures.

    Args:
        folder: with `annotations.parquet` or `annotations.csv` (a column `file`, others are annotations, as
            `pellucid zoo dataset` writes them); with Waterbirds' `metadata.csv`; or with pictures in it and in its
            folders: a picture's folder is then its `label` (ImageNet's synsets get their names as `name`).
        split: of annotations that have a column `split`, only these rows.

    Raises:
        DataError: there is no picture, an annotation lacks its file, or the table cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give one with pictures in it")
    table = next((folder / name for name in (*ANNOTATIONS, WATERBIRDS) if (folder / name).is_file()), None)
    if table is not None and table.name == WATERBIRDS:
        rows = waterbirds_rows(table)
    else:
        rows = _listed(folder) if table is None else _rows(table)
    if split is not None:
        rows = [row for row in rows if row.get("split") == split]
    if not rows:
        which = f" of the split {split!r}" if split else ""
        raise DataError(f"{folder} has no pictures{which}: give a folder with {', '.join(SUFFIXES)}")
    missing = [row["file"] for row in rows if not (folder / row["file"]).is_file()]
    if missing:
        raise DataError(f"{table or folder} names {missing[0]} ({len(missing)} such), which is not there: put it there")
    names = [name for name in rows[0] if name != "file"]
    labels = {name: tuple(row.get(name, "") for row in rows) for name in names}
    return Pictures(tuple(folder / row["file"] for row in rows), tuple(row["file"] for row in rows), labels)


def _listed(folder: Path) -> list[dict[str, str]]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    names = synset_names(folder)
    rows = []
    for path in files:
        label = path.parent.name if path.parent != folder else ""
        named = {"name": names.get(label, label)} if names else {}
        rows.append({"file": str(path.relative_to(folder)), "label": label, **named})
    return rows


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        if table.suffix == ".parquet":
            from pyarrow import parquet

            found = parquet.read_table(table).to_pylist()
        else:
            with table.open(newline="", encoding="utf-8") as file:
                found = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{table} cannot be read ({type(error).__name__}): write it again") from error
    if found and "file" not in found[0]:
        raise DataError(f"{table} has no column `file`: it has {', '.join(found[0])}")
    return [{name: str(value) for name, value in row.items()} for row in found]
