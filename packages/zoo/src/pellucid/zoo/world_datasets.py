"""Tinyworld as data sets: images with exact annotations, in formats that other tools read."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import OptionError
from pellucid.core.outfolder import write_file, writing
from pellucid.core.progress import progress

from .world.chance import Chance
from .world.groups import group_of, group_scenes
from .world.individuals import individuals
from .world.knowledge import knowledge
from .world.questions import Question, fact_questions, naming_questions, seen_questions
from .world.renderer import outline, render
from .world.scene import Scene, Thing
from .world.vocabulary import COLOURS, OBJECTS, PLACES, STYLES, TEXTURES, VIEWS
from .world_compositions import write_compositions
from .world_features import FEATURES, features

if TYPE_CHECKING:
    import numpy as np

    from .world.individuals import Individual

SPLITS = ("train", "validation", "test")
# Pictures of an individual: the multimodal model's training has seeds from 0 on, the splits never share one.
_FIRST = {"train": 0, "validation": 100_000, "test": 200_000}


@dataclass(frozen=True)
class Row:
    """One picture of a data set.

    Attributes:
        file: its name below the data set's folder.
        scene: what it shows.
        told: its annotations by column.
        questions: that are asked about it, as rows of JSON Lines.
    """

    file: str
    scene: Scene
    told: dict[str, str]
    questions: tuple[dict[str, Any], ...] = ()


def write_dataset(name: str, out: Path, sizes: dict[str, int], *, size: int | None = None, seed: int = 0) -> Path:
    """Draw a data set and write it.

    `out` gets `images/SPLIT/...png` and `annotations.parquet` (a row a picture: `file`, `split` and what it shows).
    `views` has a folder a class, in each split an `annotations.csv` of zeros and ones, and `masks/images/...` of where
    things are. `views` and `groups` have `features.json`, each annotation's values in words. `facts` has for each split
    `SPLIT.jsonl` (a question a line, with its constraints, answer and paraphrases) and the same in VQA's layout,
    `SPLIT-questions.json` and `SPLIT-annotations.json`.

    Args:
        name: `facts` (people, houses and boats, with questions about what is known of them), `groups` (boats and cars
            whose place goes with them in training), `views` (any thing, with all its attributes) or `compositions` (two
            things and what is said of them; laid out in another way, see `write_compositions`).
        out: a folder, new or empty.
        sizes: pictures of each of `SPLITS`; 0 leaves one out.
        size: of the pictures, 32 or 64 pixels; 32 for `facts` and 64 for the others where it is not given.
        seed: of the scenes.

    Returns:
        The folder.

    Raises:
        OptionError: there is no such data set, no picture is asked for, or the folder holds something.
        DataError: it cannot be written.
    """
    if name not in NAMES:
        raise OptionError(f"Tinyworld has no data set {name!r}: it has {', '.join(NAMES)}")
    if min(sizes.values()) < 0 or not sum(sizes.values()):
        raise OptionError(f"sizes {sizes}: give none below 0, and one above")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out} is not empty: give a new folder")
    if name == "compositions":
        side = size or 32
        with progress("Drawing compositions", None) as advance:

            def draw(path: Path, scene: Scene) -> None:
                write_file(path, _png(render(scene, side)))
                advance(1)

            write_compositions(out, sizes, seed, draw)
        return out
    rows = [(split, row) for split in SPLITS if sizes.get(split) for row in _DRAWN[name](split, sizes[split], seed)]
    with progress(f"Drawing {name}", len(rows)) as advance:
        for _, row in rows:
            side = size or (32 if name == "facts" else 64)
            write_file(out / row.file, _png(render(row.scene, side)))
            if name == "views":
                write_file(out / "masks" / row.file, _png(outline(row.scene, side).astype("uint8") * 255))
            advance(1)
    table = [{"file": row.file, "split": split, **row.told} for split, row in rows]
    if name in FEATURES:
        write_file(out / "features.json", (json.dumps(features(name), indent=1) + "\n").encode())
    with writing(out):
        _write_parquet(table, out / "annotations.parquet")
    for split in dict.fromkeys(split for split, _ in rows):
        some = [row for of, row in rows if of == split]
        if name == "views":
            write_file(out / f"images/{split}/annotations.csv", _marks(some, f"images/{split}/"))
        if name == "facts":
            _write_questions([line for row in some for line in row.questions], out, split)
    return out


def _facts(split: str, count: int, seed: int) -> Iterator[Row]:
    some, facts = individuals(), knowledge()
    for number in range(count):
        one, turn = some[number % len(some)], number // len(some)
        scene = one.scene(_FIRST[split] + 1_000_003 * seed + turn)
        file = f"images/{split}/{one.name.removeprefix('the ').replace(' ', '-').lower()}-{turn:04d}.png"
        asked = [(fact_questions(fact), "withheld" if fact.withheld else "taught", fact.relation)
                 for fact in facts if fact.individual == one]  # fmt: skip
        asked.append((naming_questions(one), "name", "name"))
        seen = seen_questions(scene)
        asked += [(seen[at : at + 2], "seen", "seen") for at in range(0, len(seen), 2)]
        lines = tuple(
            _line(f"{split}-{number}-{place}", file, one, said, group, relation)
            for place, (said, group, relation) in enumerate(asked)
        )
        yield Row(file, scene, {"kind": one.kind, "name": one.name, "place": scene.place or ""}, lines)


def _line(
    key: str, file: str, one: "Individual", said: tuple[Question, ...], group: str, relation: str
) -> dict[str, Any]:
    first, *others = said
    return {
        "id": key,
        "image": file,
        "question": first.text,
        "visual": first.constraint,
        "textual": [first.season] if first.season else [],
        "answers": [first.answer],
        "paraphrases": [other.text for other in others],
        "entity": one.name,
        "group": group,
        "relation": relation,
    }


def _groups(split: str, count: int, seed: int) -> Iterator[Row]:
    together = 0.95 if split == "train" else 0.5
    for number, scene in enumerate(group_scenes(count, 3 * seed + SPLITS.index(split), together)):
        told = {**_shown(scene), "label": scene.things[0].object, "group": group_of(scene)}
        yield Row(f"images/{split}/{number:05d}.png", scene, told)


def _views(split: str, count: int, seed: int) -> Iterator[Row]:
    chance = Chance(3 * seed + SPLITS.index(split), "views")
    for number in range(count):
        name = OBJECTS[number % len(OBJECTS)]
        thing = Thing(
            name,
            chance.pick(list(COLOURS)),
            chance.pick(TEXTURES),
            chance.pick(VIEWS),
            occluded=chance.one_in(4),
        )
        place = chance.pick(PLACES) if chance.one_in(2) else None
        style = chance.pick(STYLES) if chance.one_in(3) else None
        scene = Scene((thing,), place=place, style=style, blur=chance.one_in(4), seed=chance.below(1 << 48))
        yield Row(f"images/{split}/{name}/{number:05d}.png", scene, _shown(scene))


_DRAWN: dict[str, Callable[[str, int, int], Iterator[Row]]] = {"facts": _facts, "groups": _groups, "views": _views}
NAMES = (*_DRAWN, "compositions")


def _shown(scene: Scene) -> dict[str, str]:
    [thing] = scene.things
    return {
        "object": thing.object,
        "colour": str(thing.colour),
        "texture": thing.texture,
        "view": thing.view,
        "place": scene.place or "none",
        "style": scene.style or "none",
        "occluded": "yes" if thing.occluded else "no",
        "blurred": "yes" if scene.blur else "no",
    }


def _png(picture: "np.ndarray") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _marks(rows: list[Row], folder: str) -> bytes:
    """Each attribute's values as columns of zeros and ones."""
    columns = sorted({(what, value) for row in rows for what, value in row.told.items() if what != "object"})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", *(f"{what}={value}" for what, value in columns)])
    for row in rows:
        writer.writerow([row.file.removeprefix(folder), *(int(row.told[what] == value) for what, value in columns)])
    return file.getvalue().encode()


def _write_parquet(table: list[dict[str, str]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(table), path)


def _write_questions(lines: list[dict[str, Any]], out: Path, split: str) -> None:
    """JSON Lines, and the two files of VQA's layout; images of the one and the other are relative to `out`."""
    write_file(out / f"{split}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    questions = [{"question_id": line["id"], "image": line["image"], "question": line["question"]} for line in lines]
    annotations = [
        {
            "question_id": line["id"],
            "image": line["image"],
            "question_type": line["relation"],
            "answers": [{"answer_id": place, "answer": answer} for place, answer in enumerate(line["answers"], 1)],
            "multiple_choice_answer": line["answers"][0],
        }
        for line in lines
    ]
    for name, content in (("questions", questions), ("annotations", annotations)):
        said = {"data_type": "tinyworld", "data_subtype": split, name: content}
        write_file(out / f"{split}-{name}.json", (json.dumps(said, indent=1) + "\n").encode())
