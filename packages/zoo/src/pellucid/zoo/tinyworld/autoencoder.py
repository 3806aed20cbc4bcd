"""The autoencoder of Tinyworld's Stable Diffusion: 32x32 pictures to 8x8 latents of 4 channels and back."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from .checkpoints import Task, fit, generator_of, seeded
from .data import Pool

_ENCODED = 250


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How the autoencoder is trained.

    Attributes:
        steps: of the optimiser.
        batch: pictures a step.
        rate: highest learning rate.
        edges: weight of the difference between neighbouring pixels' differences, beside the pixels' own.
        spread: weight of the divergence from the standard normal, a mean over the latents.
        seed: fixes weights and batches.
    """

    steps: int = 3000
    batch: int = 32
    rate: float = 1e-3
    edges: float = 1.0
    spread: float = 5e-4
    seed: int = 0


def build_autoencoder() -> AutoencoderKL:
    """The untrained network: 0.95 million parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=32,
    )


def train_autoencoder(
    out: Path, pool: Pool, recipe: AutoencoderRecipe | None = None, device: str = "cpu", resume: bool = True
) -> float:
    """Train the autoencoder and write it to `out` as `from_pretrained` reads it.

    Args:
        out: folder for the result and for checkpoints; `forget` removes the last of these.
        pool: what to train on.
        recipe: how.
        device: as torch names it.
        resume: go on from a checkpoint.

    Returns:
        The seconds of training.
    """
    recipe = recipe or AutoencoderRecipe()
    with seeded(recipe.seed):
        net = build_autoencoder().to(device)

    def loss(step: int) -> Tensor:
        chance = generator_of(recipe.seed, step)
        chosen = torch.randint(len(pool), (recipe.batch,), generator=chance)
        shown = pixels(pool.pictures[chosen.numpy()]).to(device)
        drawn, spread = drawn_again(net, shown, chance)
        missed = functional.l1_loss(drawn, shown) + recipe.edges * _edges_missed(drawn, shown)
        return missed + recipe.spread * spread

    optimiser = torch.optim.AdamW(net.parameters(), recipe.rate, weight_decay=0.0)
    identity = {**asdict(recipe), "pool": [len(pool), pool.seed]}
    task = Task("Autoencoder", out, {"vae": net}, optimiser, loss, recipe.rate, recipe.steps, identity, resume=resume)
    seconds = fit(task)
    net.eval()
    net.register_to_config(scaling_factor=measured_scale(net, pool))
    net.save_pretrained(out)
    return seconds


def drawn_again(net: AutoencoderKL, shown: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures through the autoencoder, with the noise that its encoder asks for.

    Returns:
        The pictures drawn, and the divergence of the latents from the standard normal, a mean over all of them.
    """
    latents = net.encode(shown).latent_dist
    noise = torch.randn(latents.mean.shape, generator=chance).to(shown.device)
    return net.decode(latents.mean + latents.std * noise).sample, latents.kl().mean() / latents.mean[0].numel()


def measured_scale(net: AutoencoderKL, pool: Pool) -> float:
    """The scaling factor: one over the standard deviation of the first 2,000 latents."""
    return float(1 / encoded(net, pool.pictures[:2000]).std())


def pixels(pictures: np.ndarray) -> Tensor:
    """Pictures as the networks read them: (n, 32, 32, 3) uint8 to (n, 3, 32, 32) float32 from -1 to 1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def encoded(net: AutoencoderKL, pictures: np.ndarray) -> Tensor:
    """The latents' means, unscaled: (n, 4, 8, 8) float32 on the CPU."""
    with torch.inference_mode():
        parts = [
            net.encode(pixels(pictures[start : start + _ENCODED]).to(net.device)).latent_dist.mean.cpu()
            for start in range(0, len(pictures), _ENCODED)
        ]
    return torch.cat(parts).clone()


def _edges_missed(drawn: Tensor, shown: Tensor) -> Tensor:
    missed = drawn - shown
    across, down = missed[..., 1:] - missed[..., :-1], missed[..., 1:, :] - missed[..., :-1, :]
    return across.abs().mean() + down.abs().mean()
