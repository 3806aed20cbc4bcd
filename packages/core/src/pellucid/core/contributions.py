"""Attention contributions: what each token adds to another one's residual stream through a layer's attention.

The contribution of token j to token i is a vector (thesis eq. 6.1), and its Euclidean norm is the number that is shown
(section 9.2). Only the rows of a few tokens i are computed, beside the model's own fused attention: that costs O(T) of
memory a layer, where asking a model for its attention maps costs O(T x T) a head.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .attention import Attend, around_attention, attention_weights
from .errors import OptionError, SiteError
from .tracing import find_module

Reduce = Callable[[Tensor, int], Tensor]

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Relative; other dtypes get 0.05. What it finds (gates, norms between heads and projection) is of order 1."""


class AttentionParts(Protocol):
    """What of an anatomy is needed here; `DecoderAnatomy` has it."""

    @property
    def model(self) -> Any:
        """The model whose modules the names below are relative to."""

    @property
    def layers(self) -> int:
        """Number of layers."""

    def attention_block(self, layer: int) -> str:
        """Name of a layer's whole attention block."""

    def output_projection(self, layer: int) -> str:
        """Name of the linear map from the heads' outputs to the residual stream."""


@dataclass
class _Seen:
    """One layer of one forward pass."""

    weights: Tensor  # (batch, heads, queries, tokens)
    values: Tensor  # (batch, key-value heads, tokens, head_dim)
    heads: Tensor | None = None  # (batch, queries, heads * head_dim): what really entered the projection


def norms(vectors: Tensor, row: int) -> Tensor:
    """Euclidean norms of contributions: `(queries, tokens, width)` -> `(queries, tokens)`, whatever the row."""
    return vectors.norm(dim=-1)


