"""What a denoiser's key and value projections read and write at a subject's last token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pellucid.core.conditioning import encode
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.errors import OptionError
from pellucid.core.generation import generate
from pellucid.core.tracing import Site, capture
from torch import Tensor

from .concepts import ConceptPrompts
from .positions import segment_ends, text_positions

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# How many steps to look at where the text changes on its way through the denoiser; elsewhere one is enough.
_STEPS = 4
_ENDS: tuple[Literal["input"], Literal["output"]] = ("input", "output")


def projections(pipe: "DiffusionPipeline", layers: Sequence[int]) -> tuple[str, ...]:
    """The key and value projections of cross-attention layers: dotted names in the denoiser.

    Raises:
        OptionError: there is no such layer, or none was given.
    """
    found = denoiser_anatomy(pipe).cross_attentions
    if not layers:
        raise OptionError("no cross-attention layer was given: give one or more")
    if wrong := [layer for layer in layers if not 0 <= layer < len(found)]:
        raise OptionError(f"there is no cross-attention layer {wrong[0]}: there are {len(found)}, counted from 0")
    return tuple(name for layer in layers for name in (found[layer].key, found[layer].value))


def matched_places(
    pipe: "DiffusionPipeline", concepts: Sequence[ConceptPrompts], following: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Which tokens of each target take the place of which tokens of its prompt.

    Args:
        pipe: the pipeline.
        concepts: prompts and targets.
        following: not only the last token of the concept and of what stands in its place, but also all tokens after
            these, the padding included: in a causal text encoder they tell of the concept, too.

    Returns:
        For each prompt and for each target, positions in the text that the denoiser reads, as many in the one as in
        the other.
    """
    total = encode(pipe, [concepts[0].prompts[0]]).arguments["prompt_embeds"].shape[1]
    old: list[list[int]] = []
    new: list[list[int]] = []
    for concept in concepts:
        for prompt, target, words in zip(concept.prompts, concept.targets, concept.replacements, strict=True):
            old.append([])
            new.append([])
            ends = segment_ends(pipe, total)
            starts = text_positions(pipe, prompt, concept.concept), text_positions(pipe, target, words)
            for end, here, there in zip(ends, *starts, strict=True):
                count = end - max(here, there) if following else 1
                old[-1] += range(here, here + count)
                new[-1] += range(there, there + count)
    return old, new


def read_projections(
    pipe: "DiffusionPipeline", names: Sequence[str], prompts: Sequence[str], places: Sequence[Sequence[int]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """What key and value projections read and write at some tokens.

    In a UNet and in PixArt the text is the same at every step and layer, and one step tells all. In SD3 and Flux it is
    changed by each block, so that all steps of a four-step generation are taken, each as a key of its own.

    Args:
        pipe: the pipeline.
        names: of `projections`.
        prompts: texts, one or more.
        places: positions in each.

    Returns:
        For each name the inputs (n, in) and the outputs (n, out), float64 on the CPU. The rows go through the steps,
        in each through the prompts, and for each prompt through its positions.
    """
    anatomy = denoiser_anatomy(pipe)
    rows = [row for row, found in enumerate(places) for _ in found]
    columns = [place for found in places for place in found]
    steps = _STEPS if type(pipe).__name__.startswith(("StableDiffusion3", "Flux")) else 1
    read, written = ({name: Site(name, io) for name in names} for io in _ENDS)
    with capture(anatomy.denoiser, [*read.values(), *written.values()], device="cpu") as seen:
        generate(pipe, encode(pipe, prompts), [0] * len(prompts), steps=steps, guidance=1.0, output="latents")

    def picked(site: Site) -> Tensor:
        return torch.cat([call[rows, columns].double() for call in seen[site]])

    return {name: (picked(read[name]), picked(written[name])) for name in names}
