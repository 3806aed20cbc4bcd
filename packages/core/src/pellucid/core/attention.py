"""Reach into attention while a model runs as it does: fused kernels, key-value cache and all.

transformers calls a model's attention function through an interface, and makes its masks through another. Both are
wrapped for the length of a block: an attention function without a mask function of its own is given no mask at all, and
padded rows would be wrong without a word.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import OptionError
from .quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Attend = Callable[..., tuple[Tensor, Tensor | None]]

_NUMBERS = itertools.count()


@contextmanager
def around_attention(
    model: "PreTrainedModel",
    attend: Callable[..., tuple[Tensor, Tensor | None]],
    on_mask: Callable[[dict[str, Any]], None] | None = None,
) -> Iterator[None]:
    """Put a function around a model's attention while the block runs; blocks may be nested.

    Args:
        model: a model that uses transformers' attention interface; of a multimodal one the part whose attention is
            meant, such as its language model.
        attend: called as `attend(base, module, query, key, value, attention_mask, **kwargs)`, where
            `base(module, query, key, value, attention_mask, **kwargs)` is the model's own attention (fused, unless the
            model is set to "eager"); returns what `base` returns. Masks are boolean (True: seen) where attention
            is fused, and None where it is plainly causal; in eager models they are added to the logits.
        on_mask: called with the arguments of transformers' mask function, whenever a mask is made.

    Raises:
        OptionError: the model does not use that interface.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    check_interface(model)
    before = model.config._attn_implementation
    masks, functions = AttentionMaskInterface(), AttentionInterface()
    # Flash attention and flex attention hold masks of their own kinds; for the block such a model runs on SDPA.
    under = before if before == "eager" or str(before).startswith("pellucid_") else "sdpa"
    name = f"pellucid_{next(_NUMBERS)}"

    def function(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        base = sys.modules[type(module).__module__].eager_attention_forward if under == "eager" else functions[under]
        return attend(base, module, *args, **kwargs)

    def mask(**sizes: Any) -> Any:
        if on_mask is not None:
            on_mask(sizes)
        return masks[under](**sizes)

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, mask)
    try:
        with quiet():
            model.set_attn_implementation(name)
        yield
    finally:
        with quiet():
            model.set_attn_implementation(before)
        # There is no public way to take a name back; the class-wide mapping is what the masks' code looks into.
        AttentionInterface._global_mapping.pop(name)
        AttentionMaskInterface._global_mapping.pop(name)


@torch.no_grad()
def attention_weights(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    heads: Sequence[int] | None = None,
    queries: int | Tensor = 1,
    first_key: int = 0,
    tokens: int | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> Tensor:
    """Attention probabilities of some queries, from what an attention function is called with (thesis eq. 6.2).

    Args:
        module: the attention block.
        query: `(batch, heads, queries, head_dim)`.
        key: `(batch, key-value heads, keys, head_dim)`.
        value: not used.
        attention_mask: boolean or added to the logits, or None for a plainly causal one (none at all where the block
            is not causal).
        heads: which query heads; None for all.
        queries: how many of the last queries; or which ones, integers `(batch, chosen)`.
        first_key: position of the first key among the tokens.
        tokens: number of tokens so far; the number of keys by default.
        scaling: factor of the logits.
        softcap: bound of the logits (Gemma 2).
        s_aux: attention sinks, which are refused.
        position_bias: a learned bias, which is refused.
        is_causal: as the attention function was told; what the block says by default.

    Returns:
        `(batch, heads, chosen queries, keys)`, float32.

    Raises:
        OptionError: the model adds sinks or a bias to its attention.
    """
    if s_aux is not None or position_bias is not None:
        raise OptionError(f"{type(module).__name__} adds sinks or a position bias to its attention, not known here")
    count, length, group = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
    kept = list(range(query.shape[1])) if heads is None else list(heads)
    rows = torch.arange(count - queries, count)[None] if isinstance(queries, int) else queries
    rows = rows.to(query.device).expand(len(query), -1)
    asked = _chosen(query[:, kept], rows).float()
    logits = asked @ key[:, [head // group for head in kept]].float().transpose(-1, -2)
    logits = logits * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if attention_mask is not None:
        mask = attention_mask[..., :length]
        mask = mask[:, kept] if mask.shape[1] > 1 else mask
        mask = _chosen(mask.expand(len(query), -1, -1, -1), rows + mask.shape[2] - count)
        hides = mask.dtype == torch.bool
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min) if hides else logits + mask
    elif is_causal if is_causal is not None else getattr(module, "is_causal", True):
        places = rows + (length if tokens is None else tokens) - count
        hidden = first_key + torch.arange(length, device=key.device) > places[:, None, :, None]
        logits = logits.masked_fill(hidden, torch.finfo(logits.dtype).min)
    return logits.softmax(-1)


def check_interface(model: "PreTrainedModel") -> None:
    """Raise an OptionError if the model does not use transformers' attention interface."""
    can = getattr(model, "_can_set_attn_implementation", None)
    if can is None or not can():
        raise OptionError(
            f"{type(model).__name__} does not use transformers' attention interface, through which heads are read: "
            "take a model that does, such as Llama, Mistral, Qwen, Phi-3 or Gemma"
        )


def _chosen(values: Tensor, rows: Tensor) -> Tensor:
    """Each batch row's own places of dimension 2: `(batch, heads, all, n)` by `(batch, chosen)`."""
    index = rows[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return values.gather(2, index)
