"""LocoGen: the few adjacent cross-attention layers that control a style, an object or a fact (thesis 5.8, algorithm 2).

In the altered model the layers of a window read the target prompt and all others the original one. All windows of m
neighbours are tried: the text has j from 1 to M - m + 1, which is done here; the algorithm's listing stops at M - m.
Layers are counted from 0 in execution order.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pellucid.core.conditioning import Conditioning, encode
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.errors import DataError, OptionError, SiteError
from pellucid.core.generation import Output, chunks, generate
from pellucid.core.scorers import Scorer

from .rows import altering
from .unet_tracing import join

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Kind = Literal["style", "object", "fact"]
KINDS: tuple[Kind, ...] = ("style", "object", "fact")


@dataclass(frozen=True, order=True)
class Window:
    """`size` adjacent cross-attention layers, the first of them `start` (from 0)."""

    start: int
    size: int

    @property
    def layers(self) -> range:
        """Indices of its layers."""
        return range(self.start, self.start + self.size)


@dataclass(frozen=True)
class Location:
    """Where a concept is controlled.

    Attributes:
        window: the best window of its size.
        score: its average score over the prompts.
        reached: whether the score meets the threshold.
    """

    window: Window
    score: float
    reached: bool


@dataclass(frozen=True)
class Search:
    """The search for the smallest m.

    Attributes:
        located: the best window of the smallest size that meets the threshold; of the largest size tried, not
            `reached`, where none does.
        scores: for each size tried the scores, `(windows, prompts)`, windows by their start.
    """

    located: Location
    scores: dict[int, np.ndarray]


@dataclass(frozen=True)
class LocogenImages:
    """Pictures of one prompt and seed.

    Attributes:
        original: of the original prompt, `(height, width, 3)` uint8 (or latents, if asked for).
        target: of the target prompt, of the same shape.
        altered: one a window, `(len(windows), ...)`.
        windows: which layers read the target prompt.
    """

    original: Any
    target: Any
    altered: Any
    windows: tuple[Window, ...]


def windows_of(layers: int, size: int) -> list[Window]:
    """All windows of `size` adjacent layers among `layers`."""
    if not 1 <= size <= layers:
        raise OptionError(f"a window of {size} does not fit {layers} cross-attention layers: give 1 to {layers}")
    return [Window(start, size) for start in range(layers - size + 1)]


def locogen_images(
    pipe: "DiffusionPipeline",
    prompt: str,
    target: str,
    seed: int,
    windows: Sequence[Window],
    *,
    steps: int = 25,
    guidance: float = 7.5,
    pooled: bool = False,
    chunk: int = 16,
    output: Output = "pixels",
) -> LocogenImages:
    """Generate with the target prompt in the layers of each window and the original prompt in all others.

    Args:
        pipe: a diffusers text-to-image pipeline.
        prompt: T, with the concept.
        target: T', without it, or with the updated fact.
        seed: of the first noise, the same in all pictures.
        windows: one picture each.
        steps: denoising steps.
        guidance: diffusers' guidance scale, the thesis's alpha plus 1.
        pooled: give the rows the target's pooled text as well, which reaches the denoiser around cross-attention (SDXL,
            IF, SD3, Flux).
        chunk: rows at once, at least 3; each batch has a row of the target prompt, whose text the others read.
        output: "pixels" or "latents".

    Raises:
        SiteError: a window that is not in the denoiser, or `pooled` where it reads no pooled text.
        OptionError: a chunk that leaves no room.

    Warns:
        UserWarning: the denoiser has single-stream blocks (Flux), which go on reading the original prompt.
    """
    if chunk < 3:
        raise OptionError(f"chunk is {chunk}: at least 3 rows (target, original, altered) must run at once")
    anatomy = denoiser_anatomy(pipe)
    layers = anatomy.cross_attentions
    for window in windows:
        if not (window.start >= 0 and window.size >= 1 and window.start + window.size <= len(layers)):
            raise SiteError(f"there is no {window} among the {len(layers)} cross-attention layers, counted from 0")
    if len(getattr(anatomy.denoiser, "single_transformer_blocks", None) or ()):
        warnings.warn(
            f"{type(anatomy.denoiser).__name__} has single-stream blocks, which carry the text in the same stream as "
            "the picture: they have no text keys to alter, and go on reading the original prompt",
            stacklevel=2,
        )
    texts = encode(pipe, [target, prompt])
    # The original run is a run with nothing altered.
    runs: list[Sequence[int]] = [(), *(window.layers for window in windows)]
    parts: list[Any] = []
    for part in chunks(len(runs), chunk - 1):
        rows = 1 + len(part)
        swaps: dict[int, list[tuple[int, int]]] = {}
        changed = [row for row, run in enumerate(part, start=1) if runs[run]]
        for row in changed:
            for layer in runs[part[row - 1]]:
                swaps.setdefault(layer, []).append((row, 0))
        batch: Conditioning = texts.take([0] + [1] * len(part))
        around = [(row, 0) for row in changed] if pooled else []
        with altering(anatomy.denoiser, layers, swaps, rows, pooled=around):
            pictures = generate(pipe, batch, [seed] * rows, steps=steps, guidance=guidance, output=output)
        parts.append(pictures if not parts else pictures[1:])
    pictures = join(parts)
    return LocogenImages(pictures[1], pictures[0], pictures[2:], tuple(windows))


def altered_scores(images: LocogenImages, scorer: Scorer, prompt: str, target: str, kind: Kind) -> np.ndarray:
    """Scores of the altered pictures: of T for styles and objects, of T' for facts; `(windows,)` float64."""
    text = target if _upwards(kind) else prompt
    return np.asarray(scorer(images.altered, [text] * len(images.altered)), dtype=np.float64)


