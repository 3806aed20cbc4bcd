"""LocoEdit (thesis 5.9.1): a closed-form edit of the key and value projections of a few cross-attention layers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.edits import WeightEdit, solve
from pellucid.core.errors import OptionError

from .concepts import ConceptPrompts
from .text_keys import matched_places, projections, read_projections

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

RIDGE = 1.0


def locoedit(
    pipe: "DiffusionPipeline",
    concepts: Sequence[ConceptPrompts],
    layers: Sequence[int],
    *,
    ridge: float = RIDGE,
    following: bool = False,
    preserved: Sequence[ConceptPrompts] = (),
) -> WeightEdit:
    """Let prompts with a concept act as their targets do, in some cross-attention layers.

    In each layer the key and the value projection W become the minimiser of
    |W c_orig - W0 c_target|^2 + ridge |W - W0|^2, where c is the text at the last token of the concept, and of what
    stands in its place in the target. The pipeline itself is not changed: apply the edit.

    The method rests on causal text encoders, where the last token holds the concept. T5 reads in both directions, so
    that later tokens tell of the concept too: with DeepFloyd IF, PixArt and Flux expect little (thesis 5.9.2).

    Args:
        pipe: the pipeline.
        concepts: one or more, edited together.
        layers: numbers of cross-attention layers in the order of execution, such as those that LocoGen finds.
        ridge: lambda of the thesis; small ones edit fully, large ones keep the weights.
        following: map the tokens after the concept's last one as well, up to the last padding; the thesis does not.
        preserved: concepts whose prompts shall act as before at the tokens that are mapped; the thesis has none.

    Raises:
        OptionError: there is no such layer, or no concept.
        DataError: a concept is not in its prompt, or stands too far behind.
    """
    if not concepts:
        raise OptionError("there is no concept to edit: give one or more")
    names = projections(pipe, layers)
    old_places, new_places = matched_places(pipe, concepts, following)
    old = read_projections(pipe, names, [prompt for concept in concepts for prompt in concept.prompts], old_places)
    new = read_projections(pipe, names, [target for concept in concepts for target in concept.targets], new_places)
    keys = {name: [old[name][0]] for name in names}
    values = {name: [new[name][1]] for name in names}
    if preserved:
        same = [prompt for concept in preserved for prompt in concept.prompts]
        kept = read_projections(pipe, names, same, matched_places(pipe, preserved, following)[0])
        for name in names:
            keys[name].append(kept[name][0])
            values[name].append(kept[name][1])
    component = denoiser_anatomy(pipe).component
    return WeightEdit.of(
        pipe,
        [solve(pipe, f"{component}.{name}", torch.cat(keys[name]), torch.cat(values[name]), ridge) for name in names],
    )


def edit_all_layers(pipe: "DiffusionPipeline", concepts: Sequence[ConceptPrompts], **options: Any) -> WeightEdit:
    """The baseline: the same closed form in ALL cross-attention layers, as UCE does (Gandikota et al. 2024).

    Args:
        pipe: the pipeline.
        concepts: as for `locoedit`.
        options: as for `locoedit`.
    """
    return locoedit(pipe, concepts, range(len(denoiser_anatomy(pipe).cross_attentions)), **options)
