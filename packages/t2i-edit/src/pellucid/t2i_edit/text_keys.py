"""What a denoiser's key and value projections read and write at a subject's last token."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.errors import OptionError
from pellucid.core.tracing import Site, capture
from torch import Tensor

from .conditioning import encode
from .generation import generate
from .subjects import last_subject_position

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# How many steps to look at where the text changes on its way through the denoiser; elsewhere one is enough.
_STEPS = 4
_ENDS: tuple[Literal["input"], Literal["output"]] = ("input", "output")


def text_positions(pipe: "DiffusionPipeline", prompt: str, subject: str) -> tuple[int, ...]:
    """Where a subject's last token stands in the sequence of text that the denoiser reads.

    Args:
        pipe: Stable Diffusion 1, 2, XL or 3, DeepFloyd IF, PixArt or Flux.
        prompt: the text.
        subject: words of it.

    Returns:
        One place; in SD3 two, since it reads CLIP's tokens and then T5's.

    Raises:
        DataError: the subject is not in the prompt, or is cut off.
    """
    kind = type(pipe).__name__
    parts: Any = pipe
    if kind.startswith("StableDiffusion3"):
        clip = last_subject_position(parts.tokenizer, prompt, subject)
        if parts.text_encoder_3 is None:
            return (clip,)
        far = last_subject_position(parts.tokenizer_3, prompt, subject, length=_t5_length(pipe))
        return clip, parts.tokenizer_max_length + far
    if kind.startswith("Flux"):
        return (last_subject_position(parts.tokenizer_2, prompt, subject, length=_t5_length(pipe)),)
    length = _t5_length(pipe) if kind.startswith(("IF", "PixArt")) else None
    return (last_subject_position(parts.tokenizer, prompt, subject, length=length),)


def _t5_length(pipe: Any) -> int:
    """How many of T5's tokens a pipeline reads: what its `encode_prompt` has by default, and 77 in DeepFloyd IF."""
    asked = inspect.signature(pipe.encode_prompt).parameters.get("max_sequence_length")
    return 77 if asked is None else int(asked.default)


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


def read_projections(
    pipe: "DiffusionPipeline", names: Sequence[str], prompts: Sequence[str], subjects: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """What key and value projections read and write at each subject's last token.

    In a UNet and in PixArt the text is the same at every step and layer, and one step tells all. In SD3 and Flux it is
    changed by each block, so that the first four of a four-step generation are taken, each as a key of its own.

    Args:
        pipe: the pipeline.
        names: of `projections`.
        prompts: texts, one or more.
        subjects: words of each.

    Returns:
        For each name the inputs (n, in) and the outputs (n, out), float64 on the CPU. The rows go through the steps,
        in each through the prompts, and for each prompt through its positions.
    """
    anatomy = denoiser_anatomy(pipe)
    places = [text_positions(pipe, prompt, subject) for prompt, subject in zip(prompts, subjects, strict=True)]
    rows = [row for row, found in enumerate(places) for _ in found]
    columns = [place for found in places for place in found]
    steps = _STEPS if type(pipe).__name__.startswith(("StableDiffusion3", "Flux")) else 1
    read, written = ({name: Site(name, io) for name in names} for io in _ENDS)
    with capture(anatomy.denoiser, [*read.values(), *written.values()], device="cpu") as seen:
        generate(pipe, encode(pipe, prompts), [0] * len(prompts), steps=steps, guidance=1.0, output="latents")

    def picked(site: Site) -> Tensor:
        return torch.cat([call[rows, columns].double() for call in seen[site]])

    return {name: (picked(read[name]), picked(written[name])) for name in names}
