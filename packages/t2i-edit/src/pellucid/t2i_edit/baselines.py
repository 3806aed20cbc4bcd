"""Fine-tuning baselines (thesis 5.4.2, 5.9.2): Concept-Erase (ESD) and Concept-Ablation."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.conditioning import encode
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.fine_tuned import FineTuned
from pellucid.core.generation import generate
from torch import Tensor
from torch.nn.functional import mse_loss

from .concepts import ConceptPrompts
from .fine_tuning import fine_tune, stable_diffusion

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SAMPLED = 25  # denoising steps of the generations that the trainings use


def concept_erase(
    pipe: "DiffusionPipeline",
    concepts: Sequence[ConceptPrompts],
    *,
    steps: int = 200,
    rate: float = 1e-5,
    strength: float = 1.0,
    guidance: float = 3.0,
    batch: int = 4,
    seed: int = 0,
) -> FineTuned:
    """Train cross-attention to turn away from concepts (ESD-x, Gandikota et al. 2023).

    On latents half denoised with a concept's prompt, the model learns to say for that prompt what the old one says
    without any, minus `strength` times the prompt's own direction.

    Args:
        pipe: a `StableDiffusionPipeline`.
        concepts: their prompts are erased; targets are not used.
        steps: of the optimiser (the authors: 1000 at a rate of 1e-5).
        rate: learning rate.
        strength: how far beyond "without a prompt"; their eta.
        guidance: diffusers' `guidance_scale` while latents are denoised.
        batch: latents a step.
        seed: of noise, steps and prompts.

    Raises:
        OptionError: the pipeline is another one.
    """
    parts, prompts = stable_diffusion(pipe), [prompt for concept in concepts for prompt in concept.prompts]
    student, teacher = parts.unet, _frozen(parts.unet)
    told = encode(pipe, prompts).arguments
    said, silence = told["prompt_embeds"], told["negative_prompt_embeds"]

    def loss(step: int) -> Tensor:
        chance = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(prompts), (batch,), generator=chance)
        stop = int(torch.randint(_SAMPLED, (1,), generator=chance))
        text, none = said[chosen], silence[chosen]
        latents, time = _half_denoised(parts, text, none, stop, guidance, chance)
        with torch.no_grad():
            there, away = (teacher(latents, time, cond).sample for cond in (text, none))
        return mse_loss(student(latents, time, text).sample, away - strength * (there - away))

    layers = tuple(f"{layer.name}." for layer in denoiser_anatomy(pipe).cross_attentions)
    return fine_tune(pipe, lambda name: name.startswith(layers), loss, what="Concept-Erase", steps=steps, rate=rate)


def concept_ablation(
    pipe: "DiffusionPipeline",
    concepts: Sequence[ConceptPrompts],
    *,
    steps: int = 200,
    rate: float = 1e-5,
    guidance: float = 6.0,
    batch: int = 4,
    pictures: int = 64,
    seed: int = 0,
) -> FineTuned:
    """Train cross-attention's keys and values to draw a concept as its target (Kumari et al. 2023, model-based).

    On noised pictures of the targets, the model learns to say for a concept's prompt what the old one says for its
    target.

    Args:
        pipe: a `StableDiffusionPipeline`.
        concepts: prompts and targets.
        steps: of the optimiser (the authors: 100 to 200).
        rate: learning rate.
        guidance: diffusers' `guidance_scale` for the pictures of the targets.
        batch: latents a step.
        pictures: generated beforehand, the targets in turn.
        seed: of noise, steps, prompts and pictures.

    Raises:
        OptionError: the pipeline is another one.
    """
    parts, teacher = stable_diffusion(pipe), _frozen(stable_diffusion(pipe).unet)
    prompts = [prompt for concept in concepts for prompt in concept.prompts]
    targets = [target for concept in concepts for target in concept.targets]
    said, meant = (encode(pipe, texts).arguments["prompt_embeds"] for texts in (prompts, targets))
    shown = [number % len(targets) for number in range(pictures)]
    clean = _generated(pipe, [targets[place] for place in shown], guidance, batch, seed)

    def loss(step: int) -> Tensor:
        chance = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(pictures, (batch,), generator=chance)
        times = torch.randint(parts.scheduler.config.num_train_timesteps, (batch,), generator=chance)
        noise = torch.randn(clean[chosen].shape, generator=chance).to(clean)
        noised = parts.scheduler.add_noise(clean[chosen], noise, times.to(clean.device))
        places = [shown[number] for number in chosen.tolist()]
        with torch.no_grad():
            wanted = teacher(noised, times.to(clean.device), meant[places]).sample
        return mse_loss(parts.unet(noised, times.to(clean.device), said[places]).sample, wanted)

    layers = denoiser_anatomy(pipe).cross_attentions
    names = tuple(f"{name}." for layer in layers for name in (layer.key, layer.value))
    return fine_tune(pipe, lambda name: name.startswith(names), loss, what="Concept-Ablation", steps=steps, rate=rate)


def _frozen(unet: Any) -> Any:
    return copy.deepcopy(unet).eval().requires_grad_(False)


def _generated(pipe: "DiffusionPipeline", prompts: list[str], guidance: float, batch: int, seed: int) -> Tensor:
    parts = [
        generate(
            pipe,
            encode(pipe, prompts[start : start + batch]),
            [seed + start + row for row in range(len(prompts[start : start + batch]))],
            steps=_SAMPLED,
            guidance=guidance,
            output="latents",
        )
        for start in range(0, len(prompts), batch)
    ]
    return torch.cat([torch.as_tensor(part) for part in parts])


@torch.no_grad()
def _half_denoised(
    pipe: Any, text: Tensor, none: Tensor, stop: int, guidance: float, chance: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Latents denoised with a prompt for `stop` of 25 steps, and the time that they are at."""
    scheduler, config = copy.deepcopy(pipe.scheduler), pipe.unet.config
    scheduler.set_timesteps(_SAMPLED, device=pipe.device)
    shape = (len(text), config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(shape, generator=chance).to(text) * scheduler.init_noise_sigma
    both = torch.cat([none, text])
    for time in scheduler.timesteps[:stop]:
        asked = scheduler.scale_model_input(torch.cat([latents] * 2), time)
        away, there = pipe.unet(asked, time, both).sample.chunk(2)
        latents = scheduler.step(away + guidance * (there - away), time, latents).prev_sample
    return scheduler.scale_model_input(latents, scheduler.timesteps[stop]), scheduler.timesteps[stop]
