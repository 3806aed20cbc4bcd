"""What the fine-tuning baselines share: a UNet's cross-attention trained for a loss, and put in and out of place."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.fine_tuned import FineTuned
from pellucid.core.progress import progress
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def stable_diffusion(pipe: "DiffusionPipeline") -> Any:
    """The pipeline, checked to be one that these baselines were written for.

    Raises:
        OptionError: it is not `StableDiffusionPipeline` (SD 1.x, 2.x and their like).
    """
    if type(pipe).__name__ != "StableDiffusionPipeline":
        raise OptionError(
            f"this baseline fine-tunes StableDiffusionPipeline, not {type(pipe).__name__}: use locoedit there"
        )
    return pipe


def fine_tune(
    pipe: "DiffusionPipeline",
    chosen: Callable[[str], bool],
    loss: Callable[[int], Tensor],
    *,
    what: str,
    steps: int,
    rate: float,
) -> FineTuned:
    """Train some of the denoiser's parameters with AdamW, through accelerate; the model is left as it was.

    Args:
        pipe: the pipeline; `loss` calls its denoiser.
        chosen: tells by its dotted name whether a parameter is trained.
        loss: given a step's number.
        what: for the progress bar.
        steps: of the optimiser.
        rate: its learning rate.

    Raises:
        OptionError: fewer than one step.
        ModelError: no parameter was chosen.
        DataError: the loss is no number any more.
    """
    from accelerate import Accelerator

    if steps < 1:
        raise OptionError(f"steps={steps}: give 1 or more")
    anatomy = denoiser_anatomy(pipe)
    parameters = {
        f"{anatomy.component}.{name}": part for name, part in anatomy.denoiser.named_parameters() if chosen(name)
    }
    if not parameters:
        raise ModelError("no parameter of the denoiser is to be trained: the model has none of the expected names")
    old = {name: part.data for name, part in parameters.items()}
    asked = {name: part.requires_grad for name, part in parameters.items()}
    began, losses = time.monotonic(), []
    try:
        for name, part in parameters.items():
            part.data = old[name].clone()
            part.requires_grad_(True)
        accelerator = Accelerator(cpu=pipe.device.type == "cpu")
        optimiser = accelerator.prepare(torch.optim.AdamW(parameters.values(), rate, weight_decay=0.0))
        with progress(what, steps) as advance:
            for step in range(steps):
                value = loss(step)
                losses.append(value.item())
                if not torch.isfinite(value):
                    raise DataError(f"{what}: the loss is {losses[-1]} at step {step}: give a lower rate than {rate}")
                accelerator.backward(value)
                optimiser.step()
                optimiser.zero_grad()
                advance(1)
        new = {name: part.data.clone() for name, part in parameters.items()}
    finally:
        for name, part in parameters.items():
            part.data, part.grad = old[name], None
            part.requires_grad_(asked[name])
    return FineTuned(new, tuple(losses), time.monotonic() - began)
