"""Pictures of prompts with and without a projection, at several SWITCH-OFF points, from the same noise."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import OptionError
from pellucid.core.outfolder import write_file
from torch import Tensor

from .attach import SWITCH_OFF, attach, switch_off_share
from .generation import Sampling, encode_prompts, generate, with_embeds
from .trained import Trained

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

BASE = "base"


@dataclass(frozen=True, eq=False)
class ProjectedPictures:
    """Pictures of prompts by seeds.

    Attributes:
        prompts: P texts.
        seeds: S of them; one seed's first noise is the same for all prompts and arms.
        arms: name -> (P, S, height, width, 3) uint8; "base" is the pipeline as it is, "tau-0.8" the projection at
            times of at least that share of the schedule.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: Mapping[str, NDArray[np.uint8]]

    def save(self, out: str | Path) -> Path:
        """Write a folder an arm, with its pictures as PNG and a `captions.jsonl` that `read_captions` reads.

        Raises:
            DataError: the folder cannot be written.
        """
        for arm, pictures in self.arms.items():
            write_pictures(Path(out) / arm, pictures, self.prompts, self.seeds)
        return Path(out)


def arm_of(share: float) -> str:
    """The name of an arm whose projection is on at times of at least a share of the schedule."""
    return f"tau-{share:g}"


def projected_pictures(
    pipe: "DiffusionPipeline",
    prompts: Sequence[str],
    seeds: Sequence[int],
    trained: Trained,
    switch_offs: Sequence[float] = (SWITCH_OFF,),
    *,
    sampling: Sampling | None = None,
    tokens: Tensor | None = None,
    base: bool = True,
) -> ProjectedPictures:
    """Generate pictures of every prompt with every seed, once as the pipeline is and once for each SWITCH-OFF point.

    Args:
        pipe: SD 1.x, 2.x, SDXL, SD3, PixArt or IF, with nothing attached.
        prompts: texts, each once.
        seeds: of the noise, each once.
        trained: what to use.
        switch_offs: tau of each arm, as `attach` takes it.
        sampling: how pictures are made.
        tokens: which tokens to project, bool (tokens,), or one row a prompt; from `token_subset`.
        base: whether the pipeline's own pictures are made, too.

    Raises:
        OptionError: a prompt, seed or tau stands twice, or `tokens` has another number of rows than there are prompts.
    """
    shares = [switch_off_share(pipe, value) for value in switch_offs]
    _check(prompts, seeds, shares, tokens)
    arms: dict[str, NDArray[np.uint8]] = {}
    if base:
        arms[BASE] = _pictures(pipe, prompts, seeds, sampling)
    for share in shares:
        arms[arm_of(share)] = _projected(pipe, prompts, seeds, trained, share, sampling or Sampling(), tokens)
    return ProjectedPictures(tuple(prompts), tuple(seeds), arms)


def embedding_pictures(
    pipe: "DiffusionPipeline",
    prompt: str,
    embeds: Tensor,
    seeds: Sequence[int],
    sampling: Sampling | None = None,
) -> NDArray[np.uint8]:
    """Generate pictures from an optimised embedding c* in the place of a prompt's own (thesis fig. 9.6).

    Args:
        pipe: the pipeline that it was optimised for.
        prompt: its caption, which gives what the family reads beside the embedding.
        embeds: (1, tokens, channels); `OptimisedEmbedding.embeds`.
        seeds: one a picture.
        sampling: how.

    Returns:
        (seeds, height, width, 3) uint8.
    """
    arguments = with_embeds(encode_prompts(pipe, [prompt]), embeds)
    return generate(pipe, {name: value[[0] * len(seeds)] for name, value in arguments.items()}, seeds, sampling)


def write_pictures(out: Path, pictures: NDArray[np.uint8], prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Write pictures (prompts, seeds, height, width, 3) as `0000-SEED.png`, and `captions.jsonl` beside them.

    Raises:
        DataError: the folder cannot be written.
    """
    import io

    from PIL import Image

    lines = []
    for row, prompt in enumerate(prompts):
        for column, seed in enumerate(seeds):
            name, content = f"{row:04d}-{seed}", io.BytesIO()
            Image.fromarray(pictures[row, column]).save(content, "PNG")
            write_file(out / f"{name}.png", content.getvalue())
            lines.append(json.dumps({"image": f"{name}.png", "caption": prompt, "id": name}, ensure_ascii=False))
    write_file(out / "captions.jsonl", ("\n".join(lines) + "\n").encode())


def _projected(
    pipe: "DiffusionPipeline",
    prompts: Sequence[str],
    seeds: Sequence[int],
    trained: Trained,
    share: float,
    sampling: Sampling,
    tokens: Tensor | None,
) -> NDArray[np.uint8]:
    with trained.encoding(pipe):
        if trained.projection is None:
            return _pictures(pipe, prompts, seeds, sampling)
        if tokens is None or tokens.ndim == 1:
            with attach(pipe, trained.projection, share, tokens):
                return _pictures(pipe, prompts, seeds, sampling)
        made = []
        for prompt, chosen in zip(prompts, tokens, strict=True):
            with attach(pipe, trained.projection, share, chosen):
                made.append(_pictures(pipe, [prompt], seeds, sampling))
        return np.concatenate(made)


def _pictures(
    pipe: "DiffusionPipeline", prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling | None
) -> NDArray[np.uint8]:
    """Pictures (prompts, seeds, height, width, 3)."""
    arguments = encode_prompts(pipe, prompts)
    rows = [row for row in range(len(prompts)) for _ in seeds]
    repeated = {name: value[rows] for name, value in arguments.items()}
    flat = generate(pipe, repeated, [*seeds] * len(prompts), sampling)
    return flat.reshape(len(prompts), len(seeds), *flat.shape[1:])


def _check(prompts: Sequence[str], seeds: Sequence[int], shares: Sequence[float], tokens: Tensor | None) -> None:
    given: dict[str, list[Any]] = {"prompt": [*prompts], "seed": [*seeds], "SWITCH-OFF point": [*shares]}
    for what, values in given.items():
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise OptionError(f"the {what} {twice!r} is given twice: give each once")
    if not prompts or not seeds:
        raise OptionError(f"{len(prompts)} prompts and {len(seeds)} seeds: give at least one of both")
    if tokens is not None and tokens.ndim == 2 and len(tokens) != len(prompts):
        raise OptionError(f"tokens has {len(tokens)} rows for {len(prompts)} prompts: give one row a prompt")
