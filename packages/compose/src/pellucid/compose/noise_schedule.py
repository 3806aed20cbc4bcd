"""A scheduler's noise as one table, so that models that predict noise, velocity or flow are treated alike."""

from dataclasses import dataclass
from typing import Any

import torch
from pellucid.core.errors import ModelError
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """How pictures are noised at each training step, and what the denoiser is to say of them.

    With latents z and noise e, step k's noised latents are `signal[k] z + noise[k] e`, and the denoiser's target is
    `wants_latents[k] z + wants_noise[k] e`: e itself, the velocity of v-prediction, z, or the flow e - z.

    Attributes:
        signal: (steps,) float32.
        noise: (steps,) float32.
        times: (steps,) what the denoiser is told: the step for DDPM-like schedulers, `steps` times sigma for flow
            matching; from little noise to much.
        wants_latents: (steps,) float32.
        wants_noise: (steps,) float32.
        implies: (steps,) by how much an error of the prediction is one of the noise that it implies: 1 where noise is
            predicted, `signal` for velocity and flow, `signal / noise` for the picture.
    """

    signal: Tensor
    noise: Tensor
    times: Tensor
    wants_latents: Tensor
    wants_noise: Tensor
    implies: Tensor

    @property
    def steps(self) -> int:
        """Number of training steps of the noise, such as 1000."""
        return len(self.times)

    def noised(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Noised latents, shape (n, ...), at steps (n,)."""
        return _rows(self.signal, steps, latents) * latents + _rows(self.noise, steps, latents) * noise

    def target(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """What the denoiser is to predict, shape (n, ...), at steps (n,)."""
        return _rows(self.wants_latents, steps, latents) * latents + _rows(self.wants_noise, steps, latents) * noise


def noise_schedule(scheduler: Any) -> NoiseSchedule:
    """Read a diffusers scheduler's training noise.

    DDPM-like schedulers (DDPM, DDIM, PNDM, Euler, DPM-Solver and their like) share `alphas_cumprod`: what Euler's
    denoiser reads after `scale_model_input` is the same as DDPM's. Flow matching interpolates: (1 - s) z + s e, with
    the scheduler's fixed shift of sigma; a shift that follows the picture's size is for sampling and is left out.

    Raises:
        ModelError: there is no scheduler, or its noise is of another kind.
    """
    kind = type(scheduler).__name__
    config = getattr(scheduler, "config", None)
    if config is None:
        raise ModelError("the pipeline has no scheduler: load it with one, such as diffusers' DDIMScheduler")
    predicted = config.get("prediction_type", "epsilon")
    if "FlowMatch" in kind or predicted == "flow_prediction":
        return _flow(config)
    if (kept := getattr(scheduler, "alphas_cumprod", None)) is None:
        raise ModelError(
            f"the noise of {kind} is not known here: exchange it by one with alphas_cumprod, such as DDIMScheduler, "
            "or by FlowMatchEulerDiscreteScheduler, as the model was trained"
        )
    kept = kept.detach().cpu().double()
    signal, noise = kept.sqrt(), (1 - kept).sqrt()
    one, none = torch.ones_like(kept), torch.zeros_like(kept)
    wanted = {
        "epsilon": (none, one, one),
        "v_prediction": (-noise, signal, signal),
        "sample": (one, none, signal / noise),
    }
    if predicted not in wanted:
        raise ModelError(
            f"{kind} says that the model predicts {predicted!r}: known are {', '.join(wanted)}, flow_prediction"
        )
    latents, drawn, implies = (part.float() for part in wanted[predicted])
    return NoiseSchedule(signal.float(), noise.float(), torch.arange(len(kept)), latents, drawn, implies)


def _flow(config: Any) -> NoiseSchedule:
    steps = config.get("num_train_timesteps", 1000)
    sigma = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    if not config.get("use_dynamic_shifting", False):
        shift = config.get("shift") or config.get("flow_shift") or 1.0
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
    one, signal = torch.ones(steps), (1 - sigma).float()
    return NoiseSchedule(signal, sigma.float(), (steps * sigma).float(), -one, one, signal)


def _rows(table: Tensor, steps: Tensor, like: Tensor) -> Tensor:
    """Entries of a table, shaped to multiply rows of `like`."""
    return table[steps.cpu()].to(like).reshape(-1, *[1] * (like.ndim - 1))
