"""Any pipeline's denoiser as one function of latents, a noise step and a caption; differentiable in all it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.conditioning import encode
from pellucid.core.errors import ModelError, OptionError
from torch import Tensor

from .noise_schedule import NoiseSchedule, noise_schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image


_PARTS = {"prompt_embeds": "embeds", "pooled_prompt_embeds": "pooled", "prompt_attention_mask": "mask"}


@dataclass(frozen=True)
class Said:
    """What a denoiser reads in captions' place, one row a caption.

    Attributes:
        parts: `embeds` (n, tokens, width), and what the family has beside it: `pooled` (n, width), `mask` (n, tokens).
    """

    parts: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.parts["embeds"])

    def take(self, rows: Sequence[int] | Tensor) -> "Said":
        """The rows at these indices, in this order; an index may stand several times."""
        chosen = torch.as_tensor(rows)
        return Said({name: part[chosen.to(part.device)] for name, part in self.parts.items()})

    def to(self, device: Any) -> "Said":
        """The same on a device."""
        return Said({name: part.to(device) for name, part in self.parts.items()})

    @staticmethod
    def stack(parts: Sequence["Said"]) -> "Said":
        """All rows of several, which must come from one pipeline."""
        return Said({name: torch.cat([part.parts[name] for part in parts]) for name in parts[0].parts})


def encode_captions(
    pipe: "DiffusionPipeline", captions: Sequence[str], batch: int = 64, *, gradients: bool = False
) -> Said:
    """Encode captions by all text encoders of a pipeline, without the unconditional half of guidance.

    Args:
        pipe: a diffusers text-to-image pipeline (SD 1.x, 2.x, SDXL, IF, SD3, PixArt, Flux).
        captions: one a row.
        batch: captions encoded at once.
        gradients: let them go through.

    Raises:
        OptionError: no captions.
        ModelError: the pipeline has no text encoder of a known kind.
    """
    if isinstance(captions, str) or not captions:
        raise OptionError("captions must be a list with at least one caption")
    found = []
    for start in range(0, len(captions), batch):
        encoded = encode(pipe, captions[start : start + batch], negative=None, gradients=gradients).arguments
        found.append(Said({_PARTS[name]: value for name, value in encoded.items() if name in _PARTS}))
    return Said.stack(found)


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A pipeline's denoiser with its noise.

    Attributes:
        pipe: the pipeline; nothing of it is changed.
        network: its UNet or transformer.
        schedule: its noise.
        shape: of one picture's latents, (channels, height, width), at the model's own size.
        size: of the pictures, (height, width) in pixels.
    """

    pipe: Any
    network: Any
    schedule: NoiseSchedule
    shape: tuple[int, int, int]
    size: tuple[int, int]

    def __call__(self, noised: Tensor, steps: Tensor, said: Said) -> Tensor:
        """What the denoiser says of noised latents; a variance that it tells beside it (IF, PixArt) is cut off.

        Args:
            noised: (n, channels, height, width).
            steps: (n,) indices into the schedule.
            said: n rows.

        Returns:
            (n, channels, height, width), of `noised`'s dtype.
        """
        weights = next(self.network.parameters())
        device, dtype = weights.device, weights.dtype
        times = self.schedule.times[steps.cpu()].to(device)
        text = {name: part.to(device) for name, part in said.parts.items()}
        latents, embeds = noised.to(device, dtype), text["embeds"].to(dtype)
        told = _CALLS.get(type(self.network).__name__, _unet)(self, latents, times, embeds, text)
        return told[:, : noised.shape[1]].to(noised)

    def errors(self, latents: Tensor, noise: Tensor, steps: Tensor, said: Said) -> Tensor:
        """The mean squared error of each row's prediction, shape (n,): the loss that the model was trained with."""
        told = self(self.schedule.noised(latents, noise, steps), steps, said)
        return (told - self.schedule.target(latents, noise, steps)).float().square().flatten(1).mean(1)

    def noise_errors(self, latents: Tensor, noise: Tensor, steps: Tensor, said: Said) -> Tensor:
        """|eps_theta(z_t, t, c) - eps|^2 of eq. 9.1 for each row, shape (n,), over the number of latents' entries.

        Of a model that predicts something else, eps_theta is the noise that its prediction implies for the noised
        latents. On Tinyworld's model, which tells velocities, this told captions apart better than its own loss.
        """
        factor = self.schedule.implies[steps.cpu()].square()
        errors = self.errors(latents, noise, steps, said)
        return factor.to(errors) * errors


