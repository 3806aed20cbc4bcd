"""Tells the layers of a text-to-image pipeline's denoiser by meaning, in the order in which they are computed.

Families: UNet2DCondition (Stable Diffusion 1.x and 2.x, SDXL, DeepFloyd IF) and the transformers of SD3, PixArt and
Flux. The order is read from the blocks' structure: diffusers' `named_modules()` gives a UNet's mid block last.

Blocks that attend over text and picture together (IF, SD3, Flux) have one attention layer in the place of two: it
counts as cross-attention, since the text enters there. Flux's single-stream blocks carry the text in the same stream as
the picture: they have no text keys of their own, and their attention counts as self-attention.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from .errors import SiteError
from .tracing import Site, find_module

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Kind = Literal["self_attention", "cross_attention", "resnet", "feed_forward"]
Parts = Iterator[tuple[Kind, str]]

_LABELS: dict[Kind, str] = {
    "self_attention": "self-attn",
    "cross_attention": "cross-attn",
    "resnet": "resnet",
    "feed_forward": "ff",
}
_UNET_BLOCKS = (
    *("DownBlock2D", "CrossAttnDownBlock2D", "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    *("UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn"),
    *("UpBlock2D", "CrossAttnUpBlock2D", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
)


@dataclass(frozen=True)
class CrossAttention:
    """A layer where the denoiser reads the text; names are relative to the denoiser.

    Attributes:
        name: the attention module, such as "mid_block.attentions.0.transformer_blocks.0.attn2".
        key: the linear map from the text to the keys.
        value: the linear map from the text to the values.
    """

    name: str
    key: str
    value: str


@dataclass(frozen=True)
class Layer:
    """A layer that writes into the stream of the picture.

    Attributes:
        name: its module, relative to the denoiser.
        kind: what it is.
        label: as in the thesis's figures, such as "down-1-resnet-1": block, kind, and number within that block.
    """

    name: str
    kind: Kind
    label: str


@dataclass(frozen=True)
class DenoiserAnatomy:
    """The layers of a denoiser, in execution order.

    Attributes:
        component: its name in the pipeline.
        denoiser: the model.
        cross_attentions: where it reads the text.
        layers: all that writes into the picture's stream. With the outputs of all of them restored, the picture is
            restored too; in SD3 and Flux the pooled text must be restored as well, since it scales what is written.
        pooled: whether pooled text reaches the layers beside cross-attention (SDXL, IF, SD3, Flux), through the
            denoiser's `add_embedding` or `time_text_embed`.
    """

    component: Literal["unet", "transformer"]
    denoiser: nn.Module
    cross_attentions: tuple[CrossAttention, ...]
    layers: tuple[Layer, ...]
    pooled: bool

    def site(self, layer: Layer) -> Site:
        """The layer's output; of joint attention the part that goes to the picture, `(batch, ...)`."""
        return Site(layer.name, "output")


def denoiser_anatomy(pipe: "DiffusionPipeline") -> DenoiserAnatomy:
    """Return the anatomy of a pipeline's denoiser.

    Raises:
        SiteError: the pipeline has no denoiser, its family or one of its blocks is not known, or no layer reads text.
    """
    component, denoiser = _denoiser(pipe)
    kind = next((base.__name__ for base in type(denoiser).__mro__ if base.__name__ in _WALKS), None)
    if kind is None:
        raise SiteError(
            f"the {component} is a {type(denoiser).__name__}, which is not known here; known are {', '.join(_WALKS)}"
        )
    layers = tuple(_labelled(_WALKS[kind](denoiser)))
    cross = tuple(_cross_attention(denoiser, layer.name) for layer in layers if layer.kind == "cross_attention")
    if not cross:
        raise SiteError(
            f"no layer of the {component} ({type(denoiser).__name__}) reads text: it has no cross-attention"
        )
    pooled = any(getattr(denoiser, name, None) is not None for name in ("add_embedding", "time_text_embed"))
    return DenoiserAnatomy(component, denoiser, cross, layers, pooled)


def _denoiser(pipe: Any) -> tuple[Literal["unet", "transformer"], nn.Module]:
    if (unet := getattr(pipe, "unet", None)) is not None:
        return "unet", unet
    if (transformer := getattr(pipe, "transformer", None)) is not None:
        return "transformer", transformer
    raise SiteError(f"{type(pipe).__name__} has neither a unet nor a transformer: give a text-to-image pipeline")


