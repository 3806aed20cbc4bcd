"""The last attention row of a few heads, while the model runs as it does: fused attention, key-value cache and all.

Asking a model for `output_attentions` makes it compute every head's whole attention map, of size T x T. Here the
model keeps its own attention function; beside it only the chosen heads' last row is computed, which costs O(T) a
forward pass (see `pellucid.core.attention`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.attention import Attend, around_attention, attention_weights, check_interface
from pellucid.core.errors import OptionError
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Head = tuple[int, int]


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
    check_interface(model)
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
            weights = attention_weights(
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


def _check_heads(model: "PreTrainedModel", heads: Sequence[Head]) -> None:
    if not heads:
        raise OptionError("no attention head is given: name one or more as (layer, head)")
    text = model.config.get_text_config()
    layers, count = text.num_hidden_layers, text.num_attention_heads
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < count):
            raise OptionError(f"the model has no head {layer}.{head}: it has {layers} layers of {count} heads, from 0")
