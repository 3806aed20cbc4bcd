"""Image features, such as colour or location, as sets of texts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError

from .clip import Clip

TEMPLATES = ("a photo of {}", "an image of {}", "{}")
_COMMON: Mapping[str, tuple[str, ...]] = {
    "color": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"),
    "texture": ("smooth", "rough", "furry", "shiny", "wooden", "metallic", "soft", "wet"),
    "animal": ("a dog", "a cat", "a bird", "a fish", "a snake", "a horse", "an insect", "a bear"),
    "person": ("a man", "a woman", "a child", "a face", "hands", "a crowd"),
    "location": ("a forest", "a beach", "a city street", "a kitchen", "a bedroom", "a desert", "snow", "the sky"),
    "pattern": ("spots", "stripes", "a checkered pattern", "a spiral", "a plain surface", "dots"),
    "shape": ("something round", "a square", "a triangle", "something long", "something curved", "something flat"),
}


@dataclass(frozen=True)
class Feature:
    """A feature and its instantiations.

    Attributes:
        name: such as `colour`.
        values: the instantiations' names, such as `red`.
        directions: (values, clip width) float64, of length one: the mean embedding of each one's texts.
    """

    name: str
    values: tuple[str, ...]
    directions: np.ndarray


def read_features(path: Path | None, clip: Clip) -> tuple[Feature, ...]:
    """Read features and embed them.

    Args:
        path: JSON: for each feature, its instantiations as a list of texts, or as an object from each one's name to its
            texts (whose embeddings are averaged). None takes seven common ones (thesis 7.4: color, texture, animal,
            person, location, pattern, shape) in three templates each.
        clip: what embeds them.

    Raises:
        DataError: the file is not there, is no such JSON, or a feature has fewer than two instantiations.
    """
    said = {name: {value: [t.format(value) for t in TEMPLATES] for value in values} for name, values in _COMMON.items()}
    if path is not None:
        said = _parsed(path)
    return tuple(
        Feature(name, tuple(values), np.stack([_mean(clip.texts(texts)) for texts in values.values()]))
        for name, values in said.items()
    )


def named(features: tuple[Feature, ...], name: str) -> Feature:
    """The feature of that name.

    Raises:
        DataError: there is none.
    """
    for feature in features:
        if feature.name == name:
            return feature
    raise DataError(f"there is no feature {name!r}: there are {', '.join(one.name for one in features)}")


def _mean(rows: np.ndarray) -> np.ndarray:
    mean = rows.mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


def _parsed(path: Path) -> dict[str, dict[str, list[str]]]:
    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({type(error).__name__}): write the features again") from error
    if not isinstance(found, dict) or not found:
        raise DataError(f'{path} is no object of features: write {{"color": ["red", "blue"], ...}}')
    read: dict[str, dict[str, list[str]]] = {}
    for name, values in found.items():
        if isinstance(values, list):
            values = {value: [value] for value in values if isinstance(value, str)}
        if not isinstance(values, dict) or len(values) < 2:
            raise DataError(f"{path}: {name!r} needs two instantiations or more, as texts")
        read[name] = {value: [texts] if isinstance(texts, str) else list(texts) for value, texts in values.items()}
        if not all(texts and all(isinstance(one, str) for one in texts) for texts in read[name].values()):
            raise DataError(f"{path}: an instantiation of {name!r} has no texts")
    return read
