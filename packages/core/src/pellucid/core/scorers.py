"""Scorers: how well pictures fit captions, by CLIP-Score or by whatever an installed package offers."""

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .clips import Clip, clip_scores, load_clip
from .errors import DataError, ModelError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

Pictures: TypeAlias = NDArray[np.uint8]
"""(n, height, width, 3), from 0 to 255."""

Scorer: TypeAlias = Callable[[Pictures, Sequence[str]], NDArray[np.float64]]
"""From pictures and one caption for each to one score for each, higher where the picture fits better."""

GROUP = "pellucid.scorers"


def load_scorer(name: str, device: str = "cpu") -> Scorer:
    """Return a scorer by its name.

    Args:
        name: `clip:MODEL` for the CLIP-Score of whatever `load_clip` loads; or `NAME` or `NAME:REST` as an installed
            package offers it by an entry point in the group `pellucid.scorers`: a function from REST (empty where
            there is none) to a scorer.
        device: where CLIP runs; a package's own scorer chooses for itself.

    Raises:
        OptionError: nothing installed offers the name, or `clip:` names no model.
        ModelError: the model or the package cannot be loaded.
    """
    kind, _, rest = name.partition(":")
    if kind == "clip":
        if not rest:
            raise OptionError(f"the scorer {name!r} names no model: write clip:MODEL, such as clip:FOLDER")
        return clip_scorer(load_clip(rest, device))
    offered = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if kind not in offered:
        known = ", ".join(["clip:MODEL", *sorted(offered)])
        raise OptionError(f"nothing installed offers the scorer {name!r}: choose from {known}")
    try:
        make = offered[kind].load()
    except ImportError as error:
        raise ModelError(
            f"the package behind the scorer {kind!r} cannot be imported ({error}): reinstall it"
        ) from error
    scorer: Scorer = make(rest)
    return scorer


def clip_scorer(clip: Clip) -> Scorer:
    """Return the CLIP-Score: the cosine of a picture's and its caption's embeddings.

    It is not scaled (CLIP-Score's authors multiply by 2.5 and cut at 0), as in the thesis (section 5.2.5), whose
    values lie between 0.2 and 0.3. Captions longer than the model reads are cut.

    Args:
        clip: from `load_clip`.
    """

    def score(pictures: Pictures, captions: Sequence[str]) -> NDArray[np.float64]:
        check_pictures(pictures, captions)
        return clip_scores(clip, images_of(pictures), [[caption] for caption in captions]).reshape(-1)

    return score


def check_pictures(pictures: Pictures, texts: Sequence[object] | None = None) -> None:
    """Check that pictures are what a scorer takes, with a text (or a list of texts) for each.

    Raises:
        DataError: they are not (n, h, w, 3) bytes, or texts are of another number.
    """
    if not isinstance(pictures, np.ndarray) or pictures.dtype != np.uint8 or pictures.shape[3:] != (3,):
        found = f"{pictures.dtype} of shape {pictures.shape}" if isinstance(pictures, np.ndarray) else type(pictures)
        raise DataError(f"pictures are {found}: give uint8 of shape (n, height, width, 3)")
    if texts is not None and (isinstance(texts, str) or len(texts) != len(pictures)):
        count = "one text" if isinstance(texts, str) else len(texts)
        raise DataError(f"there are {len(pictures)} pictures and {count} for texts: give one a picture")


def images_of(pictures: Pictures) -> "list[Image]":
    """The pictures as Pillow's, in RGB."""
    from PIL import Image

    return [Image.fromarray(picture) for picture in pictures]