def denoiser_of(pipe: "DiffusionPipeline") -> Denoiser:
    """The denoiser of a text-to-image pipeline.

    Raises:
        ModelError: the pipeline has no UNet or transformer of a known family, or no scheduler of a known kind.
    """
    parts: Any = pipe
    network: Any = getattr(parts, "unet", None) or getattr(parts, "transformer", None)
    kind = type(network).__name__
    if kind not in ("UNet2DConditionModel", *_CALLS):
        raise ModelError(
            f"the denoiser of {type(pipe).__name__} is {kind}, which is not known here: known are "
            f"UNet2DConditionModel, {', '.join(_CALLS)}"
        )
    scale = parts.vae_scale_factor if getattr(parts, "vae", None) is not None else 1
    side = parts.default_sample_size if "Flux" in kind else network.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    channels = network.config.in_channels // (4 if "Flux" in kind else 1)
    schedule = noise_schedule(getattr(parts, "scheduler", None))
    return Denoiser(parts, network, schedule, (channels, height, width), (height * scale, width * scale))


@torch.no_grad()
def picture_latents(pipe: "DiffusionPipeline", pictures: Sequence["Image"], batch: int = 16) -> Tensor:
    """Encode pictures as the pipeline's denoiser reads them: the encoder's mean, scaled (v_alpha of eq. 9.1).

    Pictures are resized to the model's own square, without cropping, so that no thing at the rim is lost. For IF, which
    has no autoencoder, these are the pixels from -1 to 1.

    Returns:
        (n, channels, height, width) float32 on the CPU.

    Raises:
        ModelError: the pipeline's family is not known, or its autoencoder gives values that are not finite.
    """
    import numpy as np

    denoiser, parts = denoiser_of(pipe), []
    size = denoiser.size[::-1]
    for start in range(0, len(pictures), batch):
        shown = [picture.convert("RGB").resize(size, resample=3) for picture in pictures[start : start + batch]]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in shown])).permute(0, 3, 1, 2)
        parts.append(_encoded(denoiser.pipe, pixels.float() / 127.5 - 1).float().cpu())
    found = torch.cat(parts) if parts else torch.zeros(0, *denoiser.shape)
    if not torch.isfinite(found).all():
        raise ModelError(f"the autoencoder of {type(pipe).__name__} gives values that are not finite: use float32")
    return found


def _encoded(pipe: Any, pixels: Tensor) -> Tensor:
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return pixels
    weights = next(vae.parameters())
    latents = vae.encode(pixels.to(weights.device, weights.dtype)).latent_dist.mode()
    return (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor


def _unet(denoiser: Denoiser, latents: Tensor, times: Tensor, embeds: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Stable Diffusion 1.x and 2.x, IF, and SDXL with its pooled text and sizes."""
    extra: dict[str, Any] = {}
    if "pooled" in text:
        height, width = denoiser.size
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=embeds.dtype, device=embeds.device)
        extra["added_cond_kwargs"] = {
            "text_embeds": text["pooled"].to(embeds),
            "time_ids": sizes.expand(len(latents), -1),
        }
    return denoiser.network(latents, times, encoder_hidden_states=embeds, **extra).sample


def _sd3(denoiser: Denoiser, latents: Tensor, times: Tensor, embeds: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    pooled = text["pooled"].to(embeds)
    return denoiser.network(latents, embeds, pooled_projections=pooled, timestep=times).sample


def _pixart(denoiser: Denoiser, latents: Tensor, times: Tensor, embeds: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    extra: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if denoiser.network.use_additional_conditions:
        height, width = denoiser.size
        extra["resolution"] = embeds.new_tensor([[height, width]]).expand(len(latents), -1)
        extra["aspect_ratio"] = embeds.new_tensor([[height / width]]).expand(len(latents), -1)
    mask = text["mask"]
    return denoiser.network(
        latents, embeds, timestep=times, encoder_attention_mask=mask, added_cond_kwargs=extra
    ).sample


def _flux(denoiser: Denoiser, latents: Tensor, times: Tensor, embeds: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Latents go in and out as rows of 2 x 2 squares; a model distilled from guidance is asked for none of it (1)."""
    count, channels, height, width = latents.shape
    rows, columns = height // 2, width // 2
    packed = latents.reshape(count, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
    places = torch.zeros(rows, columns, 3)
    places[..., 1] += torch.arange(rows)[:, None]
    places[..., 2] += torch.arange(columns)[None]
    guided = denoiser.network.config.guidance_embeds
    told = denoiser.network(
        hidden_states=packed.reshape(count, rows * columns, channels * 4),
        timestep=times.to(latents.dtype) / denoiser.schedule.steps,
        guidance=latents.new_ones(count) if guided else None,
        pooled_projections=text["pooled"].to(embeds),
        encoder_hidden_states=embeds,
        txt_ids=embeds.new_zeros(embeds.shape[1], 3),
        img_ids=places.reshape(-1, 3).to(embeds),
    ).sample
    parts = told.reshape(count, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(count, channels, height, width)


_CALLS = {
    "SD3Transformer2DModel": _sd3,
    "PixArtTransformer2DModel": _pixart,
    "FluxTransformer2DModel": _flux,
}
