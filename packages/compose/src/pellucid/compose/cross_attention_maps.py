"""Where in a picture a denoiser attends to each word while the picture is made (fig. 9.8)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.denoiser_anatomy import DenoiserAnatomy, denoiser_anatomy
from pellucid.core.errors import OptionError, SiteError
from pellucid.core.scorers import Pictures
from pellucid.core.tracing import find_module
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from .generation import Sampling, encode_prompts, generate
from .token_subsets import token_subset

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WordMaps:
    """Pictures with where their denoiser attended to each word.

    Attributes:
        prompt: the text.
        words: words of it.
        pictures: (seeds, h, w, 3) uint8.
        maps: (seeds, words, side, side): attention from each place to the word's tokens, added up over the tokens and
            averaged over heads, layers and denoising steps.
    """

    prompt: str
    words: tuple[str, ...]
    pictures: Pictures
    maps: Floats


def cross_attention_maps(
    pipe: "DiffusionPipeline",
    prompt: str,
    words: Sequence[str],
    seeds: Sequence[int],
    *,
    sampling: Sampling | None = None,
    layers: Sequence[int] | None = None,
) -> WordMaps:
    """Make pictures of a prompt, and map the attention of their places to some of its words.

    What the model attends to is read from its own attention calls, with their masks, norms and positions. Layers of
    different sizes are brought to the largest one's by bilinear interpolation. Of classifier-free guidance only the
    half with the prompt counts. A projection that is attached takes part.

    Args:
        pipe: SD 1.x, 2.x, SDXL, SD3, PixArt or IF.
        prompt: the text.
        words: words or phrases of it; where one stands twice, the first is meant.
        seeds: one a picture; all run at once.
        sampling: how pictures are made.
        layers: which cross-attentions, counted in the order of execution; all by default.

    Raises:
        OptionError: no seeds or words, there is no such layer, or the picture is not square.
        DataError: a word does not stand in the prompt.
        SiteError: the denoiser's attention is of a kind that is not known.
    """
    if not seeds or not words:
        raise OptionError(f"there are {len(seeds)} seeds and {len(words)} words: give at least one of both")
    anatomy = denoiser_anatomy(pipe)
    chosen = range(len(anatomy.cross_attentions)) if layers is None else list(layers)
    outside = next((layer for layer in chosen if not 0 <= layer < len(anatomy.cross_attentions)), None)
    if outside is not None:
        raise OptionError(f"there is no cross-attention {outside}: count from 0 to {len(anatomy.cross_attentions) - 1}")
    tokens = torch.stack([token_subset(pipe, prompt, "nouns", [word]) for word in words])
    arguments = {name: value[[0] * len(seeds)] for name, value in encode_prompts(pipe, [prompt]).items()}
    sampling = replace(sampling or Sampling(), chunk=len(seeds))
    with _recording(anatomy, chosen, tokens, len(seeds)) as sums:
        pictures = generate(pipe, arguments, seeds, sampling)
    return WordMaps(prompt, tuple(words), pictures, _averaged(sums))


def binding_contrast(found: WordMaps) -> Floats:
    """How much more an attribute's map is like its own object's map than like the other object's, (seeds,).

    That is the mean over both attributes of cos(a_i, o_i) - cos(a_i, o_j), of maps less their mean: from -2 to 2, and 0
    where attributes attend to both objects alike.

    Args:
        found: with the words a_1, o_1, a_2, o_2, in this order.

    Raises:
        OptionError: there are not four words.
    """
    if len(found.words) != 4:
        raise OptionError(f"the maps are of {', '.join(found.words)}: four are wanted, a_1, o_1, a_2 and o_2")
    flat = found.maps.reshape(len(found.maps), 4, -1)
    flat = flat - flat.mean(-1, keepdims=True)
    flat = flat / np.linalg.norm(flat, axis=-1, keepdims=True).clip(min=1e-300)
    likeness = flat @ flat.transpose(0, 2, 1)
    contrast: Floats = (likeness[:, 0, 1] - likeness[:, 0, 3] + likeness[:, 2, 3] - likeness[:, 2, 1]) / 2
    return contrast


@dataclass
class _Sum:
    """One layer's maps (rows, words, places), added up over calls."""

    total: Tensor | float = 0.0
    calls: int = 0


