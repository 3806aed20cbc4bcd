"""Where a subject stands in each sequence of tokens that a pipeline reads."""

import inspect
from typing import TYPE_CHECKING, Any

from pellucid.core.text_anatomy import text_anatomies

from .subjects import last_subject_position, subject_positions

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def encoder_positions(pipe: "DiffusionPipeline", prompt: str, subject: str) -> dict[str, list[int]]:
    """The positions of a subject's tokens in each text encoder, by its component's name.

    Args:
        pipe: a diffusers text-to-image pipeline.
        prompt: the text.
        subject: words of it.

    Raises:
        DataError: the subject is not in the prompt, or an encoder cuts it off.
    """
    return {
        anatomy.component: subject_positions(
            getattr(pipe, anatomy.component.replace("text_encoder", "tokenizer")),
            prompt,
            subject,
            length=None if anatomy.causal else _t5_length(pipe),
        )
        for anatomy in text_anatomies(pipe)
    }


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


def segment_ends(pipe: "DiffusionPipeline", total: int) -> tuple[int, ...]:
    """Where each encoder's tokens end in the sequence of text that the denoiser reads, as `text_positions` counts.

    Args:
        pipe: the pipeline.
        total: length of that sequence.
    """
    parts: Any = pipe
    if type(pipe).__name__.startswith("StableDiffusion3") and parts.text_encoder_3 is not None:
        return parts.tokenizer_max_length, total
    return (total,)


def _t5_length(pipe: Any) -> int:
    """How many of T5's tokens a pipeline reads: what its `encode_prompt` has by default, and 77 in DeepFloyd IF."""
    asked = inspect.signature(pipe.encode_prompt).parameters.get("max_sequence_length")
    return 77 if asked is None else int(asked.default)
