"""A prompt as the numbers that a pipeline reads in its place: encode once, then mix, repeat and change the rows."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import ModelError, OptionError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_PLAIN = ("prompt_embeds", "negative_prompt_embeds")
_MASKED = (
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
)
_POOLED = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_GUIDED_BY_NUMBER = ("prompt_embeds", "pooled_prompt_embeds")


@dataclass(frozen=True)
class Conditioning:
    """What a diffusers pipeline takes instead of prompts, one row a picture.

    Attributes:
        arguments: keyword arguments of the pipeline's call, each of shape `(rows, ...)`: `prompt_embeds`, and what the
            family has beside it: `negative_prompt_embeds`, `pooled_prompt_embeds`, `prompt_attention_mask` and others.
            Names that begin with `negative_` belong to the unconditional half of classifier-free guidance.
    """

    arguments: Mapping[str, Tensor]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.arguments["prompt_embeds"].shape[0]

    def take(self, rows: Sequence[int]) -> "Conditioning":
        """The rows at these indices, in this order; an index may stand several times."""
        return Conditioning({name: value[list(rows)] for name, value in self.arguments.items()})

    def replaced(self, other: "Conditioning") -> "Conditioning":
        """The same with the arguments that `other` has taken from it: the rest, as the negative ones, stays."""
        return Conditioning({**self.arguments, **other.arguments})

    @staticmethod
    def stack(parts: Sequence["Conditioning"]) -> "Conditioning":
        """All rows of several conditionings, one after another.

        Raises:
            OptionError: nothing to stack, or the parts come from different kinds of pipelines.
        """
        if not parts:
            raise OptionError("there is no conditioning to stack: give at least one")
        names = parts[0].arguments
        for part in parts[1:]:
            if part.arguments.keys() != names.keys():
                raise OptionError(
                    f"conditionings with {', '.join(names)} and with {', '.join(part.arguments)} do not go together: "
                    "encode both with the same pipeline"
                )
            for name in names:
                if part.arguments[name].shape[1:] != names[name].shape[1:]:
                    raise OptionError(
                        f"{name} has the shapes {tuple(names[name].shape)} and {tuple(part.arguments[name].shape)}: "
                        "encode both with the same pipeline"
                    )
        return Conditioning({name: torch.cat([part.arguments[name] for part in parts]) for name in names})


def encode(
    pipe: "DiffusionPipeline", prompts: Sequence[str], *, negative: str | None = "", gradients: bool = False
) -> Conditioning:
    """Encode prompts by all text encoders of a pipeline.

    The pipeline's own `encode_prompt` does the work, without the cleaning of captions (`clean_caption=False`) that some
    pipelines with T5 do when they are called.

    Args:
        pipe: a diffusers text-to-image pipeline (SD 1.x, 2.x, SDXL, IF, SD3, PixArt, Flux).
        prompts: one a row.
        negative: the prompt of the unconditional half; "" is what the pipeline takes when none is given (zeros for some
            SDXL). None leaves the unconditional half out. Flux has none.
        gradients: let them go through, for training in what the text encoders read.

    Returns:
        One row a prompt, on the pipeline's device, in its text encoder's dtype.

    Raises:
        OptionError: no prompts, or a negative prompt for a family that has no classifier-free guidance.
        ModelError: the pipeline's `encode_prompt` is not of a known kind.
    """
    if isinstance(prompts, str) or not prompts:
        raise OptionError("prompts must be a list with at least one prompt")
    method = getattr(pipe, "encode_prompt", None)
    if method is None:
        raise ModelError(f"{type(pipe).__name__} has no encode_prompt: give a text-to-image pipeline of diffusers")
    parameters = inspect.signature(method).parameters
    guided = "do_classifier_free_guidance" in parameters
    if negative and not guided:
        raise OptionError(f"{type(pipe).__name__} has no classifier-free guidance: leave the negative prompt empty")
    options: dict[str, Any] = {"device": pipe._execution_device, "num_images_per_prompt": 1}
    options |= {name: None for name in ("prompt_2", "prompt_3") if name in parameters}
    if guided:
        options["do_classifier_free_guidance"] = negative is not None
    if negative:
        options["negative_prompt"] = [negative] * len(prompts)
    names = _returned(parameters)
    with torch.set_grad_enabled(gradients):
        values = method(prompt=list(prompts), **options)
    if len(values) < len(names) or not isinstance(values[0], Tensor):
        raise ModelError(
            f"{type(pipe).__name__}.encode_prompt returns {len(values)} values where {len(names)} are known"
        )
    return Conditioning({name: value for name, value in zip(names, values, strict=False) if value is not None})


def _returned(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of what `encode_prompt` returns, told from what it takes."""
    if "prompt_attention_mask" in parameters:
        return _MASKED
    if "negative_pooled_prompt_embeds" in parameters:
        return _POOLED
    return _GUIDED_BY_NUMBER if "pooled_prompt_embeds" in parameters else _PLAIN
