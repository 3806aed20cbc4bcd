"""The language model inside a multimodal one: its layers, their MLPs and attentions, and how to run it alone.

Read off the module tree, so that any decoder whose layers hold one attention block and one MLP is understood: LLaVA
over Llama, Mistral, Qwen2 or Phi-2, Qwen2-VL, Idefics3, SmolVLM. A language model without eyes works as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import SiteError
from .tracing import Site, find_module

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LanguageAnatomy:
    """The parts of the decoder that writes a multimodal model's answer.

    Attributes:
        model: the whole model, to which all names are relative.
        decoder: name of the decoder, without its unembedding.
        stack: name of the list of its layers.
        layers: number of layers.
    """

    model: "PreTrainedModel"
    decoder: str
    stack: str
    layers: int

    def attention_block(self, layer: int) -> str:
        """Name of a layer's attention block, projections included."""
        return f"{self._layer(layer)}.{self._only_child(layer, 'Attention')}"

    def output_projection(self, layer: int) -> str:
        """Name of the linear map from the heads' outputs to the residual stream."""
        return self._last_linear(self.attention_block(layer))

    def mlp_block(self, layer: int) -> str:
        """Name of a layer's MLP."""
        return f"{self._layer(layer)}.{self._only_child(layer, 'MLP')}"

    def down_projection(self, layer: int) -> str:
        """Name of the MLP's last linear map: the thesis's W_proj (6.4.1)."""
        return self._last_linear(self.mlp_block(layer))

    def attention(self, layer: int) -> Site:
        """The attention block's output, `(batch, tokens, width)`."""
        return Site(self.output_projection(layer), "output")

    def mlp(self, layer: int) -> Site:
        """The MLP's output, `(batch, tokens, width)`."""
        return Site(self.mlp_block(layer), "output")

    def keys(self, layer: int) -> Site:
        """What the MLP's last linear map reads: the thesis's keys, `(batch, tokens, inner width)`."""
        return Site(self.down_projection(layer), "input")

    def values(self, layer: int) -> Site:
        """What the MLP's last linear map writes, bias included: the thesis's values, `(batch, tokens, width)`."""
        return Site(self.down_projection(layer), "output")

    @property
    def language_model(self) -> nn.Module:
        """The decoder itself."""
        return find_module(self.model, self.decoder)

    def hidden(self, inputs: dict[str, Any]) -> Tensor:
        """Run the decoder alone: the last hidden states, `(batch, tokens, width)`.

        Args:
            inputs: as `language_inputs` gives them, changed or repeated.
        """
        found: Tensor = self.language_model(**inputs)[0]
        return found

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits of last hidden states in float32, `(..., vocabulary)`."""
        head: Any = self.model.get_output_embeddings()
        text = _text_config(self.model)
        scale = getattr(text, "logits_scaling", None)
        logits: Tensor = head(hidden).float()
        if scale is not None:
            logits = logits / scale
        cap = getattr(text, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _layer(self, layer: int) -> str:
        if not 0 <= layer < self.layers:
            raise SiteError(
                f"{type(self.model).__name__} has no layer {layer}: its language model has {self.layers}, from 0 on"
            )
        return f"{self.stack}.{layer}"

    def _only_child(self, layer: int, kind: str) -> str:
        children = list(find_module(self.model, self._layer(layer)).named_children())
        found = [name for name, child in children if kind in type(child).__name__ or name == kind.lower()]
        if len(found) != 1:
            held = ", ".join(f"{name} ({type(child).__name__})" for name, child in children)
            raise SiteError(f"layer {layer} has {len(found)} parts that are an {kind}, and needs one; it holds {held}")
        return found[0]

    def _last_linear(self, block: str) -> str:
        """The last linear map that a block defines; transformers' blocks define theirs in the order of execution."""
        width = _text_config(self.model).hidden_size
        children = list(find_module(self.model, block).named_children())
        found = [name for name, child in children if _width(child) == width]
        if not found:
            raise SiteError(f"{block} has no linear map to {width} channels: a mixture of experts has none that is one")
        return f"{block}.{found[-1]}"


def language_anatomy(model: "PreTrainedModel") -> LanguageAnatomy:
    """Return the anatomy of the language model inside a multimodal model, or of a language model alone.

    Raises:
        SiteError: no stack of decoder layers with one attention and one MLP each is found in it.
    """
    config = getattr(model, "config", None)
    if not hasattr(model, "get_decoder") or config is None:
        raise SiteError(f"{type(model).__name__} is no transformers model: give one that transformers has loaded")
    decoder = model.get_decoder()
    names = {id(module): name for name, module in model.named_modules()}
    layers = getattr(_text_config(model), "num_hidden_layers", None)
    stacks = [
        module
        for module in decoder.modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers and id(module) in names
    ]
    if not stacks or model.get_output_embeddings() is None:
        raise SiteError(
            f"{type(model).__name__} has no decoder of {layers} layers with an unembedding: give a language model"
        )
    anatomy = LanguageAnatomy(model, names[id(decoder)], names[id(stacks[0])], len(stacks[0]))
    anatomy.output_projection(0)
    anatomy.mlp_block(0)
    return anatomy


@torch.no_grad()
def language_inputs(anatomy: LanguageAnatomy, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """What the decoder is called with for some inputs of the whole model: embedded tokens, positions, mask.

    The vision tower and the projector are run, the decoder is not. What comes back can be repeated, changed, and given
    to `LanguageAnatomy.hidden`: however the pictures came in, their tokens are embeddings like the others by then.

    Raises:
        SiteError: the model calls its decoder without `inputs_embeds`, or fuses pictures into inner layers, so that
            the embeddings do not say all.
    """
    seen: list[dict[str, Any]] = []
    with _stopped_at(anatomy.language_model, seen):
        anatomy.model(**inputs, use_cache=False)
    [given] = seen
    if given.get("inputs_embeds") is None:
        ids = given.pop("input_ids", None)
        if ids is None:
            raise SiteError(f"{type(anatomy.model).__name__} gives its language model neither tokens nor embeddings")
        embed: Any = anatomy.model.get_input_embeddings()
        given["inputs_embeds"] = embed(ids)
    for name in ("deepstack_visual_embeds", "cross_attention_states"):
        if given.get(name) is not None:
            raise SiteError(
                f"{type(anatomy.model).__name__} shows pictures to inner layers of its language model ({name}), which "
                "embeddings do not cover: take a model that projects pictures to tokens"
            )
    return {name: value for name, value in given.items() if value is not None}


class _Stop(Exception):  # noqa: N818  # a signal, no error
    """Ends the whole model's forward pass where its decoder would begin."""


@contextmanager
def _stopped_at(module: nn.Module, seen: list[dict[str, Any]]) -> Iterator[None]:
    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append({"input_ids": args[0] if args else None} | kwargs)
        raise _Stop

    hook = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield
    except _Stop:
        pass
    finally:
        hook.remove()


def _text_config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)


def _width(module: nn.Module) -> int | None:
    """How many channels a linear map writes; None of what is no linear map. GPT-2's maps call it `nf`."""
    found = getattr(module, "out_features", getattr(module, "nf", None))
    return found if isinstance(found, int) else None
