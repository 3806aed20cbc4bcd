"""Match pictures with captions by how well a text-to-image model denoises the one told the other (eq. 9.1 and 9.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.errors import DataError, OptionError
from pellucid.core.progress import progress
from torch import Tensor

from .denoising import Denoiser, Said, denoiser_of, encode_captions, picture_latents

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

LOOK = 5
"""Samples between two looks at whether a group is settled."""
_GROUPS = 32  # whose latents and captions are held at once


@dataclass(frozen=True)
class DiffusionScores:
    """Scores of every picture with each of its captions.

    Attributes:
        scores: (pictures, captions) float64, the mean squared error of eq. 9.1 over the number of latents' entries:
            the lowest caption fits best.
        samples: (pictures,) how many noises and time-steps were drawn for it.
    """

    scores: NDArray[np.float64]
    samples: NDArray[np.int64]

    @property
    def matches(self) -> NDArray[np.int64]:
        """The caption that fits best, for each picture (eq. 9.2)."""
        return self.scores.argmin(axis=1)


def diffusion_scores(
    pipe: "DiffusionPipeline",
    images: Sequence["Image"],
    captions: Sequence[Sequence[str]],
    *,
    samples: int = 50,
    seed: int = 0,
    batch: int = 16,
    confidence: float | None = None,
    groups: Sequence[int] | None = None,
) -> DiffusionScores:
    """Score pictures against captions by how well a diffusion model finds the noise in them (section 9.1.2).

    All pictures and captions see the same noises and time-steps, which removes most of the chance from their
    differences. Time-steps are stratified: `samples` equal parts of the schedule, one step drawn from each, in an order
    of chance.

    With `confidence`, sampling stops early: after every 5 samples a group is settled if each picture's best caption
    beats every other one by a paired one-sided t-test over the samples so far, and, in groups of several pictures, each
    caption's best picture likewise. The level is divided by the number of tests and looks (Bonferroni), so that a
    group settles on what infinitely many samples would say with at least this probability, as far as the differences
    are normal. Groups that never settle take all samples.

    Args:
        pipe: a diffusers text-to-image pipeline; with SD 1.4 the thesis's.
        images: the pictures.
        captions: for each picture as many, two or more if sampling is to stop early.
        samples: noises drawn at most for each picture; the thesis draws 50.
        seed: of noises and time-steps.
        batch: latents denoised at once. Beyond rounding, scores do not depend on it.
        confidence: such as 0.99; None never stops early.
        groups: a number for each picture. Pictures of a number stand one after another, share their captions, and are
            compared with one another too, as Winoground's pairs are: they stop together. None: each picture alone.

    Raises:
        OptionError: a number cannot work.
        DataError: captions do not pair up with pictures, or are not equally many.
    """
    _check(images, captions, samples, batch, confidence)
    bounds = _bounds(captions, groups)
    denoiser = denoiser_of(pipe)
    steps, noises = sample_noise(denoiser, samples, seed)
    tables, used = [], []
    with progress("Diffusion score", len(images)) as advance:
        for start in range(0, len(bounds), _GROUPS):
            block = bounds[start : start + _GROUPS]
            first, last = block[0].start, block[-1].stop
            unique = list(dict.fromkeys(text for texts in captions[first:last] for text in texts))
            place = {text: row for row, text in enumerate(unique)}
            rows = [[place[text] for text in texts] for texts in captions[first:last]]
            inside = [range(group.start - first, group.stop - first) for group in block]
            asked = _Block(denoiser, picture_latents(pipe, images[first:last]), encode_captions(pipe, unique), rows)
            errors = _sampled(asked, inside, steps, noises, batch, confidence)
            tables.append(np.stack([table.mean(axis=0) for table in errors]))
            used += [len(table) for table in errors]
            advance(last - first)
    return DiffusionScores(np.concatenate(tables), np.array(used))


def sample_noise(denoiser: Denoiser, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """The time-steps, shape (samples,), and noises, shape (samples, channels, height, width), of all pictures."""
    chance = torch.Generator().manual_seed(seed)
    parts = (torch.arange(samples) + torch.rand(samples, generator=chance)) / samples
    steps = (parts * denoiser.schedule.steps).long().clamp(max=denoiser.schedule.steps - 1)
    order = torch.randperm(samples, generator=chance)
    return steps[order], torch.randn(samples, *denoiser.shape, generator=chance)


def settled(errors: NDArray[np.float64], level: float) -> bool:
    """Whether a group's comparisons are decided.

    Args:
        errors: (samples, pictures, captions), paired over the samples.
        level: chance of error that a single comparison may have.
    """
    from scipy.stats import t

    count, pictures, captions = errors.shape
    compared = []
    if captions > 1:
        compared += [errors[:, row] for row in range(pictures)]
    if pictures > 1:
        compared += [errors[:, :, column] for column in range(captions)]
    limit = t.ppf(1 - level, count - 1)
    for some in compared:
        best = some.mean(axis=0).argmin()
        others = np.delete(some, best, axis=1) - some[:, [best]]
        spread = others.std(axis=0, ddof=1) / np.sqrt(count)
        if not (others.mean(axis=0) > limit * spread).all():
            return False
    return True


@dataclass(frozen=True, eq=False)
class _Block:
    """Pictures' latents, what is said of them, and which rows of that are each picture's captions."""

    denoiser: Denoiser
    latents: Tensor
    said: Said
    rows: list[list[int]]


def _sampled(
    block: _Block, groups: list[range], steps: Tensor, noises: Tensor, batch: int, confidence: float | None
) -> list[NDArray[np.float64]]:
    """For each picture its errors, (samples used, captions)."""
    width, total = len(block.rows[0]), len(steps)
    errors = np.full((len(block.rows), total, width), np.nan)
    used = np.zeros(len(block.rows), dtype=np.int64)
    active = groups
    size = total if confidence is None else LOOK
    looks = -(-total // size)
    for start in range(0, total, size):
        drawn = range(start, min(start + size, total))
        pairs = [(row, column) for group in active for row in group for column in range(width)]
        asked = [(row, sample, column) for sample in drawn for row, column in pairs]
        for some in _parts(asked, batch):
            where, which, what = (list(part) for part in zip(*some, strict=True))
            rows = [block.rows[row][column] for row, column in zip(where, what, strict=True)]
            with torch.inference_mode():
                found = block.denoiser.noise_errors(
                    block.latents[where], noises[which], steps[which], block.said.take(rows)
                )
            errors[where, which, what] = found.double().cpu().numpy()
        for group in active:
            used[group] = drawn.stop
        if confidence is not None:
            active = [group for group in active if not _done(errors[group, : drawn.stop], confidence, looks)]
        if not active:
            break
    return [table[:count] for table, count in zip(errors, used, strict=True)]


def _done(errors: NDArray[np.float64], confidence: float, looks: int) -> bool:
    pictures, _, captions = errors.shape
    tests = pictures * (captions - 1) + (captions * (pictures - 1))
    return settled(errors.transpose(1, 0, 2), (1 - confidence) / (tests * looks))


def _parts(asked: list[tuple[int, int, int]], size: int) -> Iterator[list[tuple[int, int, int]]]:
    yield from (asked[start : start + size] for start in range(0, len(asked), size))


def _bounds(captions: Sequence[Sequence[str]], groups: Sequence[int] | None) -> list[range]:
    """Each group's pictures."""
    if groups is None:
        return [range(row, row + 1) for row in range(len(captions))]
    if len(groups) != len(captions):
        raise DataError(f"{len(groups)} groups for {len(captions)} pictures: give one number a picture")
    bounds: list[range] = []
    seen: set[int] = set()
    for row, group in enumerate(groups):
        if row and group == groups[row - 1]:
            if list(captions[row]) != list(captions[row - 1]):
                raise DataError(f"the pictures of group {group} have different captions: give all of them the same")
            bounds[-1] = range(bounds[-1].start, row + 1)
        elif group in seen:
            raise DataError(f"the pictures of group {group} do not stand one after another: sort them")
        else:
            bounds.append(range(row, row + 1))
        seen.add(group)
    return bounds


def _check(
    images: Sequence["Image"], captions: Sequence[Sequence[str]], samples: int, batch: int, confidence: float | None
) -> None:
    if samples < 1:
        raise OptionError(f"samples is {samples}: draw at least 1")
    if batch < 1:
        raise OptionError(f"batch is {batch}: at least 1 picture must be denoised at once")
    if confidence is not None and not 0.5 <= confidence < 1:
        raise OptionError(f"confidence is {confidence}: it must lie from 0.5 up to, but not at, 1, such as 0.99")
    if not images or len(images) != len(captions):
        raise DataError(f"there are {len(images)} pictures and {len(captions)} lists of captions: give one list each")
    counts = {len(texts) for texts in captions}
    if any(isinstance(texts, str) for texts in captions) or len(counts) != 1 or 0 in counts:
        raise DataError("every picture needs a list of equally many captions, at least one")
    if confidence is not None and counts == {1}:
        raise OptionError("confidence compares captions, and each picture has one: leave it out, or give more captions")
