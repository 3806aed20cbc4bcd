"""The autoencoder's second training: pixels alone teach it to smooth brushwork away; here it learns to keep that.

Styles such as dots or swirls are more than 256 numbers can hold pixel by pixel. Two further terms ask only that they
look alike: the energy of fine detail in each neighbourhood, and the features of Tinyworld's own CLIP, as others take
them from a network trained on photographs (the perceptual loss of Zhang et al. 2018).
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, l1_loss, mse_loss

from .autoencoder import drawn_again, measured_scale, pixels
from .checkpoints import Task, fit, generator_of
from .data import Pool


@dataclass(frozen=True)
class RefiningRecipe:
    """How the autoencoder is trained on.

    Attributes:
        steps: of the optimiser.
        batch: pictures a step.
        rate: highest learning rate.
        pixels: weight of the mean absolute difference of pixels.
        energy: weight of the difference in fine detail's energy.
        features: weight of the squared difference of the CLIP's features.
        spread: as in the first training.
        seed: fixes batches and noise.
    """

    steps: int = 900
    batch: int = 32
    rate: float = 1e-3
    pixels: float = 0.25
    energy: float = 6.0
    features: float = 1.0
    spread: float = 5e-4
    seed: int = 1


def refine_autoencoder(
    out: Path,
    pool: Pool,
    net: AutoencoderKL,
    vision: nn.Module,
    recipe: RefiningRecipe | None = None,
    device: str = "cpu",
    resume: bool = True,
) -> float:
    """Train an autoencoder on, encoder and decoder, and write it to `out`; its scaling factor is measured again.

    Args:
        out: folder for the result and for checkpoints; `forget` removes the last of these.
        pool: what to train on.
        net: from the first training; it is changed.
        vision: the CLIP's `vision_model`; it stays as it is.
        recipe: how.
        device: as torch names it.
        resume: go on from a checkpoint.

    Returns:
        The seconds of training.
    """
    recipe = recipe or RefiningRecipe()
    net.to(device).train().requires_grad_(True)
    vision = vision.to(device).eval().requires_grad_(False)

    def loss(step: int) -> Tensor:
        chance = generator_of(recipe.seed, step)
        chosen = torch.randint(len(pool), (recipe.batch,), generator=chance)
        shown = pixels(pool.pictures[chosen.numpy()]).to(device)
        drawn, spread = drawn_again(net, shown, chance)
        with torch.no_grad():
            wanted = features(vision, shown)
        alike = torch.stack([mse_loss(*pair) for pair in zip(features(vision, drawn), wanted, strict=True)]).mean()
        return (
            recipe.pixels * l1_loss(drawn, shown)
            + recipe.energy * l1_loss(energy(drawn), energy(shown))
            + recipe.features * alike
            + recipe.spread * spread
        )

    optimiser = torch.optim.AdamW(net.parameters(), recipe.rate, weight_decay=0.0)
    identity = {**asdict(recipe), "pool": [len(pool), pool.seed]}
    networks = {"vae": net}
    task = Task("Autoencoder", out, networks, optimiser, loss, recipe.rate, recipe.steps, identity, resume=resume)
    seconds = fit(task)
    net.eval().register_to_config(scaling_factor=measured_scale(net, pool))
    net.save_pretrained(out)
    return seconds


def energy(pictures: Tensor) -> Tensor:
    """How strong fine detail is around each place: (n, c, h, w) to (n, 4 c, h', w').

    Differences to the right, downwards and along both diagonals, their root mean square over 8x8 places, every fourth.
    """
    across = pictures[..., :-1, 1:] - pictures[..., :-1, :-1]
    down = pictures[..., 1:, :-1] - pictures[..., :-1, :-1]
    one, other = pictures[..., 1:, 1:] - pictures[..., :-1, :-1], pictures[..., 1:, :-1] - pictures[..., :-1, 1:]
    return (avg_pool2d(torch.cat([across, down, one, other], 1).square(), 8, 4, padding=4) + 1e-4).sqrt()


def features(vision: nn.Module, pictures: Tensor) -> list[Tensor]:
    """The CLIP's hidden states after its second and later layers, each place scaled to unit variance."""
    states = vision(pixel_values=pictures, output_hidden_states=True).hidden_states[2:]
    return [nn.functional.layer_norm(state, state.shape[-1:]) for state in states]
