"""LocoEdit (thesis 5.9.1): a closed-form edit of the key and value projections of a few cross-attention layers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.edits import WeightEdit, solve

from .concepts import ConceptPrompts
from .text_keys import projections, read_projections

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

RIDGE = 0.01


def locoedit(
    pipe: "DiffusionPipeline", concepts: Sequence[ConceptPrompts], layers: Sequence[int], *, ridge: float = RIDGE
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

    Raises:
        OptionError: there is no such layer.
        DataError: a concept is not in its prompt, or stands too far behind.
    """
    names = projections(pipe, layers)
    prompts = [prompt for concept in concepts for prompt in concept.prompts]
    targets = [target for concept in concepts for target in concept.targets]
    subjects = [concept.concept for concept in concepts for _ in concept.prompts]
    replacements = [words for concept in concepts for words in concept.replacements]
    old, new = (read_projections(pipe, names, *said) for said in ((prompts, subjects), (targets, replacements)))
    component = denoiser_anatomy(pipe).component
    return WeightEdit.of(
        pipe, [solve(pipe, f"{component}.{name}", old[name][0], new[name][1], ridge) for name in names]
    )


def edit_all_layers(
    pipe: "DiffusionPipeline",
    concepts: Sequence[ConceptPrompts],
    *,
    preserved: Sequence[ConceptPrompts] = (),
    ridge: float = RIDGE,
) -> WeightEdit:
    """The baseline: the same closed form in ALL cross-attention layers, as UCE does (Gandikota et al. 2024).

    Args:
        pipe: the pipeline.
        concepts: as for `locoedit`.
        preserved: further concepts whose prompts shall act as before.
        ridge: as for `locoedit`.
    """
    layers = range(len(denoiser_anatomy(pipe).cross_attentions))
    if not preserved:
        return locoedit(pipe, concepts, layers, ridge=ridge)
    names = projections(pipe, layers)
    edit = locoedit(pipe, concepts, layers, ridge=ridge)
    kept = read_projections(
        pipe,
        names,
        [prompt for concept in preserved for prompt in concept.prompts],
        [concept.concept for concept in preserved for _ in concept.prompts],
    )
    component = denoiser_anatomy(pipe).component
    both = [
        type(update)(
            update.module,
            torch.cat([update.keys, kept[name][0]]),
            torch.cat([update.residuals, update.residuals.new_zeros(len(kept[name][0]), update.residuals.shape[1])]),
            ridge,
        )
        for name, update in zip(names, edit.updates, strict=True)
        if update.module == f"{component}.{name}"
    ]
    return WeightEdit.of(pipe, both)
