"""Training a projection from kept latents and embeddings, and diffusion scores with shared noise, each the plain way.

The plain training encodes its batch's pictures and captions at each step. The plain score takes every noise for one
picture and one caption at a time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pellucid.compose.captioned import CaptionedImage
from pellucid.compose.denoising import encode_captions, picture_latents
from pellucid.compose.diffusion_score import diffusion_scores
from pellucid.compose.latents import encode_dataset
from pellucid.compose.plain_diffusion_score import plain_diffusion_scores
from pellucid.compose.train_projection import ProjectionTraining, train_projection
from pellucid.core.pictures import open_picture
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.report import Table
from pellucid.zoo.world import Scene, Thing, caption
from pellucid.zoo.world.renderer import render

CONFIDENCE = 0.95
_THINGS = ("circle", "square", "star", "heart", "boat", "car", "tree", "mug")
_COLOURS = ("red", "blue", "green", "yellow", "purple", "orange")


@dataclass(frozen=True)
class _Pairs:
    """Pictures of one thing with the right caption and one of another colour."""

    files: list[CaptionedImage]
    captions: list[tuple[str, str]]


def measure(
    model: str = "zoo:tinyworld-sd",
    pictures: int = 16,
    steps: int = 60,
    batch: int = 8,
    threads: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure both in one run.

    Args:
        model: a text-to-image model.
        pictures: that are scored, and trained on.
        steps: of training.
        batch: pictures a step.
        threads: of the processor.
        seed: of noise and batches.

    Returns:
        For `training`: steps a second from kept inputs and with a batch encoded at each step, and their `ratio`. For
        `scores`: seconds of the plain loop over 50 samples, of shared noise in batches, and with early stopping, their
        ratios, mean `samples`, whether scores agree (`largest_difference`, relative) and the share of `same` decisions.
    """
    torch.set_num_threads(threads)
    pipe = load_pipeline(PipelineSpec(model).resolved())
    with TemporaryDirectory() as folder:
        pairs = _drawn(Path(folder), pictures)
        return {
            "training": _training(pipe, pairs, Path(folder), steps, batch, seed),
            "scores": _scores(pipe, pairs, seed),
            "threads": threads,
        }


def summary(found: dict[str, Any]) -> str:
    """What `measure` found, in two sentences."""
    training, scores = found["training"], found["scores"]
    return (
        f"WiCLP trains {training['kept']:.3g} steps a second from kept latents and embeddings, {training['ratio']:.3g} "
        "times as many as when each batch is encoded anew. Diffusion scores with shared noise take "
        f"{scores['shared']:.3g} s against {scores['plain']:.3g} s, {scores['shared_ratio']:.3g} times as fast (they "
        f"differ by at most {scores['largest_difference']:.0e} of them); stopping at a confidence of {CONFIDENCE} "
        f"after {scores['samples']:.3g} of 50 samples on average, {scores['early_ratio']:.3g} times, with "
        f"{scores['same']:.0%} of the decisions the same."
    )


def tables(found: dict[str, Any]) -> list[Table]:
    """The numbers of `measure`."""
    training, scores = found["training"], found["scores"]
    rows: list[list[Any]] = [
        ["WiCLP, steps a second", training["kept"], training["anew"], training["ratio"]],
        ["diffusion score, seconds, shared noise", scores["shared"], scores["plain"], scores["shared_ratio"]],
        ["diffusion score, seconds, early stopping", scores["early"], scores["plain"], scores["early_ratio"]],
    ]
    return [Table("compose", ["what", "ours", "plain way", "ratio"], rows, "Both ways in one run.")]


def _drawn(folder: Path, count: int) -> _Pairs:
    from PIL import Image

    files, said = [], []
    for number in range(count):
        thing, colour = _THINGS[number % len(_THINGS)], _COLOURS[number % len(_COLOURS)]
        other = _COLOURS[(number + 1) % len(_COLOURS)]
        scene = Scene((Thing(thing, colour),), seed=number)
        path = folder / f"{number}.png"
        Image.fromarray(render(scene, 32)).save(path)
        said.append((caption(scene), caption(Scene((Thing(thing, other),)))))
        files.append(CaptionedImage(str(path), said[-1][0], str(number)))
    return _Pairs(files, said)


def _training(pipe: Any, pairs: _Pairs, folder: Path, steps: int, batch: int, seed: int) -> dict[str, float]:
    encoded = encode_dataset(pipe, pairs.files, folder / "encoded")
    options = ProjectionTraining(steps=steps, batch=batch, seed=seed)
    some = pairs.files[:batch]

    def anew() -> None:
        """What the plain way does at each step beside the step itself."""
        picture_latents(pipe, [open_picture(one.image) for one in some])
        encode_captions(pipe, [one.caption for one in some])

    train_projection(pipe, encoded, None, ProjectionTraining(steps=5, batch=batch, seed=seed))
    kept = _seconds(lambda: train_projection(pipe, encoded, None, options)) / steps
    anew()

    def all_anew() -> None:
        for _ in range(steps):
            anew()

    encoding = _seconds(all_anew) / steps
    return {"kept": 1 / kept, "anew": 1 / (kept + encoding), "ratio": (kept + encoding) / kept}


def _scores(pipe: Any, pairs: _Pairs, seed: int) -> dict[str, float]:
    images = [open_picture(one.image) for one in pairs.files]
    held: dict[str, Any] = {}

    def timed(name: str, run: Callable[[], Any]) -> float:
        def keep() -> None:
            held[name] = run()

        return _seconds(keep)

    diffusion_scores(pipe, images[:1], pairs.captions[:1], samples=5, seed=seed)
    plain = timed("plain", lambda: plain_diffusion_scores(pipe, images, pairs.captions, seed=seed))
    shared = timed("shared", lambda: diffusion_scores(pipe, images, pairs.captions, seed=seed))
    early = timed("early", lambda: diffusion_scores(pipe, images, pairs.captions, seed=seed, confidence=CONFIDENCE))
    slow, fast, soon = held["plain"], held["shared"].scores, held["early"]
    return {
        "plain": plain,
        "shared": shared,
        "early": early,
        "shared_ratio": plain / shared,
        "early_ratio": plain / early,
        "samples": float(np.mean(soon.samples)),
        "largest_difference": float(np.abs(fast / slow - 1).max()),
        "same": float((soon.scores.argmin(1) == slow.argmin(1)).mean()),
    }


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
