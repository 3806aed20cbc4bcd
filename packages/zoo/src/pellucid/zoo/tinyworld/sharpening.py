"""The decoder's last training, against a critic: it learns to draw brushwork that is right without being the same.

The latents tell which pictures are dotted, but not where each dot stands, so that any loss which compares pictures
place by place is best served by no dots at all. A critic that sees small neighbourhoods beside their latents asks only
that they could be real (the patch critic of Esser et al. 2021, with the hinge loss). The encoder stays as it is, and
with it all latents: a UNet trained on them needs no second look.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss, mse_loss, relu

from .autoencoder import pixels
from .checkpoints import Task, fit, generator_of, seeded
from .data import Pool
from .refining import energy, features


@dataclass(frozen=True)
class SharpeningRecipe:
    """How the decoder is trained against its critic.

    Attributes:
        steps: of the optimiser.
        batch: pictures a step.
        rate: highest learning rate, of both.
        pixels: weight of the mean absolute difference of pixels.
        energy: weight of the difference in fine detail's energy.
        features: weight of the squared difference of the CLIP's features.
        critic: weight of what the critic says.
        seed: fixes the critic's weights and the batches.
    """

    steps: int = 600
    batch: int = 32
    rate: float = 5e-4
    pixels: float = 1.0
    energy: float = 6.0
    features: float = 1.0
    critic: float = 0.1
    seed: int = 2


def build_critic() -> nn.Sequential:
    """Sees 3 colours and 4 channels of latents, `(n, 7, 32, 32)`; scores neighbourhoods of 16x16, `(n, 1, 8, 8)`."""
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(7, 48, 3, padding=1)),
        nn.LeakyReLU(0.2),
        norm(nn.Conv2d(48, 64, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        norm(nn.Conv2d(64, 96, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        norm(nn.Conv2d(96, 1, 1)),
    )


def sharpen_decoder(
    out: Path,
    pool: Pool,
    net: AutoencoderKL,
    vision: nn.Module,
    recipe: SharpeningRecipe | None = None,
    device: str = "cpu",
    resume: bool = True,
) -> float:
    """Train an autoencoder's decoder on and write it to `out`; its encoder and scaling factor stay.

    Args:
        out: folder for the result and for checkpoints; `forget` removes the last of these.
        pool: what to train on.
        net: from the second training; its decoder is changed.
        vision: the CLIP's `vision_model`; it stays as it is.
        recipe: how.
        device: as torch names it.
        resume: go on from a checkpoint.

    Returns:
        The seconds of training.
    """
    recipe = recipe or SharpeningRecipe()
    net.to(device).train().requires_grad_(False)
    net.decoder.requires_grad_(True)
    vision = vision.to(device).eval().requires_grad_(False)
    with seeded(recipe.seed):
        critic = build_critic().to(device)

    def loss(step: int) -> Tensor:
        chance = generator_of(recipe.seed, step)
        chosen = torch.randint(len(pool), (recipe.batch,), generator=chance)
        shown = pixels(pool.pictures[chosen.numpy()]).to(device)
        with torch.no_grad():
            latents = net.encode(shown).latent_dist.mean
            wanted = features(vision, shown)
            beside = interpolate(latents, shown.shape[-2:])
        drawn = net.decode(latents).sample
        said = critic(torch.cat([torch.cat([shown, drawn.detach()]), beside.repeat(2, 1, 1, 1)], 1))
        real, false = said.chunk(2)
        judged = relu(1 - real).mean() + relu(1 + false).mean()
        # The decoder alone learns from what the critic says of its pictures.
        critic.requires_grad_(False)
        pleased = critic(torch.cat([drawn, beside], 1)).mean()
        critic.requires_grad_(True)
        alike = torch.stack([mse_loss(*pair) for pair in zip(features(vision, drawn), wanted, strict=True)]).mean()
        return (
            recipe.pixels * l1_loss(drawn, shown)
            + recipe.energy * l1_loss(energy(drawn), energy(shown))
            + recipe.features * alike
            - recipe.critic * pleased
            + judged
        )

    optimiser = torch.optim.AdamW(
        [{"params": net.decoder.parameters()}, {"params": critic.parameters()}],
        recipe.rate,
        betas=(0.5, 0.9),
        weight_decay=0.0,
    )
    identity = {**asdict(recipe), "pool": [len(pool), pool.seed]}
    networks = {"vae": net, "critic": critic}
    task = Task("Decoder", out, networks, optimiser, loss, recipe.rate, recipe.steps, identity, resume=resume)
    seconds = fit(task)
    net.eval().save_pretrained(out)
    return seconds
