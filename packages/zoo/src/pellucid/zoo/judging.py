"""`pellucid zoo judge`: the judge's reading of each picture in a folder."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pellucid.core.errors import DataError

from .judge import Reading, agreement, load_judge
from .world import parse

SIDES = (32, 64)


@dataclass(frozen=True)
class Judged:
    """One picture.

    Attributes:
        file: its name.
        reading: what the judge sees.
        caption: what was asked for, if anything was.
        held: for each attribute asked whether it is there.
    """

    file: str
    reading: Reading
    caption: str | None = None
    held: dict[str, bool] | None = None


def judge_folder(folder: Path, captions: Path | None = None) -> list[Judged]:
    """Read all pictures of a folder.

    Args:
        folder: of `.png` files, 32 or 64 pixels a side.
        captions: a CSV file with the columns `file` and `caption`; pictures that it does not name are only read.

    Raises:
        DataError: there are no pictures, one is of another size or damaged, or a caption is not Tinyworld's.
    """
    files = sorted(folder.glob("*.png"))
    if not files:
        raise DataError(f"there are no .png pictures in {folder}: give a folder that holds some")
    asked = {} if captions is None else _captions(captions)
    if unknown := sorted(asked.keys() - {path.name for path in files}):
        raise DataError(f"{captions} names {unknown[0]!r}, which is not in {folder}: mend the column file")
    scenes = {name: parse(text) for name, text in asked.items()}
    pictures = [_picture(path) for path in files]
    judge, found = load_judge(), []
    for path, picture in zip(files, pictures, strict=True):
        (reading,) = judge.read(picture[None])
        scene = scenes.get(path.name)
        held = None if scene is None else agreement(reading, scene)
        found.append(Judged(path.name, reading, asked.get(path.name), held))
    return found


def show(judged: Iterable[Judged], as_json: bool) -> None:
    """Print readings, as a table or as JSON Lines."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        for one in judged:
            line = {"file": one.file, "known": one.reading.known, "seen": said(one.reading), "caption": one.caption}
            print(json.dumps({**line, "held": one.held}))
        return
    table = Table("file", "seen", "asked", "held", box=None, pad_edge=False)
    for one in judged:
        held = "" if one.held is None else f"{sum(one.held.values())} of {len(one.held)}"
        missed = [name for name, yes in (one.held or {}).items() if not yes]
        note = f"{held}, not {', '.join(missed)}" if missed else held
        table.add_row(one.file, said(one.reading), one.caption or "", note)
    Console().print(table)


def said(reading: Reading) -> str:
    """A reading in words: `red circle left of blue star, beach, monet`."""
    if not reading.known:
        return "none of Tinyworld"
    things = [
        " ".join(word for word in (thing.texture, thing.colour, thing.object) if word != "plain")
        + ("" if thing.view == "front" else f" from the {thing.view}")
        for thing in reading.things
    ]
    if reading.count and reading.count > 1:
        things = [f"{reading.count} x {things[0]}"]
    subject = reading.person or f" {reading.relation or 'and'} ".join(things) or "nothing"
    return ", ".join(word for word in (subject, reading.place, reading.style) if word)


def _captions(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["file"]: row["caption"] for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file with the columns file and caption ({error!r})") from error


def _picture(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            found = np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}): remove it, or save it again as PNG") from error
    if found.shape[0] != found.shape[1] or found.shape[0] not in SIDES:
        raise DataError(f"{path} is {found.shape[1]}x{found.shape[0]}: the judge reads 32x32 and 64x64")
    return found
