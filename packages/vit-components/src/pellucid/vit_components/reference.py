"""The slow twin: the parts of timm's plain vision transformer by the formula of section 7.1, written out by hand."""

from typing import Any

import torch
from torch import Tensor, nn


def head_parts(model: Any, images: Tensor) -> dict[str, Tensor]:
    """What each head and MLP of a `timm` VisionTransformer adds to its pooled representation.

    Args:
        model: `VisionTransformer` with a class token or averaged tokens, no LayerScale; in eval mode.
        images: (batch, 3, height, width).

    Returns:
        For `blocks.L.attn.headH` and `blocks.L.mlp` (its bias with it) a tensor (batch, width).
    """
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        stream = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        writes: dict[str, Tensor] = {}
        for number, block in enumerate(model.blocks):
            heads, bias = _attention(block.attn, block.norm1(stream))
            writes |= {f"blocks.{number}.attn.head{head}": write for head, write in enumerate(heads)}
            stream = stream + heads.sum(0) + bias
            writes[f"blocks.{number}.mlp"] = block.mlp(block.norm2(stream))
            stream = stream + writes[f"blocks.{number}.mlp"]
        averaged = model.global_pool == "avg"
        final: nn.LayerNorm = model.fc_norm if averaged else model.norm
        start = model.num_prefix_tokens
        read = stream[:, start:].mean(1) if averaged else stream[:, 0]
        spread = (read.var(-1, unbiased=False, keepdim=True) + final.eps).sqrt()
        for name, write in writes.items():
            own = write[:, start:].mean(1) if averaged else write[:, 0]
            found[name] = (own - own.mean(-1, keepdim=True)) / spread * final.weight
    return found


def _attention(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Each head's write (heads, batch, tokens, width), and the bias of the projection."""
    batch, count, width = tokens.shape
    heads = attention.num_heads
    size = width // heads
    query, key, value = attention.qkv(tokens).reshape(batch, count, 3, heads, size).permute(2, 3, 0, 1, 4)
    mixed = (query @ key.transpose(-1, -2) * size**-0.5).softmax(-1) @ value
    weight = attention.proj.weight.reshape(width, heads, size)
    return torch.einsum("hbts,whs->hbtw", mixed, weight), attention.proj.bias
