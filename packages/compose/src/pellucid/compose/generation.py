"""Pictures from prompts and seeds, where a picture depends on its own prompt and seed and on nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pellucid.core.conditioning import Conditioning, encode
from pellucid.core.errors import OptionError
from pellucid.core.generation import generate as draw
from pellucid.core.progress import progress
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_EMBEDS = "prompt_embeds"


@dataclass(frozen=True)
class Sampling:
    """How pictures are made.

    Attributes:
        steps: of denoising.
        guidance: diffusers' `guidance_scale`.
        chunk: pictures at once; it does not change them beyond rounding.

    Raises:
        OptionError: a number below its least.
    """

    steps: int = 25
    guidance: float = 7.5
    chunk: int = 16

    def __post_init__(self) -> None:
        if self.steps < 1 or self.chunk < 1:
            raise OptionError(f"steps={self.steps}, chunk={self.chunk}: give 1 or more of both")


def encode_prompts(pipe: "DiffusionPipeline", prompts: Sequence[str]) -> dict[str, Tensor]:
    """Encode prompts, and the empty one of classifier-free guidance beside each: what core's `encode` gives, bare.

    Returns:
        Keyword arguments of the pipeline's call, each with one row a prompt.
    """
    return dict(encode(pipe, prompts).arguments)


def with_embeds(arguments: Mapping[str, Tensor], embeds: Tensor) -> dict[str, Tensor]:
    """Encoded prompts with other embeddings in their place, such as c*; one row of `embeds` serves all.

    Raises:
        OptionError: the embeddings have another shape.
    """
    old = arguments[_EMBEDS]
    if embeds.shape[1:] != old.shape[1:] or len(embeds) not in (1, len(old)):
        raise OptionError(
            f"the embeddings have shape {tuple(embeds.shape)}, and the pipeline's {tuple(old.shape)}: optimise them "
            "with the same pipeline"
        )
    return {**arguments, _EMBEDS: embeds.to(old).expand_as(old)}


def generate(
    pipe: "DiffusionPipeline",
    arguments: Mapping[str, Tensor],
    seeds: Sequence[int],
    sampling: Sampling | None = None,
) -> NDArray[np.uint8]:
    """Generate one picture a row of encoded prompts.

    Args:
        pipe: a diffusers text-to-image pipeline.
        arguments: from `encode_prompts`, perhaps with other rows or embeddings.
        seeds: one a row: of the first noise, and of all later noise where the scheduler draws any. The noise is drawn
            on the CPU, so that it is the same on every device.
        sampling: how.

    Returns:
        (rows, height, width, 3), from 0 to 255.

    Raises:
        OptionError: another number of seeds than of rows.
        ModelError: the pipeline gives values that are not finite, or blanks pictures itself.
    """
    sampling = sampling or Sampling()
    rows = len(arguments[_EMBEDS])
    if len(seeds) != rows:
        raise OptionError(f"{len(seeds)} seeds for {rows} rows: give one seed a row")
    pictures = []
    with progress("pictures", rows) as advance:
        for start in range(0, rows, sampling.chunk):
            piece = slice(start, start + sampling.chunk)
            part = Conditioning({name: value[piece] for name, value in arguments.items()})
            pictures.append(draw(pipe, part, seeds[piece], steps=sampling.steps, guidance=sampling.guidance))
            advance(len(pictures[-1]))
    return np.concatenate(pictures)
