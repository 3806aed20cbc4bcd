"""DiffQuickFix (thesis 5.4.1): a closed-form edit of the text encoder's first self-attention output projection."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.edits import WeightEdit, solve
from pellucid.core.errors import OptionError
from pellucid.core.text_anatomy import TextAnatomy, text_anatomies
from pellucid.core.tracing import Site, capture
from torch import Tensor

from .concepts import ConceptPrompts
from .subjects import last_subject_position

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

RIDGE = 1.0


def diff_quickfix(
    pipe: "DiffusionPipeline", concepts: Sequence[ConceptPrompts], *, layer: int = 0, ridge: float = RIDGE
) -> WeightEdit:
    """Let prompts with a concept act as their targets do, by one matrix of each CLIP text encoder (eq. 5.8, 5.9).

    The output projection W of a self-attention layer becomes the minimiser of |W k - v|^2 + ridge |W - W0|^2. A key k
    is what the projection reads at the concept's last token; v is what it writes, before the edit, at the last
    token of the words that stand in the concept's place in the target. The bias is not part of W: it is taken off v.
    The pipeline itself is not changed: apply the edit.

    Args:
        pipe: a pipeline with one or more CLIP text encoders; T5 encoders beside them are left as they are.
        concepts: one or more, edited together (the thesis edits up to ten).
        layer: 0 is the thesis's causal layer; others serve as controls.
        ridge: lambda of eq. 5.8; small ones edit fully, large ones keep the weights.

    Raises:
        OptionError: the pipeline has no CLIP text encoder, or the encoder no such layer.
        DataError: a concept is not in its prompt, or stands too far behind.
    """
    encoders = [anatomy for anatomy in text_anatomies(pipe) if anatomy.causal]
    if not encoders:
        raise OptionError(f"{type(pipe).__name__} has no CLIP text encoder, which this edit changes: use locoedit")
    if wrong := [anatomy for anatomy in encoders if not 0 <= layer < anatomy.layers]:
        raise OptionError(f"{wrong[0].component} has no layer {layer}: it has {wrong[0].layers}, counted from 0")
    prompts = [prompt for concept in concepts for prompt in concept.prompts]
    targets = [target for concept in concepts for target in concept.targets]
    subjects = [concept.concept for concept in concepts for _ in concept.prompts]
    replacements = [words for concept in concepts for words in concept.replacements]
    updates = []
    for anatomy in encoders:
        keys, _ = _read(pipe, anatomy, layer, prompts, subjects)
        _, values = _read(pipe, anatomy, layer, targets, replacements)
        updates.append(solve(pipe, f"{anatomy.component}.{anatomy.out_projection(layer)}", keys, values, ridge))
    return WeightEdit.of(pipe, updates)


def _read(
    pipe: Any, anatomy: TextAnatomy, layer: int, prompts: Sequence[str], subjects: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """What the output projection reads and writes at each subject's last token: two float64 tensors (n, width)."""
    tokenizer = getattr(pipe, anatomy.component.replace("text_encoder", "tokenizer"))
    name = anatomy.out_projection(layer)
    sites = Site(name, "input"), Site(name, "output")
    places = [last_subject_position(tokenizer, *said) for said in zip(prompts, subjects, strict=True)]
    ids = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode(), capture(anatomy.encoder, sites, device="cpu") as seen:
        anatomy.encoder(ids.to(anatomy.encoder.device))
    read, written = (seen[site][0][range(len(places)), places].double() for site in sites)
    return read, written
