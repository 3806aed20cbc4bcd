"""Tells the sites of a model family by meaning: which module output is layer 3's MLP, which slice is head 5.

Families now: Llama-like decoders (Llama, Mistral, Qwen 2 and 3, Phi-3, Gemma 1 to 3).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .errors import SiteError
from .tracing import Site, find_module

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Family:
    """Where a family keeps its parts, relative to a decoder layer; norms that some families lack are None."""

    pre_mlp_norm: str = "post_attention_layernorm"
    post_attention_norm: str | None = None
    post_mlp_norm: str | None = None


_PRE_ATTENTION_NORM = "input_layernorm"
_PLAIN = _Family()
_SANDWICH = _Family("pre_feedforward_layernorm", "post_attention_layernorm", "post_feedforward_layernorm")
_FAMILIES = {
    "llama": _PLAIN,
    "mistral": _PLAIN,
    "qwen2": _PLAIN,
    "qwen3": _PLAIN,
    "phi3": _PLAIN,
    "gemma": _PLAIN,
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
}


@dataclass(frozen=True)
class DecoderAnatomy:
    """The parts of a decoder-only language model, and the arithmetic by which they write into the residual stream.

    Attributes:
        model: a Hugging Face `...ForCausalLM`.
        layers: number of decoder layers; `heads`: query heads a layer; `head_dim`: channels a head.
    """

    model: "PreTrainedModel"
    family: _Family
    layers: int
    heads: int
    head_dim: int

    def head(self, layer: int, index: int) -> Site:
        """One head's slice of the output projection's input, `(batch, tokens, head_dim)`."""
        self._check("layer", layer, self.layers)
        self._check("head", index, self.heads)
        return Site(
            self._part(layer, "self_attn.o_proj"), "input", (index * self.head_dim, (index + 1) * self.head_dim)
        )

    def head_outputs(self, layer: int) -> Site:
        """All heads' slices side by side, `(batch, tokens, heads * head_dim)`."""
        return Site(self.output_projection(layer), "input")

    def attention(self, layer: int) -> Site:
        """The attention block's output, before any post-attention norm, `(batch, tokens, width)`."""
        return Site(self.output_projection(layer), "output")

    def mlp(self, layer: int) -> Site:
        """The MLP's output, before any post-MLP norm, `(batch, tokens, width)`."""
        return Site(self._part(layer, "mlp"), "output")

    def residual_before_attention(self, layer: int) -> Site:
        """The residual stream that a layer's attention reads, `(batch, tokens, width)`."""
        return Site(self._part(layer, _PRE_ATTENTION_NORM), "input")

    def residual_before_mlp(self, layer: int) -> Site:
        """The residual stream between attention and MLP, `(batch, tokens, width)`."""
        return Site(self._part(layer, self.family.pre_mlp_norm), "input")

    def final_residual(self) -> Site:
        """The residual stream that enters the final norm, `(batch, tokens, width)`."""
        return Site("model.norm", "input")

    def attention_block(self, layer: int) -> str:
        """Name of the whole attention block, projections included."""
        self._check("layer", layer, self.layers)
        return self._part(layer, "self_attn")

    def output_projection(self, layer: int) -> str:
        """Name of the linear map from the heads' outputs to the residual stream."""
        self._check("layer", layer, self.layers)
        return self._part(layer, "self_attn.o_proj")

    def project_heads(self, layer: int, heads: Tensor) -> Tensor:
        """What each head adds to the attention's output: `(..., heads, head_dim)` -> `(heads, ..., width)`.

        The module itself is called on inputs that are zero outside one head: so it is exact for ordinary, offloaded
        and quantised projections alike, and for those with a bias (which belongs to no head).
        """
        eye = torch.eye(self.heads, dtype=heads.dtype, device=heads.device)
        return self.project(layer, torch.einsum("...hd,gh->g...hd", heads, eye).flatten(-2))

    def project(self, layer: int, heads: Tensor) -> Tensor:
        """The output projection without its bias: `(..., heads * head_dim)` -> `(..., width)`."""
        module = find_module(self.model, self.output_projection(layer))
        out: Tensor = module(heads)
        return out if getattr(module, "bias", None) is None else out - module(torch.zeros_like(heads[:1]))

    def attention_write(self, layer: int, value: Tensor) -> Tensor:
        """What an attention output adds to the residual stream: itself, or its post-attention norm (Gemma 2, 3)."""
        return self._norm(layer, self.family.post_attention_norm, value)

    def mlp_write(self, layer: int, value: Tensor) -> Tensor:
        """What an MLP output adds to the residual stream: itself, or its post-MLP norm (Gemma 2, 3)."""
        return self._norm(layer, self.family.post_mlp_norm, value)

    def run_attention(self, layer: int, residual: Tensor, **options: Any) -> Tensor:
        """The attention's output for the residual stream before it: norm in float32, block in the model's dtype.

        `options` are what a decoder layer gives its attention block, such as `position_embeddings`.
        """
        hidden = find_module(self.model, self._part(layer, _PRE_ATTENTION_NORM))(residual.float()).to(self.model.dtype)
        block = find_module(self.model, self.attention_block(layer))
        return cast(Tensor, block(hidden_states=hidden, attention_mask=None, **options)[0])

    def run_mlp(self, layer: int, residual: Tensor) -> Tensor:
        """The MLP's output for the residual stream before it: norm in float32, MLP in the model's dtype."""
        norm = find_module(self.model, self._part(layer, self.family.pre_mlp_norm))
        return find_module(self.model, self._part(layer, "mlp"))(norm(residual.float()).to(self.model.dtype))

    def unembed(self, residual: Tensor) -> Tensor:
        """Logits of a final residual stream: final norm in float32, unembedding in the model's dtype, soft-cap."""
        hidden = find_module(self.model, "model.norm")(residual.float())
        logits = find_module(self.model, "lm_head")(hidden.to(self.model.dtype)).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _norm(self, layer: int, name: str | None, value: Tensor) -> Tensor:
        return value if name is None else find_module(self.model, self._part(layer, name))(value)

    def _part(self, layer: int, name: str) -> str:
        return f"model.layers.{layer}.{name}"

    def _check(self, what: str, value: int, limit: int) -> None:
        if not 0 <= value < limit:
            raise SiteError(f"{type(self.model).__name__} has no {what} {value}: it has {limit}, counted from 0")


def decoder_anatomy(model: "PreTrainedModel") -> DecoderAnatomy:
    """Return the anatomy of a decoder-only language model.

    Raises:
        SiteError: the family is not known; the message lists those that are.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind not in _FAMILIES:
        raise SiteError(f"the model family {kind!r} is not known here; known are {', '.join(sorted(_FAMILIES))}")
    assert config is not None
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    anatomy = DecoderAnatomy(model, _FAMILIES[kind], config.num_hidden_layers, heads, head_dim)
    for site in (anatomy.head_outputs(0), anatomy.mlp(0), anatomy.residual_before_mlp(0), anatomy.final_residual()):
        find_module(model, site.module)
    find_module(model, "lm_head")
    return anatomy
