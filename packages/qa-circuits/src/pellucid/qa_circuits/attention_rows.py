"""The last attention row of a few heads, while the model runs as it does: fused attention, key-value cache and all.

Asking a model for `output_attentions` makes it compute every head's whole attention map, of size T x T. Here the
model keeps its own attention function; beside it only the chosen heads' last row is computed, which costs O(T) a
forward pass. It is done through transformers' attention interface, and the masks' interface with it: an attention
function without a mask function of its own is given no mask at all, and padded rows would be wrong without a word.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.errors import OptionError
from pellucid.core.quiet import quiet
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Head = tuple[int, int]
Attend = Callable[..., tuple[Tensor, Tensor | None]]

_NUMBERS = itertools.count()


@dataclass
class AttentionRows:
    """What `attention_rows` records.

    Attributes:
        heads: the (layer, head) pairs, in the order of the rows' second dimension.
        rows: one tensor a forward pass, float32. It may be emptied at any time, so that only what is needed is held.
    """

    heads: tuple[Head, ...]
    rows: list[Tensor] = field(default_factory=list)


@contextmanager
def attention_rows(
    model: "PreTrainedModel",
    heads: Sequence[Head],
    *,
    queries: int | None = None,
    keys: slice | None = None,
) -> Iterator[AttentionRows]:
    """Record the attention of some heads in every forward pass of the block, `model.generate` included.

    A row holds the attention probabilities (after mask, soft-cap and softmax) of one token over all token positions so
    far, counted from the first column of `input_ids` and so with the padding; what a sliding window hides has weight 0.
    With a cache that has room for tokens to come, those are left out.

    Args:
        model: a decoder-only model; ordinary, offloaded or quantised, with any cache.
        heads: (layer, head) pairs, counted from 0.
        queries: how many of the last tokens of each forward pass get a row; None for the last one alone, without a
            dimension for it.
        keys: which positions to keep of each row; None keeps all.

    Yields:
        A recorder whose `rows` grows by one tensor a forward pass: `(batch, heads, keys)`, or with `queries`
        `(batch, heads, queries, keys)`; float32, on the device of the first chosen layer.

    Raises:
        OptionError: a head does not exist, or the model does not use transformers' attention interface.
    """
    _check_interface(model)
    _check_heads(model, heads)
    recorder = AttentionRows(tuple(heads))
    chosen: dict[int, list[int]] = {}
    for layer, head in recorder.heads:
        members = chosen.setdefault(layer, [])
        if head not in members:
            members.append(head)
    seen: dict[int, tuple[int, int]] = {}  # number of keys -> position of the first, number of tokens so far
    pending: dict[int, Tensor] = {}

    def note(sizes: dict[str, Any]) -> None:
        tokens = int(sizes.get("q_offset", 0)) + int(sizes["q_length"])
        seen[int(sizes["kv_length"])] = int(sizes.get("kv_offset", 0)), tokens

    def attend(base: Attend, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        layer = getattr(module, "layer_idx", None)
        if layer in chosen:
            if layer in pending:  # an earlier pass was broken off
                pending.clear()
            length = args[1].shape[2]
            first, tokens = seen.get(length, (0, length))
            weights = head_weights(
                module, *args, heads=chosen[layer], queries=queries or 1, first_key=first, tokens=tokens, **kwargs
            )
            pending[layer] = _placed(weights, first, tokens, keys)
            if len(pending) == len(chosen):
                recorder.rows.append(_ordered(recorder.heads, chosen, pending, queries))
                pending.clear()
                seen.clear()
        return base(module, *args, **kwargs)

    with around_attention(model, attend, note):
        yield recorder


@contextmanager
def around_attention(
    model: "PreTrainedModel",
    attend: Callable[..., tuple[Tensor, Tensor | None]],
    on_mask: Callable[[dict[str, Any]], None] | None = None,
) -> Iterator[None]:
    """Put a function around a model's attention while the block runs; blocks may be nested.

    Args:
        model: a model that uses transformers' attention interface.
        attend: called as `attend(base, module, query, key, value, attention_mask, **kwargs)`, where
            `base(module, query, key, value, attention_mask, **kwargs)` is the model's own attention (fused, unless the
            model is set to "eager"); returns what `base` returns. Masks are boolean (True: seen) where attention
            is fused, and None where it is plainly causal; in eager models they are added to the logits.
        on_mask: called with the arguments of transformers' mask function, whenever a mask is made.

    Raises:
        OptionError: the model does not use that interface.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    _check_interface(model)
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
def head_weights(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    heads: Sequence[int],
    queries: int = 1,
    first_key: int = 0,
    tokens: int | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Attention probabilities of the last queries of some heads, from what an attention function is called with.

    Args:
        module: the attention block.
        query: `(batch, heads, queries, head_dim)`.
        key: `(batch, key-value heads, keys, head_dim)`.
        value: not used.
        attention_mask: boolean or added to the logits, or None for a plainly causal one.
        heads: which query heads.
        queries: how many of the last queries.
        first_key: position of the first key among the tokens.
        tokens: number of tokens so far; the number of keys by default.
        scaling: factor of the logits.
        softcap: bound of the logits (Gemma 2).
        s_aux: attention sinks, which are refused.
        position_bias: a learned bias, which is refused.

    Returns:
        `(batch, len(heads), queries, keys)`, float32.

    Raises:
        OptionError: the model adds sinks or a bias to its attention.
    """
    if s_aux is not None or position_bias is not None:
        raise OptionError(f"{type(module).__name__} adds sinks or a position bias to its attention, not known here")
    length, group = key.shape[2], query.shape[1] // key.shape[1]
    asked = query[:, list(heads), -queries:].float()
    logits = asked @ key[:, [head // group for head in heads]].float().transpose(-1, -2)
    logits = logits * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if attention_mask is None:
        last = (length if tokens is None else tokens) - 1
        place = torch.arange(last - asked.shape[2] + 1, last + 1, device=key.device)
        hidden = first_key + torch.arange(length, device=key.device) > place[:, None]
        logits = logits.masked_fill(hidden, torch.finfo(logits.dtype).min)
    else:
        mask = attention_mask[:, :, -queries:, :length]
        mask = mask[:, list(heads)] if mask.shape[1] > 1 else mask
        hides = mask.dtype == torch.bool
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min) if hides else logits + mask
    return logits.softmax(-1)


def _placed(weights: Tensor, first: int, tokens: int, keys: slice | None) -> Tensor:
    """Put the keys' weights at their positions among all tokens so far, and keep those asked for."""
    length = weights.shape[-1]
    if first or length != tokens:
        kept = weights[..., : max(tokens - first, 0)]
        weights = kept.new_zeros(*kept.shape[:-1], tokens)
        weights[..., first : first + kept.shape[-1]] = kept
    return weights if keys is None else weights[..., keys].clone()


def _ordered(
    heads: Sequence[Head], chosen: dict[int, list[int]], pending: dict[int, Tensor], queries: int | None
) -> Tensor:
    home = pending[heads[0][0]].device if heads else torch.device("cpu")
    row = torch.stack([pending[layer][:, chosen[layer].index(head)].to(home) for layer, head in heads], dim=1)
    return row[:, :, -1] if queries is None else row


def _check_interface(model: "PreTrainedModel") -> None:
    can = getattr(model, "_can_set_attn_implementation", None)
    if can is None or not can():
        raise OptionError(
            f"{type(model).__name__} does not use transformers' attention interface, through which heads are read: "
            "take a model that does, such as Llama, Mistral, Qwen, Phi-3 or Gemma"
        )


def _check_heads(model: "PreTrainedModel", heads: Sequence[Head]) -> None:
    if not heads:
        raise OptionError("no attention head is given: name one or more as (layer, head)")
    text = model.config.get_text_config()
    layers, count = text.num_hidden_layers, text.num_attention_heads
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < count):
            raise OptionError(f"the model has no head {layer}.{head}: it has {layers} layers of {count} heads, from 0")