def _labelled(found: Iterator[tuple[str, Kind, str]]) -> Iterator[Layer]:
    counts: Counter[tuple[str, Kind]] = Counter()
    for block, kind, name in found:
        yield Layer(name, kind, f"{block}-{_LABELS[kind]}-{counts[block, kind]}")
        counts[block, kind] += 1


def _cross_attention(denoiser: nn.Module, name: str) -> CrossAttention:
    """Joint attention has projections of its own for the text; plain cross-attention reads only text."""
    joint = getattr(find_module(denoiser, name), "add_k_proj", None) is not None
    key, value = ("add_k_proj", "add_v_proj") if joint else ("to_k", "to_v")
    layer = CrossAttention(name, f"{name}.{key}", f"{name}.{value}")
    for projection in (layer.key, layer.value):
        find_module(denoiser, projection)
    return layer


def _unet(unet: Any) -> Iterator[tuple[str, Kind, str]]:
    """Down blocks, mid block, up blocks; in each, resnets and attentions in turn (the mid block ends on a resnet)."""
    blocks = [(f"down-{i}", f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)]
    if unet.mid_block is not None:
        blocks.append(("mid", "mid_block", unet.mid_block))
    blocks += [(f"up-{i}", f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)]
    for label, name, block in blocks:
        if type(block).__name__ not in _UNET_BLOCKS:
            raise SiteError(
                f"{name} is a {type(block).__name__}, which is not known here; known are {', '.join(_UNET_BLOCKS)}"
            )
        for kind, part in _unet_block(block):
            yield label, kind, f"{name}.{part}"


def _unet_block(block: Any) -> Parts:
    attentions = getattr(block, "attentions", ())
    for i in range(len(block.resnets)):
        yield "resnet", f"resnets.{i}"
        if i < len(attentions):
            yield from _unet_attention(attentions[i], f"attentions.{i}")
    for sampler in ("downsamplers", "upsamplers"):
        for i, module in enumerate(getattr(block, sampler, None) or ()):
            if type(module).__name__ == "ResnetBlock2D":  # IF: they read the time and the pooled text too
                yield "resnet", f"{sampler}.{i}"


def _unet_attention(module: Any, name: str) -> Parts:
    if not hasattr(module, "transformer_blocks"):  # IF: one layer over picture and text together
        yield "cross_attention", name
        return
    for i, block in enumerate(module.transformer_blocks):
        for kind, part in _transformer_block(block):
            yield kind, f"{name}.transformer_blocks.{i}.{part}"


def _transformer_block(block: Any) -> Parts:
    """A `BasicTransformerBlock`: of UNets, and of PixArt."""
    for name in ("attn1", "attn2"):
        attention = getattr(block, name)
        if attention is not None:
            yield ("cross_attention" if attention.is_cross_attention else "self_attention"), name
    yield "feed_forward", "ff"


def _pixart(transformer: Any) -> Iterator[tuple[str, Kind, str]]:
    for i, block in enumerate(transformer.transformer_blocks):
        for kind, part in _transformer_block(block):
            yield f"block-{i}", kind, f"transformer_blocks.{i}.{part}"


def _sd3(transformer: Any) -> Iterator[tuple[str, Kind, str]]:
    for i, block in enumerate(transformer.transformer_blocks):
        label, name = f"block-{i}", f"transformer_blocks.{i}"
        yield label, "cross_attention", f"{name}.attn"
        if getattr(block, "attn2", None) is not None:  # SD3.5: over the picture alone
            yield label, "self_attention", f"{name}.attn2"
        yield label, "feed_forward", f"{name}.ff"


def _flux(transformer: Any) -> Iterator[tuple[str, Kind, str]]:
    yield from _sd3(transformer)
    for i in range(len(transformer.single_transformer_blocks)):
        label, name = f"single-{i}", f"single_transformer_blocks.{i}"
        # Both are side by side: one linear map reads them together and writes into the stream.
        yield label, "feed_forward", f"{name}.proj_mlp"
        yield label, "self_attention", f"{name}.attn"


_WALKS = {
    "UNet2DConditionModel": _unet,
    "SD3Transformer2DModel": _sd3,
    "PixArtTransformer2DModel": _pixart,
    "FluxTransformer2DModel": _flux,
}
