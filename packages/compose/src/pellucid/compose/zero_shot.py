"""Zero-shot classification by a CLIP: does fine-tuning keep it (fig. 9.2)?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.clips import Clip, embed_images, embed_texts
from pellucid.core.errors import DataError, OptionError
from pellucid.core.pictures import SUFFIXES, open_picture
from pellucid.core.progress import progress
from pellucid.core.statistics import Estimate, bootstrap_mean
from torch import Tensor
from torch.nn.functional import normalize

from .captioned import read_json, read_table, text_of

TEMPLATE = "a photo of a {}."
NAMES = "classes.json"
_TABLES = ("annotations.parquet", "annotations.csv", "labels.csv")
_BLOCK = 256  # pictures held at once


@dataclass(frozen=True)
class LabelledImages:
    """Pictures with their classes.

    Attributes:
        images: paths of the files.
        labels: (n,) each picture's class.
        classes: the classes' names, as they go into a prompt.
    """

    images: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ZeroShot:
    """What a CLIP makes of labelled pictures.

    Attributes:
        accuracy: share named right, with its bootstrap interval.
        predictions: (n,) the class that was named.
    """

    accuracy: Estimate
    predictions: NDArray[np.int64]


def read_labelled(folder: str | Path, column: str = "label") -> LabelledImages:
    """Read a folder with a folder for each class (as ImageNet's validation set), or with a table of labels.

    Args:
        folder: of the pictures. A class is called as its folder, with blanks for underscores, or as `classes.json`
            (folder to name) says. A table is `annotations.parquet`, `annotations.csv` or `labels.csv` with a column
            `file`.
        column: of the table that names the class.

    Raises:
        DataError: there are no pictures, fewer than two classes, or a table is malformed.
    """
    place = Path(folder)
    if not place.is_dir():
        raise DataError(f"{folder} is no folder: give one with a folder for each class, or with a table of labels")
    table = next((place / name for name in _TABLES if (place / name).is_file()), None)
    if table is not None:
        rows = [(text_of(row, ("file", "image"), where), text_of(row, (column,), where)) for where, row in
                read_table(table)]  # fmt: skip
        found = [(str(place / file), name) for file, name in rows]
    else:
        paths = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        found = [(str(path), path.relative_to(place).parts[0]) for path in paths if path.parent != place]
    kinds = sorted({kind for _, kind in found})
    if len(kinds) < 2:
        raise DataError(f"{folder} has {len(kinds)} classes: it needs pictures of two or more")
    if absent := [path for path, _ in found if not Path(path).is_file()]:
        raise DataError(f"{table} names {absent[0]} ({len(absent)} such), which is not there: put it there")
    names: Mapping[str, str] = read_json(place / NAMES) if (place / NAMES).is_file() else {}
    labels = np.array([kinds.index(kind) for _, kind in found])
    classes = tuple(str(names.get(kind, kind.replace("_", " "))) for kind in kinds)
    return LabelledImages(tuple(path for path, _ in found), labels, classes)


def class_embeddings(clip: Clip, classes: Sequence[str], templates: Sequence[str] = (TEMPLATE,)) -> Tensor:
    """One unit embedding a class, (classes, width) float64: the normalised mean of its prompts' unit embeddings.

    Raises:
        OptionError: a template has no place for the class's name.
    """
    if not templates or any("{}" not in template for template in templates):
        raise OptionError(f"templates {list(templates)!r}: each must have {{}} where the class's name goes")
    prompts = [template.format(name) for name in classes for template in templates]
    return normalize(embed_texts(clip, prompts).reshape(len(classes), len(templates), -1).mean(1), dim=1)


def zero_shot(
    clip: Clip, data: LabelledImages, templates: Sequence[str] = (TEMPLATE,), *, seed: int = 0, draws: int = 2000
) -> ZeroShot:
    """Name each picture's class: the one whose embedding is nearest.

    Args:
        clip: the model.
        data: from `read_labelled`.
        templates: of the prompts, with `{}` for the class.
        seed: of the interval's resamples.
        draws: how many resamples.
    """
    targets, found = class_embeddings(clip, data.classes, templates), []
    with progress("Zero-shot", len(data.images)) as advance:
        for start in range(0, len(data.images), _BLOCK):
            some = data.images[start : start + _BLOCK]
            seen = embed_images(clip, [open_picture(path) for path in some])
            found.append((seen @ targets.T).argmax(1))
            advance(len(some))
    predictions = torch.cat(found).numpy()
    return ZeroShot(bootstrap_mean((predictions == data.labels).astype(float), seed, draws), predictions)