class _Reader(TorchFunctionMode):
    """Reads the attention of the layer that is running, beside the fused kernel that computes it."""

    def __init__(self, tokens: Tensor, rows: int, picture_first: bool) -> None:
        super().__init__()
        self.layer: _Sum | None = None
        self.text = 0
        self._tokens, self._rows, self._picture_first = tokens, rows, picture_first

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is scaled_dot_product_attention and self.layer is not None:
            self._read(self.layer, *args, **kwargs)
        return function(*args, **kwargs)

    @torch.no_grad()
    def _read(
        self,
        layer: _Sum,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **_: Any,
    ) -> None:
        text = self.text
        if is_causal or key.shape[2] < text:
            raise SiteError("the denoiser's cross-attention is causal or leaves text out, which is not known here")
        picture = key.shape[2] - text if self._picture_first else query.shape[2]
        heads = query.shape[1]
        query, key = query[-self._rows :, :, :picture], key[-self._rows :]
        mask = None if attn_mask is None else attn_mask.expand(-1, heads, -1, -1)[-self._rows :]
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        total: Tensor | float = 0.0
        for head in range(heads):  # one at a time: joint attention over large pictures is large
            logits = factor * query[:, head].float() @ key[:, head].float().transpose(-1, -2)
            if mask is not None:
                part = mask[:, head, :picture] if mask.shape[2] > 1 else mask[:, head]
                logits = logits.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else logits + part
            total = total + logits.softmax(-1)
        weights = total[..., -text:] if self._picture_first else total[..., :text]  # type: ignore[index]
        words = weights @ self._tokens.to(weights).T / heads
        layer.total = layer.total + words.transpose(1, 2).double().cpu()
        layer.calls += 1


@contextmanager
def _recording(anatomy: DenoiserAnatomy, layers: Sequence[int], tokens: Tensor, rows: int) -> Iterator[dict[int, _Sum]]:
    """Add up the chosen layers' maps while pictures are made."""
    reader = _Reader(tokens, rows, type(anatomy.denoiser).__name__ == "SD3Transformer2DModel")
    sums = {layer: _Sum() for layer in layers}

    def enter(layer: int) -> Any:
        def before(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            text = options.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
            if text is None:
                raise SiteError(f"cross-attention {layer} reads no text when it is called: its kind is not known here")
            reader.layer, reader.text = sums[layer], text.shape[1]

        return before

    def leave(*_: Any) -> None:
        reader.layer = None

    with ExitStack() as stack:
        for layer in layers:
            module = find_module(anatomy.denoiser, anatomy.cross_attentions[layer].name)
            stack.callback(module.register_forward_pre_hook(enter(layer), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(reader)
        yield sums
    silent = next((layer for layer, found in sums.items() if not found.calls), None)
    if silent is not None:
        raise SiteError(f"cross-attention {silent} does not use torch's attention: its processor is not known here")


def _averaged(sums: dict[int, _Sum]) -> Floats:
    grids = []
    for found in sums.values():
        flat = torch.as_tensor(found.total) / found.calls
        side = math.isqrt(flat.shape[-1])
        if side * side != flat.shape[-1]:
            raise OptionError(f"the picture has {flat.shape[-1]} places in a layer, no square: make square pictures")
        grids.append(flat.reshape(*flat.shape[:2], side, side))
    largest = max(grid.shape[-1] for grid in grids)
    sized = [interpolate(grid, size=(largest, largest), mode="bilinear", align_corners=False) for grid in grids]
    averaged: Floats = torch.stack(sized).mean(0).numpy()
    return averaged
