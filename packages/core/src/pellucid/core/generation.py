"""Pictures from conditionings and seeds, where a picture depends on its own row and seed and on nothing else."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from .conditioning import Conditioning
from .errors import ModelError, OptionError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Output = Literal["pixels", "latents"]


def generate(
    pipe: "DiffusionPipeline",
    conditioning: Conditioning,
    seeds: Sequence[int],
    *,
    steps: int = 25,
    guidance: float = 7.5,
    output: Output = "pixels",
    chunk: int | None = None,
) -> Any:
    """Generate one picture a row.

    Args:
        pipe: a diffusers text-to-image pipeline.
        conditioning: from `encode`, perhaps changed.
        seeds: one a row: of the first noise, and of all later noise where the scheduler draws any. The noise is drawn
            on the CPU, so that it is the same on every device.
        steps: denoising steps.
        guidance: diffusers' `guidance_scale`, which is the thesis's alpha of eq. 5.3 plus 1. No guidance at 1 or less.
            Flux reads it as a number and has no unconditional half.
        output: "pixels" or "latents" (for IF, which has no autoencoder: the picture from -1 to 1).
        chunk: how many rows to run at once; None: all.

    Returns:
        Pixels `(rows, height, width, 3)` uint8, or latents as the pipeline gives them, float, on its device.

    Raises:
        OptionError: another number of seeds than of rows, or no steps.
        ModelError: the pipeline has no scheduler, gives values that are not finite, or blanks pictures itself.
    """
    if len(seeds) != conditioning.rows:
        raise OptionError(f"{len(seeds)} seeds for {conditioning.rows} rows: give one seed a row")
    if steps < 1:
        raise OptionError(f"{steps} denoising steps: give at least 1")
    if getattr(pipe, "scheduler", None) is None:
        raise ModelError(f"{type(pipe).__name__} has no scheduler: load it with one, such as diffusers' DDIMScheduler")
    parts = [
        _generate(pipe, conditioning.take(rows), [seeds[row] for row in rows], steps, guidance, output)
        for rows in chunks(conditioning.rows, chunk)
    ]
    return torch.cat(parts) if output == "latents" else np.concatenate(parts)


def chunks(count: int, size: int | None) -> list[range]:
    """`range(count)` cut into pieces of at most `size`."""
    if size is not None and size < 1:
        raise OptionError(f"chunk is {size}: at least 1 row must run at once")
    size = size or max(count, 1)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _generate(
    pipe: Any, conditioning: Conditioning, seeds: Sequence[int], steps: int, guidance: float, output: Output
) -> Any:
    latent_space = getattr(pipe, "vae", None) is not None
    accepted = inspect.signature(pipe.__call__).parameters
    # An empty default of `negative_prompt` would contradict the embeddings given; sizes are the model's own.
    fixed = {"negative_prompt": None, "use_resolution_binning": False}
    raw = "latent" if latent_space else "pt"
    result = pipe(
        **conditioning.arguments,
        **{name: value for name, value in fixed.items() if name in accepted},
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="np" if latent_space and output == "pixels" else raw,
    )
    images = result.images
    if not (torch.isfinite(images) if isinstance(images, Tensor) else np.isfinite(images)).all():
        raise ModelError(
            f"{type(pipe).__name__} gives values that are not finite: load it in float32 or bfloat16, "
            "or check the edit that was applied to it"
        )
    if output == "latents":
        return images
    blanked = getattr(result, "nsfw_content_detected", None)
    if blanked is not None and any(blanked):
        raise ModelError(
            f"the safety checker of {type(pipe).__name__} blanked {sum(map(bool, blanked))} of {len(seeds)} pictures, "
            "so that their scores mean nothing: load_pipeline(NAME, safety_checker=False)"
        )
    if isinstance(images, Tensor):
        images = (images / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
    return (images * 255).round().astype(np.uint8)
