"""The slow, obvious way to what `effects.patched_scores` computes: one forward pass a set, all else frozen by hooks.

It is the twin that tests and the benchmark hold the two-pass way against; use it to check a model of your own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pellucid.core.anatomy import DecoderAnatomy, decoder_anatomy
from pellucid.core.tracing import Site, capture, patch
from torch import Tensor

from .components import Component, ComponentSet
from .effects import Definition
from .prompts import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.inference_mode()
def reference_scores(
    model: "PreTrainedModel", encoded: Encoded, sets: Sequence[ComponentSet], definition: Definition = "direct"
) -> Tensor:
    """`1 - P(answer)` of one probe with each set patched, `(sets,)`, by one forward pass a set.

    Arguments are those of `patched_scores`, but for a single probe.
    """
    anatomy = decoder_anatomy(model)
    length = len(encoded.answer)
    device = model.device
    clean = torch.tensor([encoded.clean + encoded.answer[:-1]], device=device)
    corrupted = torch.tensor([encoded.corrupted + encoded.answer[:-1]], device=device)
    layers = range(anatomy.layers)
    sites = [s for i in layers for s in (anatomy.head_outputs(i), anatomy.attention(i), anatomy.mlp(i))]
    with capture(model, sites) as was:
        model(clean)
    with capture(model, sites) as other:
        model(corrupted)
    patched = {}
    for site in sites:
        patched[site] = was[site][0].clone()
        patched[site][:, -length:] = other[site][0][:, -length:]

    target = torch.tensor(encoded.answer, device=device)[:, None]
    scores = []
    for members in sets:
        frozen = {site: was[site][0] for site in sites if definition == "direct" or site not in _mlps(anatomy)}
        for component in members:
            frozen |= _replacement(anatomy, component, frozen, was, patched)
        with patch(model, frozen):
            logits = model(clean, logits_to_keep=length).logits[0]
        scores.append(1 - logits.float().log_softmax(-1).gather(-1, target).sum().exp())
    return torch.stack(scores).cpu()


def _mlps(anatomy: DecoderAnatomy) -> set[Site]:
    return {anatomy.mlp(i) for i in range(anatomy.layers)}


def _replacement(
    anatomy: DecoderAnatomy,
    component: Component,
    frozen: dict[Site, Tensor],
    was: dict[Site, list[Tensor]],
    patched: dict[Site, Tensor],
) -> dict[Site, Tensor]:
    """What one component's patch changes in the frozen outputs."""
    layer = component.layer
    if component.kind == "mlp":
        return {anatomy.mlp(layer): patched[anatomy.mlp(layer)]}
    if component.kind == "attention":
        return {anatomy.attention(layer): patched[anatomy.attention(layer)]}
    assert component.index is not None
    # The layer's output must follow its heads' inputs, so it is no longer held.
    heads = anatomy.head_outputs(layer)
    mixed = frozen[heads].clone()
    cut = slice(*(anatomy.head(layer, component.index).channels or (0, 0)))
    mixed[..., cut] = patched[heads][..., cut]
    frozen.pop(anatomy.attention(layer), None)
    return {heads: mixed}
