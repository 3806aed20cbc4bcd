"""Neuron-level edits (thesis 5.10): dropping the channels of keys and values that a concept moves most."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.errors import DataError, OptionError
from pellucid.core.tracing import Site, patch
from torch import Tensor

from .concepts import ConceptPrompts
from .text_keys import matched_places, projections, read_projections

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def neuron_scores(pipe: "DiffusionPipeline", concept: ConceptPrompts, layers: Sequence[int]) -> dict[str, Tensor]:
    """How far each channel of keys and values differs between prompts with a concept and without it.

    The score of a channel is z = (mean with - mean without) / sqrt(variance with / n + variance without / n), over the
    last token of the concept and of what stands in its place.

    Args:
        pipe: the pipeline.
        concept: its prompts have the concept, its targets do not; two or more of each that differ before the concept.
        layers: numbers of cross-attention layers, such as those that LocoGen finds.

    Returns:
        For each key and value projection its channels' scores, (out,) float64. A channel that is the same in
        all prompts of both sides has 0, one that differs without any spread infinity.

    Raises:
        DataError: fewer than two prompts.
    """
    if len(concept) < 2:
        raise DataError(f"{concept.concept!r} has one prompt: give two or more, for a variance")
    names = projections(pipe, layers)
    old, new = matched_places(pipe, [concept], following=False)
    there = read_projections(pipe, names, concept.prompts, old)
    gone = read_projections(pipe, names, concept.targets, new)
    return {name: z_scores(there[name][1], gone[name][1]) for name in names}


def z_scores(there: Tensor, gone: Tensor) -> Tensor:
    """Welch's statistic of two groups: (n, channels) and (m, channels) to (channels,)."""
    apart = there.mean(0) - gone.mean(0)
    error = (there.var(0) / len(there) + gone.var(0) / len(gone)).sqrt()
    return torch.where(apart == 0, 0.0, apart / error)


def top_neurons(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The channels of each projection with the largest |z|.

    Args:
        scores: of `neuron_scores`.
        count: of channels in each projection (thesis: 30, 50 and 100 of 1280).

    Raises:
        OptionError: a projection has fewer channels.
    """
    for name, found in scores.items():
        if not 1 <= count <= len(found):
            raise OptionError(f"count={count}: {name} has {len(found)} channels, give 1 to {len(found)}")
    return {name: found.abs().topk(count).indices.sort().values for name, found in scores.items()}


@contextmanager
def dropped(pipe: "DiffusionPipeline", neurons: Mapping[str, Tensor]) -> Iterator[None]:
    """Set channels of keys and values to zero, at every token and step, while the block runs.

    Args:
        pipe: the pipeline.
        neurons: of `top_neurons`.
    """

    def without(channels: Tensor) -> Callable[[Tensor, int], Tensor]:
        def drop(value: Tensor, call: int) -> Tensor:
            value = value.clone()
            value[..., channels] = 0
            return value

        return drop

    replacements = {Site(name, "output"): without(channels) for name, channels in neurons.items()}
    with patch(denoiser_anatomy(pipe).denoiser, replacements):
        yield
