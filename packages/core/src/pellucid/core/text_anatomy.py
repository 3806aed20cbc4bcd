"""Tells the sites of a text-to-image pipeline's text encoders by meaning: CLIP's (one or two of them) and T5's."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from .errors import SiteError
from .tracing import Site, find_module

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_COMPONENTS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class _Names:
    """Where an encoder keeps its parts; `{}` stands for the layer's number."""

    attention: str
    out_projection: str
    mlp: str
    embeddings: str
    final_norm: str

    def under(self, prefix: str) -> "_Names":
        return _Names(**{name: prefix + value for name, value in vars(self).items()})


_CLIP = _Names(
    attention="encoder.layers.{}.self_attn",
    out_projection="encoder.layers.{}.self_attn.out_proj",
    mlp="encoder.layers.{}.mlp",
    embeddings="embeddings.token_embedding",
    final_norm="final_layer_norm",
)
_T5 = _Names(
    attention="encoder.block.{}.layer.0.SelfAttention",
    out_projection="encoder.block.{}.layer.0.SelfAttention.o",
    mlp="encoder.block.{}.layer.1.DenseReluDense",
    embeddings="encoder.embed_tokens",
    final_norm="encoder.final_layer_norm",
)
_KINDS = {"CLIPTextModel": _CLIP, "CLIPTextModelWithProjection": _CLIP, "T5EncoderModel": _T5}


@dataclass(frozen=True)
class TextAnatomy:
    """The parts of one text encoder; names and sites are relative to it.

    Attributes:
        component: its name in the pipeline, such as "text_encoder_2".
        encoder: the model.
        layers: number of layers, each of a self-attention and an MLP.
        causal: whether a token sees earlier tokens only (CLIP) or all tokens (T5).
    """

    component: str
    encoder: nn.Module
    layers: int
    causal: bool
    _names: _Names

    def attention(self, layer: int) -> Site:
        """The self-attention's output, before it is added to the residual stream, `(batch, tokens, width)`."""
        return Site(self._at(layer, self._names.attention), "output")

    def mlp(self, layer: int) -> Site:
        """The MLP's output, before it is added to the residual stream, `(batch, tokens, width)`."""
        return Site(self._at(layer, self._names.mlp), "output")

    def out_projection(self, layer: int) -> str:
        """Name of the linear map from the self-attention's heads to the residual stream (thesis eq. 5.8: W_out)."""
        return self._at(layer, self._names.out_projection)

    def embeddings(self) -> Site:
        """The word embeddings, before positions are added, `(batch, tokens, width)`."""
        return Site(self._names.embeddings, "output")

    def final_norm(self) -> Site:
        """The final norm's output, `(batch, tokens, width)`.

        SDXL and SD3 read CLIP's tokens before its last layer instead, and only the pooled text after this norm.
        """
        return Site(self._names.final_norm, "output")

    def _at(self, layer: int, name: str) -> str:
        if not 0 <= layer < self.layers:
            raise SiteError(f"the {self.component} has no layer {layer}: it has {self.layers}, counted from 0")
        return name.format(layer)


def text_anatomies(pipe: "DiffusionPipeline") -> tuple[TextAnatomy, ...]:
    """Return the anatomy of each text encoder that a pipeline holds, in the pipeline's order.

    Raises:
        SiteError: it holds none, or one of a class that is not known.
    """
    found = tuple(_anatomy(name, encoder) for name in _COMPONENTS if (encoder := getattr(pipe, name, None)) is not None)
    if not found:
        raise SiteError(f"{type(pipe).__name__} holds no text encoder: load the pipeline with it")
    return found


def _anatomy(component: str, encoder: Any) -> TextAnatomy:
    kind = next((base.__name__ for base in type(encoder).__mro__ if base.__name__ in _KINDS), None)
    if kind is None:
        raise SiteError(
            f"the {component} is a {type(encoder).__name__}, which is not known here; known are {', '.join(_KINDS)}"
        )
    names = _KINDS[kind]
    # With a projection, and in transformers before 5 always, CLIP's parts lie one level deeper.
    if hasattr(encoder, "text_model"):
        names = names.under("text_model.")
    anatomy = TextAnatomy(component, encoder, encoder.config.num_hidden_layers, kind != "T5EncoderModel", names)
    for site in (anatomy.attention(0), anatomy.mlp(0), anatomy.embeddings(), anatomy.final_norm()):
        find_module(encoder, site.module)
    find_module(encoder, anatomy.out_projection(0))
    return anatomy
