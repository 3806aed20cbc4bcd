"""Eq. 9.1 as it stands, one noise, one caption and one picture at a time: the slow twin of `diffusion_scores`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from .denoising import denoiser_of, encode_captions, picture_latents
from .diffusion_score import sample_noise

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image


@torch.inference_mode()
def plain_diffusion_scores(
    pipe: "DiffusionPipeline",
    images: Sequence["Image"],
    captions: Sequence[Sequence[str]],
    *,
    samples: int = 50,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The scores of `diffusion_scores` without early stopping, (pictures, captions), to about 1e-5 relative.

    Tests and the benchmark compare the two; the noises and time-steps are the same.
    """
    denoiser = denoiser_of(pipe)
    steps, noises = sample_noise(denoiser, samples, seed)
    table = np.zeros((len(images), len(captions[0])))
    for row, image in enumerate(images):
        for column, caption in enumerate(captions[row]):
            latents, said = picture_latents(pipe, [image]), encode_captions(pipe, [caption])
            for step, noise in zip(steps[:, None], noises, strict=True):
                told = denoiser(denoiser.schedule.noised(latents, noise[None], step), step, said)
                missed = told - denoiser.schedule.target(latents, noise[None], step)
                implied = float(denoiser.schedule.implies[step]) * missed
                table[row, column] += float(implied.double().square().mean()) / samples
    return table
