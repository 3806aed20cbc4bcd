"""Models as matchers of pictures with captions, and their scores on a benchmark: text, image and group (9.1)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pellucid.core.clips import Clip, clip_scores
from pellucid.core.errors import DataError
from pellucid.core.progress import progress
from pellucid.core.statistics import Estimate, bootstrap_mean

from .benchmarks import MatchingCase
from .diffusion_score import diffusion_scores

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

Floats = NDArray[np.float64]
Matcher: TypeAlias = Callable[[Sequence["Image"], Sequence[Sequence[str]], Sequence[int]], Floats]
"""From pictures, as many captions for each, and a number for each that tells which are compared with one another, to
(pictures, captions) float64, where more fits better."""

_BLOCK = 64  # records whose pictures are held at once


@dataclass(frozen=True)
class MatchingRow:
    """A model's result on the records of one tag.

    Attributes:
        tag: "all" for all records.
        records: how many.
        text: share of records of which every picture's caption scores above its other captions; the thesis's score.
        image: share of which every caption's picture scores above the other; None where records have one picture.
        group: share of which both hold; None likewise.
    """

    tag: str
    records: int
    text: Estimate
    image: Estimate | None
    group: Estimate | None


def clip_matcher(clip: Clip) -> Matcher:
    """A CLIP, or SDS-CLIP, as a matcher."""
    return lambda images, captions, groups: clip_scores(clip, images, captions)


def diffusion_matcher(
    pipe: "DiffusionPipeline",
    *,
    samples: int = 50,
    seed: int = 0,
    batch: int = 16,
    confidence: float | None = None,
) -> Matcher:
    """A text-to-image model as a matcher: less of the diffusion score fits better. Options as `diffusion_scores`'s."""

    def match(images: Sequence["Image"], captions: Sequence[Sequence[str]], groups: Sequence[int]) -> Floats:
        options = {"samples": samples, "seed": seed, "batch": batch}
        return -diffusion_scores(pipe, images, captions, confidence=confidence, groups=groups, **options).scores

    return match


def score_cases(cases: Sequence[MatchingCase], matcher: Matcher) -> list[Floats]:
    """Score records: for each (pictures, captions) float64, where more fits better."""
    found = []
    with progress("Matching", len(cases)) as advance:
        for some in _blocks(cases):
            pictures = [shown.open() for case in some for shown in case.images]
            captions = [case.captions for case in some for _ in case.images]
            groups = [number for number, case in enumerate(some) for _ in case.images]
            scores = matcher(pictures, captions, groups)
            found += np.split(scores, np.cumsum([len(case.images) for case in some])[:-1])
            advance(len(some))
    return found


def hits(scores: Floats) -> tuple[bool, bool, bool]:
    """Whether a record's captions, its pictures, and both are matched right; what ties is wrong.

    Args:
        scores: (pictures, captions) with picture i and caption i belonging together.
    """
    pictures, captions = scores.shape
    text = all((scores[row, row] > np.delete(scores[row], row)).all() for row in range(pictures))
    shared = range(min(pictures, captions))
    image = all((scores[row, row] > np.delete(scores[:, row], row)).all() for row in shared)
    return text, image, text and image


def matching_results(
    cases: Sequence[MatchingCase], scores: Sequence[Floats], seed: int = 0, draws: int = 2000
) -> list[MatchingRow]:
    """Shares of records matched right with bootstrap intervals: of all records, then of each tag.

    Args:
        cases: the records.
        scores: from `score_cases`.
        seed: of the resamples.
        draws: how many resamples.

    Raises:
        DataError: there are no records, or scores of another number.
    """
    if not cases or len(cases) != len(scores):
        raise DataError(f"there are {len(cases)} records and {len(scores)} scores: give one for each, at least one")
    right = np.array([hits(table) for table in scores], dtype=np.float64)
    pairs = np.array([len(case.images) == 2 for case in cases])
    tags = sorted({tag for case in cases for tag in case.tags})
    rows = []
    for tag in ["all", *tags]:
        chosen = np.array([tag == "all" or tag in case.tags for case in cases])
        some = right[chosen]
        text, image, group = (bootstrap_mean(some[:, kind], seed, draws) for kind in range(3))
        paired = bool(pairs[chosen].all())
        rows.append(MatchingRow(tag, len(some), text, image if paired else None, group if paired else None))
    return rows


def macro_average(rows: Sequence[MatchingRow]) -> float:
    """The mean of the tags' text scores, every tag alike, as ARO reports its relations and attributes.

    Raises:
        DataError: there is no row of a tag.
    """
    scores = [row.text.value for row in rows if row.tag != "all"]
    if not scores:
        raise DataError("there are no tags to average over: give records with tags")
    return float(np.mean(scores))


def _blocks(cases: Sequence[MatchingCase]) -> Iterator[list[MatchingCase]]:
    """Records in their order, in blocks of equally many captions."""
    for _, alike in groupby(cases, key=lambda case: len(case.captions)):
        some = list(alike)
        yield from (some[start : start + _BLOCK] for start in range(0, len(some), _BLOCK))
