"""Backbones: what turns images into embeddings. Pixels, Conv-4, and any of timm, open_clip and transformers."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.sweeps import digest
from torch import Tensor, nn

SOURCES = ("pixels", "conv4", "timm", "open_clip", "transformers")
SEED = 0
"""Of random weights: the same on every machine."""

Prepare = Callable[[Sequence[NDArray[np.uint8]]], Tensor]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network and what brings images into its form.

    Attributes:
        name: as it was asked for, such as `timm:resnet18`.
        dim: dimensions of an embedding; 0 for `pixels`, where the images decide.
        module: maps prepared images (n, 3, H, W) to embeddings (n, d).
        prepare: from n arrays of (h, w) or (h, w, 3), uint8, to a float tensor (n, 3, H, W), resized, cropped and
            normalised as the network wants it. `pixels` keeps grey arrays grey: (n, 1, h, w).
        revision: `sha256:` and a hash of the weights, the architecture and the preparation.
        device: where the module lies.
    """

    name: str
    dim: int
    module: nn.Module
    prepare: Prepare
    revision: str
    device: str = "cpu"

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return (n, d) embeddings of n images, which go through the module in one batch."""
        training = self.module.training
        self.module.eval()
        try:
            with torch.inference_mode():
                found = self.module(self.prepare(images).to(self.device))
        finally:
            self.module.train(training)
        return found.float().cpu().numpy()


def load_backbone(spec: str, weights: str | Path | None = None, device: str = "cpu") -> Backbone:
    """Load a backbone.

    Args:
        spec: one of

            - `pixels`: the pixels' values, 0 to 1, as they are; `pixels:SIZE` resizes images to SIZE x SIZE first.
            - `conv4`: the four-layer network of few-shot learning (Snell et al. 2017), 64 channels wide, for images of
              84x84; `conv4:WIDTH/SIZE` sets both, such as `conv4:64/28` for small drawings.
            - `timm:NAME` or `timm:FOLDER`: a timm model without its classifier.
            - `open_clip:ARCH/PRETRAINED` or `open_clip:FOLDER`: the image tower of a CLIP, such as
              `open_clip:ViT-B-32/laion2b_s34b_b79k`.
            - `transformers:ID`, `transformers:FOLDER`: an image model's pooled output, else that of its class token;
              of a CLIP the image tower, projected.
        weights: a .safetensors file of the module's own weights, as `meta_training` writes them; "random" for random
            ones; None for the published ones (`conv4` has none: random). Pickled weights are never read.
        device: where to compute, such as "cuda".

    Raises:
        OptionError: there is no such backbone, or the device or the options cannot be.
        ModelError: a library is not installed, or the weights are not to be had or do not fit.
    """
    source, _, rest = spec.partition(":")
    if source not in SOURCES or (source not in ("pixels", "conv4") and not rest):
        raise OptionError(
            f"{spec!r} is no backbone: give pixels, conv4, timm:NAME, open_clip:ARCH/PRETRAINED or transformers:ID"
        )
    file = _weights_file(weights)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {device!r} cannot be used ({_line(error)}): give cpu, or one there is") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module, prepare, form = _built(source, rest, spec, published=weights is None)
    if file is not None:
        _load(module, file)
    module = module.float().eval()
    revision = f"sha256:{digest([form, dict(module.state_dict())])}"
    dim = 0 if source == "pixels" else _dim(module, prepare, spec)
    return Backbone(spec, dim, module.to(device), prepare, revision, device)


class Conv4(nn.Module):
    """Four blocks of a 3x3 convolution, batch normalisation, ReLU and 2x2 max-pooling, flattened (Snell et al. 2017).

    Args:
        width: channels of each block.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(self._block(3 if place == 0 else width, width) for place in range(4)))

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, 3, h, w) to (n, width * (h // 16) * (w // 16))."""
        return self.blocks(images).flatten(1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)
        )


def _built(source: str, rest: str, spec: str, *, published: bool) -> tuple[nn.Module, Prepare, str]:
    """Return a network, its preparation, and what tells both apart from others, in words."""
    if source == "pixels":
        size = _numbers(spec, rest, 1)[0] if rest else None
        return nn.Flatten(), lambda images: _pixels(images, size), f"pixels {size}"
    if source == "conv4":
        width, size = _numbers(spec, rest, 2) if rest else (64, 84)
        if size < 16:
            raise OptionError(f"{spec!r} is for images of {size}x{size}: conv4 halves them four times, so 16 at least")
        return Conv4(width), lambda images: _pixels(images, size, colour=True) * 2 - 1, f"conv4 {width} {size}"
    from .libraries import open_clip_model, timm_model, transformers_model

    builders = {"timm": timm_model, "open_clip": open_clip_model, "transformers": transformers_model}
    return builders[source](rest, published)


def _pixels(images: Sequence[NDArray[np.uint8]], size: int | None, colour: bool = False) -> Tensor:
    """Return images as (n, channels, h, w), 0 to 1, resized to squares where a size is given (bilinear)."""
    from PIL import Image

    grey = not colour and all(image.ndim == 2 for image in images)
    arrays = []
    for image in images:
        held = Image.fromarray(image).convert("L" if grey else "RGB")
        if size is not None and held.size != (size, size):
            held = held.resize((size, size), Image.Resampling.BILINEAR)
        arrays.append(np.atleast_3d(np.asarray(held)))
    shapes = {array.shape[:2] for array in arrays}
    if len(shapes) > 1:
        (h, w), (other_h, other_w) = sorted(shapes)[:2]
        raise DataError(f"images have {h}x{w} and {other_h}x{other_w} pixels: take pixels:SIZE, such as pixels:32")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def _numbers(spec: str, text: str, count: int) -> list[int]:
    parts = text.split("/")
    if len(parts) != count or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise OptionError(f"{spec!r} does not say its size: write pixels:SIZE or conv4:WIDTH/SIZE, in whole numbers")
    return [int(part) for part in parts]


def _weights_file(weights: str | Path | None) -> Path | None:
    if weights is None or weights == "random":
        return None
    path = Path(weights)
    if path.suffix != ".safetensors":
        raise OptionError(f"weights is {os.fspath(weights)!r}: give a .safetensors file, or 'random'")
    if not path.is_file():
        raise ModelError(f"there is no file of weights {path}: check the name")
    return path


def _load(module: nn.Module, path: Path) -> None:
    """Load a file's weights, which must be all of the module's; a classifier's or a text tower's beside them may be."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        held: Mapping[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read the weights {path} ({_line(error)}): get the file again") from error
    wanted = module.state_dict()
    prefix = "" if wanted.keys() <= held.keys() else "visual."
    missing = [name for name in wanted if prefix + name not in held]
    if missing:
        first = next((name for name in wanted if name not in held), missing[0])
        raise ModelError(f"{path} lacks {first!r} of the {len(wanted)} arrays: give weights of this very backbone")
    for name, value in wanted.items():
        if held[prefix + name].shape != value.shape:
            raise ModelError(
                f"{path} has {name!r} of shape {tuple(held[prefix + name].shape)}, the backbone {tuple(value.shape)}: "
                "give weights of this very backbone"
            )
    module.load_state_dict({name: held[prefix + name] for name in wanted})


def _dim(module: nn.Module, prepare: Prepare, spec: str) -> int:
    with torch.inference_mode():
        found = module(prepare([np.zeros((32, 32, 3), dtype=np.uint8)]))
    if found.ndim != 2:
        raise ModelError(f"{spec} gives outputs of shape {tuple(found.shape)}, not (images, dimensions): give another")
    return found.shape[1]


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
