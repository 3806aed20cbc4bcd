"""The losses of SDS-CLIP: contrastive, score distillation through a frozen denoiser (eq. 9.3), and its baseline."""

import math
from typing import Any

import torch
from pellucid.core.errors import OptionError
from pellucid.core.tracing import Site, capture
from torch import Tensor, nn
from torch.nn import functional

from .denoising import Denoiser, Said

FEATURES = "mid_block"
"""Which of a UNet's representations the feature-distillation baseline takes."""
_WARMEST = math.log(100)  # CLIP's own bound on the logit scale


class LatentMap(nn.Module):
    """The linear map h_w of eq. 9.3, from a CLIP's picture embeddings into a denoiser's space, without a bias.

    With ViT-B/16's 512 numbers and Stable Diffusion's 4 x 64 x 64 latents it has the thesis's 8 million weights, which
    tells that it reads the embedding which pictures share with texts, not the wider one before the last projection.

    Args:
        width: of the embeddings.
        shape: (channels, height, width) of what it maps to.
        seed: of its weights, which are drawn as `nn.Linear` draws them; torch's own chance is not touched.
    """

    def __init__(self, width: int, shape: tuple[int, int, int], seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        drawn = torch.rand(math.prod(shape), width, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter((2 * drawn - 1) / math.sqrt(width))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (n, width) to latents (n, channels, height, width)."""
        return functional.linear(embeddings, self.weight).unflatten(1, self.shape)


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's loss on n pairs: cross-entropy of each picture over the texts and of each text over the pictures, halved.

    Args:
        images: (n, width), not normalised.
        texts: (n, width), likewise.
        logit_scale: logarithm of the factor on cosines; bounded by ln 100, as in CLIP.
    """
    seen, said = (functional.normalize(part.float(), dim=-1) for part in (images, texts))
    logits = logit_scale.clamp(max=_WARMEST).exp() * seen @ said.T
    right = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


def sds_loss(denoiser: Denoiser, latents: Tensor, noise: Tensor, steps: Tensor, said: Said) -> Tensor:
    """L_SDS of eq. 9.3: how badly a frozen denoiser, told the caption, denoises what a CLIP made of the picture.

    The latents h_w(f(x)) are noised as those of eq. 9.1 are (both equations leave that out in writing), and the loss is
    differentiated through the denoiser: unlike in DreamFusion's gradient, its Jacobian is kept (section 11.8.2). It is
    the mean over the latents' entries, as diffusion losses are computed; the thesis's lambda = 0.001 is taken to weigh
    that mean.

    Args:
        denoiser: the teacher; its parameters must not ask for gradients.
        latents: (n, channels, height, width) of `LatentMap`.
        noise: the same shape.
        steps: (n,) of the noise schedule.
        said: the captions, n rows.
    """
    return denoiser.noise_errors(latents, noise, steps, said).mean()


def feature_shape(denoiser: Denoiser, said: Said) -> tuple[int, int, int]:
    """(channels, height, width) of the UNet's features that `feature_loss` aims at.

    Raises:
        OptionError: the denoiser has none.
    """
    empty = torch.zeros(1, *denoiser.shape)
    found = unet_features(denoiser, empty, empty, torch.zeros(1, dtype=torch.long), said.take([0]))
    channels, height, width = found.shape[1:]
    return channels, height, width


@torch.no_grad()
def unet_features(denoiser: Denoiser, latents: Tensor, noise: Tensor, steps: Tensor, said: Said) -> Tensor:
    """I(x, c) of eq. 11.19: what a frozen UNet holds in its middle while it denoises a picture, float32.

    Args:
        denoiser: a UNet.
        latents: (n, channels, height, width) of the pictures.
        noise: the same shape.
        steps: (n,) of the noise schedule.
        said: the captions, n rows.

    Raises:
        OptionError: the denoiser has no middle block.
    """
    network: Any = denoiser.network
    if getattr(network, FEATURES, None) is None:
        raise OptionError(
            f"features are taken from a UNet's middle, and {type(network).__name__} has none: use the method sds"
        )
    site = Site(FEATURES, "output")
    with capture(network, [site]) as seen:
        denoiser(denoiser.schedule.noised(latents, noise, steps), steps, said)
    found: Tensor = seen[site][0]
    return found.float()


def feature_loss(mapped: Tensor, features: Tensor) -> Tensor:
    """The second term of eq. 11.19: the mean squared distance of h_w(f(x)) from the UNet's features of the picture."""
    return functional.mse_loss(mapped.float(), features)