@contextmanager
def attention_contributions(
    anatomy: AttentionParts,
    queries: Tensor | Sequence[Sequence[int]],
    *,
    layers: Iterable[int] | None = None,
    reduce: Reduce = norms,
) -> Iterator[dict[int, Tensor]]:
    """Record what every token contributes to a few tokens by attention, in a forward pass of the block.

    With A the attention of layer l and x_j its input at token j, the contribution to token i is
    `a_ij = sum over heads h of A_ij^h (x_j W_v^h) W_o^h` (thesis eq. 6.1, 6.2). The a_ij of one i add up to the
    attention block's output at i, less the output projection's bias, which belongs to no token. The projection is
    called as a module, so that offloaded, quantised and edited ones contribute what they do.

    The block's first pass over whole prompts of a shape counts; passes that go on from a key-value cache, as in
    `generate`, are not looked at.

    Args:
        anatomy: of the decoder, or of the language model inside a multimodal one.
        queries: positions i for each row of the batch, `(batch, queries)`, counted with the padding.
        layers: which layers; all by default.
        reduce: what to keep of one row's vectors `(queries, tokens, width)` in float32, called with these and the
            number of the row: their norms by default. The tokens are all tokens j of the sequence, in order. What it
            returns must have one shape for all rows.

    Yields:
        A mapping that is filled when the block ends: layer -> what was kept of all rows of the batch, stacked along a
        new first dimension (`(batch, queries, tokens)` for norms), on the processor.

    Raises:
        OptionError: a position lies outside the sequence, or the model does not use transformers' attention interface.
        SiteError: there is no such layer, nothing was run, or the attention does something beyond eq. 6.1 (gates it,
            say), so that it has no contributions in this sense.
    """
    model = anatomy.model
    wanted = list(range(anatomy.layers)) if layers is None else list(layers)
    blocks = {id(find_module(model, anatomy.attention_block(layer))): layer for layer in wanted}
    rows = _rows(queries)
    seen: dict[int, _Seen] = {}

    def attend(base: Attend, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        layer = blocks.get(id(module))
        if layer is not None and layer not in seen and args[0].shape[2] == args[1].shape[2]:
            _check_rows(rows, args[0])
            weights = attention_weights(module, *args, queries=rows, **kwargs)
            seen[layer] = _Seen(weights, args[2].detach())
        return base(module, *args, **kwargs)

    def keep_heads(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
            if layer in seen and seen[layer].heads is None:
                places = rows.to(args[0].device)
                seen[layer].heads = args[0].detach().gather(1, places[..., None].expand(-1, -1, args[0].shape[-1]))

        return keep

    found: dict[int, Tensor] = {}
    hooks = [
        find_module(model, anatomy.output_projection(layer)).register_forward_pre_hook(keep_heads(layer))
        for layer in wanted
    ]
    try:
        with around_attention(_language_model(model, anatomy, wanted), attend):
            yield found
    finally:
        for hook in hooks:
            hook.remove()
    for layer in wanted:
        if layer not in seen:
            raise SiteError(f"the attention of layer {layer} was never computed in this block: run the model in it")
        found[layer] = _contributions(anatomy, layer, seen.pop(layer), reduce)


@torch.no_grad()
def _contributions(anatomy: AttentionParts, layer: int, seen: _Seen, reduce: Reduce) -> Tensor:
    """The reduced contributions of one layer, row by row of the batch, so that vectors of one row are held at once."""
    projection = find_module(anatomy.model, anatomy.output_projection(layer))
    group = seen.weights.shape[1] // seen.values.shape[1]
    reduced = []
    for row, (weights, values) in enumerate(zip(seen.weights, seen.values, strict=True)):
        spread = values.float().repeat_interleave(group, dim=0)
        heads = torch.einsum("hqt,htd->qthd", weights, spread).flatten(-2)
        if seen.heads is None or heads.shape[-1] != seen.heads.shape[-1]:
            raise _beyond(anatomy, layer)
        _check_sum(anatomy, layer, heads, seen.heads[row])
        heads = heads.to(seen.values.dtype)
        vectors = projection(heads)
        if getattr(projection, "bias", None) is not None:
            vectors = vectors - projection(torch.zeros_like(heads[:1, :1]))
        reduced.append(reduce(vectors.float(), row).cpu())
    return torch.stack(reduced)


def _check_sum(anatomy: AttentionParts, layer: int, heads: Tensor, real: Tensor) -> None:
    """Weights times values must be what entered the projection."""
    real = real.float()
    gap = (heads.sum(1) - real).norm()
    if gap > _TOLERANCE.get(anatomy.model.dtype, 0.05) * real.norm().clamp(min=1e-6):
        raise _beyond(anatomy, layer)


def _beyond(anatomy: AttentionParts, layer: int) -> SiteError:
    return SiteError(
        f"the attention of layer {layer} of {type(anatomy.model).__name__} does more than weigh values, so that "
        "contributions of tokens (thesis eq. 6.1) are not defined for it: choose other layers or another model"
    )


def _rows(queries: Tensor | Sequence[Sequence[int]]) -> Tensor:
    try:
        rows = torch.as_tensor(queries)
    except (TypeError, ValueError) as error:
        raise OptionError(f"queries {queries} are no table of positions: give as many for each row") from error
    if rows.ndim != 2 or not rows.numel() or rows.dtype.is_floating_point or rows.dtype == torch.bool:
        raise OptionError(f"queries has shape {tuple(rows.shape)}: give integers, (batch, queries), at least one")
    return rows.long()


def _check_rows(rows: Tensor, query: Tensor) -> None:
    batch, _, tokens, _ = query.shape
    if len(rows) != batch:
        raise OptionError(f"queries names positions of {len(rows)} rows, and the batch has {batch}")
    outside = rows[(rows < 0) | (rows >= tokens)]
    if len(outside):
        raise OptionError(f"position {int(outside[0])} lies outside the {tokens} tokens: count from 0, with padding")


def _language_model(model: Any, anatomy: AttentionParts, layers: Sequence[int]) -> Any:
    """The innermost part of the model that has an attention implementation and holds all these layers."""
    if not layers:
        raise OptionError("layers is empty: name at least one")
    name = anatomy.attention_block(layers[0])
    parts = name.split(".")
    for stop in range(len(parts), -1, -1):
        part = find_module(model, ".".join(parts[:stop])) if stop else model
        if hasattr(part, "set_attn_implementation"):
            return part
    return model
