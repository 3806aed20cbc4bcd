"""Tinyworld's Stable Diffusion: a `UNet2DConditionModel` on the autoencoder's latents and the CLIP's text."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel

from .autoencoder import encoded
from .checkpoints import Task, fit, generator_of, seeded
from .data import PARAPHRASES, Pool, tokenised
from .tokenizer import build_tokenizer

_READ = 500
_UNET = "ema"


@dataclass(frozen=True)
class DiffusionRecipe:
    """How the UNet is trained.

    Attributes:
        steps: of the optimiser.
        batch: latents a step.
        rate: highest learning rate.
        unsaid: share of pictures trained without their caption, for classifier-free guidance.
        snr: at which signal-to-noise ratio the weight of a step stops growing (min-SNR, Hang et al. 2023).
        decay: of the running mean of the weights, which is what is kept.
        seed: fixes weights, batches, paraphrases and noise.
    """

    steps: int = 6000
    batch: int = 64
    rate: float = 6e-4
    unsaid: float = 0.1
    snr: float = 5.0
    decay: float = 0.999
    seed: int = 0


def build_unet() -> UNet2DConditionModel:
    """The untrained network: 5.9 million parameters; ten cross-attention layers: 3 down, 1 in the middle, 6 up."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """The noise: a thousand steps that end without signal; the network tells the velocity."""
    return DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def train_diffusion(
    out: Path,
    pool: Pool,
    text_encoder: CLIPTextModel,
    autoencoder: AutoencoderKL,
    recipe: DiffusionRecipe | None = None,
    device: str = "cpu",
    resume: bool = True,
    begun: UNet2DConditionModel | None = None,
) -> float:
    """Train the UNet and write the whole pipeline to `out` as `StableDiffusionPipeline.from_pretrained` reads it.

    Latents and captions are encoded once, before the first step (captions take 11 kB each).

    Args:
        out: folder for the result and for checkpoints; `forget` removes the last of these.
        pool: what to train on.
        text_encoder: of the CLIP; it stays as it is.
        autoencoder: trained; it stays as it is.
        recipe: how.
        device: as torch names it.
        resume: go on from a checkpoint.
        begun: a UNet to train on, which is changed; where none is given, a new one.

    Returns:
        The seconds of training.
    """
    recipe = recipe or DiffusionRecipe()
    autoencoder, text_encoder = autoencoder.to(device).eval(), text_encoder.to(device).eval()
    latents = encoded(autoencoder, pool.pictures) * autoencoder.config.scaling_factor
    said = read(text_encoder, torch.from_numpy(pool.tokens.reshape(len(pool) * PARAPHRASES, -1)))
    silence = read(text_encoder, torch.from_numpy(tokenised([""])))
    with seeded(recipe.seed):
        unet = (begun or build_unet()).to(device).train().requires_grad_(True)
    mean = build_unet().to(device).requires_grad_(False)
    mean.load_state_dict(unet.state_dict())
    scheduler = build_scheduler()
    signal = scheduler.alphas_cumprod
    worth = (signal / (1 - signal)).clamp(max=recipe.snr) * (1 - signal)

    def loss(step: int) -> Tensor:
        chance = generator_of(recipe.seed, step)
        chosen = torch.randint(len(pool), (recipe.batch,), generator=chance)
        which = torch.randint(PARAPHRASES, (recipe.batch,), generator=chance)
        quiet = torch.rand(recipe.batch, generator=chance) < recipe.unsaid
        times = torch.randint(len(signal), (recipe.batch,), generator=chance)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=chance)
        text = torch.where(quiet[:, None, None], silence, said[chosen * PARAPHRASES + which]).float()
        noised = scheduler.add_noise(clean, noise, times)
        velocity = scheduler.get_velocity(clean, noise, times)
        told = unet(noised.to(device), times.to(device), text.to(device)).sample
        missed = functional.mse_loss(told, velocity.to(device), reduction="none").mean((1, 2, 3))
        return (worth[times].to(device) * missed).mean()

    def follow(step: int) -> None:
        keep = min(recipe.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(mean.parameters()), list(unet.parameters()), 1 - keep)

    optimiser = torch.optim.AdamW(unet.parameters(), recipe.rate, weight_decay=0.0)
    identity = {**asdict(recipe), "pool": [len(pool), pool.seed], "begun": begun is not None}
    networks = {"unet": unet, _UNET: mean}
    task = Task("Diffusion", out, networks, optimiser, loss, recipe.rate, recipe.steps, identity, follow, resume)
    seconds = fit(task)
    pipeline(mean, text_encoder, autoencoder).save_pretrained(out)
    return seconds


def pipeline(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, autoencoder: AutoencoderKL
) -> StableDiffusionPipeline:
    """The parts as one pipeline, without a safety checker."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=build_tokenizer(),
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def read(text_encoder: CLIPTextModel, tokens: Tensor) -> Tensor:
    """Captions as the UNet is given them: token ids (n, 44) to (n, 44, 128) float16 on the CPU."""
    found = torch.empty(*tokens.shape, text_encoder.config.hidden_size, dtype=torch.float16)
    with torch.inference_mode():
        for start in range(0, len(tokens), _READ):
            batch = tokens[start : start + _READ].long().to(text_encoder.device)
            found[start : start + _READ] = text_encoder(batch).last_hidden_state.cpu()
    return found
