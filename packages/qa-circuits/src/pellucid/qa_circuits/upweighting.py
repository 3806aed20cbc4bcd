r"""Attention up-weighting (thesis 8.3.3 and 11.7.2): heads made to look harder at what they look at in the context.

For each head of the chosen layers, the largest attention logit that the last position gives a token of the context
(before softmax) is raised: `l + (beta - 1) |l|`, so that a positive logit is multiplied by beta as in the thesis, and
a negative one, which a factor would lower, rises by as much. Any forward pass inside the block is steered,
`model.generate` with its cache too. The model's own attention runs as ever; only the chosen layers' last row is
computed a second time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.attention import Attend, around_attention
from pellucid.core.errors import OptionError
from torch import Tensor, nn

from .components import Component

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BETA = 10.0
TOP_LAYERS = 3


def raised(logits: Tensor, context: Tensor, beta: float) -> Tensor:
    """Raise the largest of each row's logits within the context: `l + (beta - 1) |l|`.

    Args:
        logits: `(..., keys)`, before softmax.
        context: boolean, broadcast to the same shape: which keys are of the context and visible. A row without any
            stays as it is.
        beta: 1 or more.
    """
    inside = logits.masked_fill(~context, -torch.inf)
    top, where = inside.max(-1, keepdim=True)
    lifted = torch.where(top.isfinite(), top + (beta - 1) * top.abs(), logits.gather(-1, where))
    return logits.scatter(-1, where, lifted)


def top_layers(components: Sequence[Component], count: int = TOP_LAYERS) -> list[int]:
    """The layers of a circuit's first attention layers or heads, each once, in the circuit's order.

    Raises:
        OptionError: the circuit holds neither attention layers nor heads.
    """
    layers = list(dict.fromkeys(c.layer for c in components if c.kind != "mlp"))
    if not layers:
        raise OptionError("the circuit has no attention layers and no heads: give one that does, ranked")
    return layers[:count]


def context_mask(lengths: Sequence[int], places: Sequence[tuple[int, int]]) -> Tensor:
    """Where the context stands in prompts that are padded on the left: `(prompts, longest)`, boolean.

    Args:
        lengths: tokens of each prompt.
        places: of each prompt the context's first token and the one after its last.
    """
    longest = max(lengths)
    mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, (length, (start, stop)) in enumerate(zip(lengths, places, strict=True)):
        mask[row, longest - length + start : longest - length + stop] = True
    return mask


@contextmanager
def upweighting(model: "PreTrainedModel", layers: Sequence[int], context: Tensor, beta: float = BETA) -> Iterator[None]:
    """Steer every forward pass of the model inside the block towards the context.

    Args:
        model: a decoder-only model; in memory, offloaded or quantised.
        layers: whose heads are steered, such as `top_layers(circuit)`.
        context: `(batch, prompt tokens)`, boolean, see `context_mask`; tokens are counted with the padding.
        beta: 1 changes nothing; the thesis takes 10.

    Raises:
        OptionError: a layer does not exist, `beta` is below 1, nothing is of the context, or the model does not use
            transformers' attention interface.
    """
    count = model.config.get_text_config().num_hidden_layers
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong or not layers:
        what = f"the model has no layer {wrong[0]}" if wrong else "no layer is given"
        raise OptionError(f"{what}: choose from its {count}, counted from 0")
    if not beta >= 1:
        raise OptionError(f"beta is {beta}, which would turn attention away from the context: take 1 or more")
    if context.dtype != torch.bool or context.ndim != 2 or not context.any(1).all():
        raise OptionError("the marks do not mark a token of the context in every prompt: see `context_mask`")
    steer = _Steer(frozenset(layers), context, float(beta))
    with around_attention(model, steer.attend):
        hook = model.register_forward_pre_hook(steer.follow, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


@dataclass
class _Steer:
    """Attention with the last row of chosen layers raised.

    Attributes:
        seen: tokens that the model had read before the running forward pass.
    """

    layers: frozenset[int]
    context: Tensor
    beta: float
    seen: int = field(default=0)

    def follow(self, _: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        self.seen = 0 if cache is None else int(cache.get_seq_length())

    def attend(
        self,
        base: Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The model's own attention, the last row of chosen layers computed anew.

        `query` is `(batch, heads, tokens, head_dim)`, `key` and `value` have the key-value heads; the output is
        `(batch, tokens, heads, head_dim)`.
        """
        output, weights = base(module, query, key, value, attention_mask, **options)
        if module.layer_idx not in self.layers:
            return output, weights
        row = self._last_row(query, key, attention_mask, options)
        grouped = row.to(value.dtype).unflatten(1, (value.shape[1], -1))
        output = output.clone()
        output[:, -1] = torch.einsum("bkgt,bktd->bkgd", grouped, value).flatten(1, 2)
        if weights is not None:
            weights = weights.clone()
            weights[:, :, -1] = row.to(weights.dtype)
        return output, weights

    def _last_row(self, query: Tensor, key: Tensor, attention_mask: Tensor | None, options: dict[str, Any]) -> Tensor:
        """The raised attention weights of the last position: `(batch, heads, keys)`, float32."""
        if len(query) != len(self.context):
            raise OptionError(f"{len(query)} sequences are read, and the context is marked for {len(self.context)}")
        last = query[:, :, -1].unflatten(1, (key.shape[1], -1))
        logits = torch.einsum("bkgd,bktd->bkgt", last, key).flatten(1, 2).float() * options["scaling"]
        if (cap := options.get("softcap")) is not None:
            logits = torch.tanh(logits / cap) * cap
        keys = key.shape[2]
        total = self.seen + query.shape[2]
        # A sliding window's cache holds the latest keys only, a static one room for keys to come.
        first = max(total - keys, 0)
        place = torch.arange(first, first + keys, device=key.device)
        visible = (place < total).expand(len(query), 1, keys)
        if attention_mask is not None:
            mask = attention_mask[:, :, -1]
            visible = visible & (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2)
        marks = self.context.to(key.device)
        inside = torch.zeros(len(query), keys, dtype=torch.bool, device=key.device)
        known = place < marks.shape[1]
        inside[:, known] = marks[:, place[known]]
        steered = raised(logits, inside[:, None] & visible, self.beta)
        return steered.masked_fill(~visible, -torch.inf).softmax(-1)