def best_window(scores: np.ndarray, size: int, kind: Kind, threshold: float) -> Location:
    """Algorithm 2's choice: the lowest average score (styles, objects) or the highest one (facts).

    Args:
        scores: `(windows, prompts)`, windows of `size` layers by their start.
        size: m.
        kind: of the concept.
        threshold: met by an average of at most (facts: at least) that much.

    Raises:
        DataError: no scores, or some that are not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise DataError(f"the scores must be finite and of shape (windows, prompts), not {scores.shape}")
    means = scores.mean(axis=1)
    best = int(means.argmax() if _upwards(kind) else means.argmin())
    score = float(means[best])
    return Location(Window(best, size), score, score >= threshold if _upwards(kind) else score <= threshold)


def locogen(
    scores_of: Callable[[list[Window]], np.ndarray],
    layers: int,
    kind: Kind,
    threshold: float,
    *,
    largest: int | None = None,
) -> Search:
    """Search for the smallest m such that some window of m adjacent layers meets the threshold (5.8.1).

    Args:
        scores_of: gives the scores `(windows, prompts)` of windows of one size, from `altered_scores`.
        layers: number of cross-attention layers, M.
        kind: of the concept.
        threshold: of the average score.
        largest: the largest m to try; None: M.
    """
    largest = layers if largest is None else largest
    if not 1 <= largest <= layers:
        raise OptionError(f"the largest window is {largest}: give 1 to {layers}, the number of cross-attention layers")
    scores: dict[int, np.ndarray] = {}
    for size in range(1, largest + 1):
        windows = windows_of(layers, size)
        scores[size] = np.asarray(scores_of(windows), dtype=np.float64)
        if len(scores[size]) != len(windows):
            raise DataError(f"there are scores for {len(scores[size])} windows of {size} layers, not {len(windows)}")
        located = best_window(scores[size], size, kind, threshold)
        if located.reached:
            break
    return Search(located, scores)


def locate_each(scores: dict[int, np.ndarray], kind: Kind, threshold: float) -> list[Location]:
    """Each prompt's own location, of the sizes tried: DeepFloyd's differ between prompts (5.8.2).

    Args:
        scores: by size, `(windows, prompts)`, as in `Search`.
        kind: of the concept.
        threshold: for a single prompt's score.

    Returns:
        One a prompt: its best window of the smallest size that meets the threshold, or of the largest size.
    """
    if not scores:
        raise DataError("there are no scores to locate a concept with")
    found = []
    for prompt in range(next(iter(scores.values())).shape[1]):
        for size in sorted(scores):
            location = best_window(scores[size][:, prompt : prompt + 1], size, kind, threshold)
            if location.reached:
                break
        found.append(location)
    return found


def locogen_search(
    pipe: "DiffusionPipeline",
    prompts: Sequence[str],
    targets: Sequence[str],
    seeds: Sequence[int],
    scorer: Scorer,
    kind: Kind,
    threshold: float,
    *,
    largest: int | None = None,
    steps: int = 25,
    guidance: float = 7.5,
    pooled: bool = False,
    chunk: int = 16,
) -> Search:
    """The whole of it in one process: prompts with their targets, one seed each.

    Args:
        pipe: a diffusers text-to-image pipeline.
        prompts: T_1 to T_N.
        targets: T'_1 to T'_N.
        seeds: one a prompt.
        scorer: of pictures against texts.
        kind: "style", "object" or "fact".
        threshold: of the average score.
        largest: the largest m to try; None: all layers.
        steps: denoising steps.
        guidance: diffusers' guidance scale.
        pooled: see `locogen_images`.
        chunk: rows at once.

    Raises:
        DataError: prompts, targets and seeds of different number, or none.
    """
    if not prompts or not len(prompts) == len(targets) == len(seeds):
        raise DataError(
            f"{len(prompts)} prompts, {len(targets)} targets and {len(seeds)} seeds: give one of each a prompt"
        )

    def scores_of(windows: list[Window]) -> np.ndarray:
        columns = []
        for prompt, target, seed in zip(prompts, targets, seeds, strict=True):
            images = locogen_images(
                pipe, prompt, target, seed, windows, steps=steps, guidance=guidance, pooled=pooled, chunk=chunk
            )
            columns.append(altered_scores(images, scorer, prompt, target, kind))
        return np.stack(columns, axis=1)

    return locogen(scores_of, len(denoiser_anatomy(pipe).cross_attentions), kind, threshold, largest=largest)


def _upwards(kind: Kind) -> bool:
    """Whether a higher score is better: for facts it is that of the target prompt."""
    if kind not in KINDS:
        raise OptionError(f"the kind of concept is {kind!r}: give one of {', '.join(KINDS)}")
    return kind == "fact"
