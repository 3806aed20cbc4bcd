"""Pictures from prompts, in batches; a picture depends on its prompt and seed alone."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

STEPS = 25
GUIDANCE = 4.0


def generate(
    pipe: "StableDiffusionPipeline",
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = 50,
    advance: Callable[[int], None] = lambda pictures: None,
) -> np.ndarray:
    """Generate one picture for each prompt.

    Args:
        pipe: Tinyworld's pipeline.
        prompts: what to draw.
        seeds: of the first noise, one for each prompt.
        steps: of denoising.
        guidance: diffusers' `guidance_scale`.
        batch: pictures at a time.
        advance: told how many pictures more are done; see `pellucid.core.progress`.

    Returns:
        A uint8 array (n, 32, 32, 3).
    """
    pipe.set_progress_bar_config(disable=True)
    side, parts = pipe.unet.config.sample_size, [np.empty((0, 32, 32, 3), np.uint8)]
    for start in range(0, len(prompts), batch):
        chosen = slice(start, start + batch)
        noise = [
            torch.randn(pipe.unet.config.in_channels, side, side, generator=torch.Generator().manual_seed(seed))
            for seed in seeds[chosen]
        ]
        drawn = pipe(
            list(prompts[chosen]),
            latents=torch.stack(noise).to(pipe.device),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="np",
        ).images
        parts.append((drawn * 255).round().astype(np.uint8))
        advance(len(drawn))
    return np.concatenate(parts)
