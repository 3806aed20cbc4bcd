"""Put a projection between a pipeline's text encoders and its denoiser, for some of the denoising steps, and off again.

It works by a hook on the denoiser, since pipelines read the text once and denoise many times: only there it is known
which time-step the text is read at (SWITCH-OFF, thesis 9.2.5).
"""

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.errors import ModelError, OptionError, SiteError
from torch import Tensor, nn

from .embedding_parts import embedding_parts
from .projection import TextProjection

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SWITCH_OFF = 800.0
_TEXT, _TIME = "encoder_hidden_states", "timestep"


class Attached:
    """A projection at its place; `detach`, or the end of a `with` block, takes it off.

    Attributes:
        share: tau as a share of the noise schedule; the projection is on at times of at least this share.
    """

    def __init__(
        self, pipe: "DiffusionPipeline", projection: TextProjection, share: float, tokens: Tensor | None
    ) -> None:
        self.share = share
        self._pipe: Any = pipe
        self._projection, self._tokens = projection, tokens
        network: nn.Module = getattr(pipe, "unet", None) or pipe.transformer
        self._places = {name: place for place, name in enumerate(inspect.signature(network.forward).parameters)}
        self._rows: int | None = None
        self._own = vars(pipe).get("encode_prompt")  # a pipeline may carry one that is not its class's
        self._pipe.encode_prompt = self._counting(pipe.encode_prompt)
        self._hook = network.register_forward_pre_hook(self._project, with_kwargs=True)

    def detach(self) -> None:
        """Take the projection off; the pipeline is then as it was. A second call does nothing."""
        self._hook.remove()
        if attached(self._pipe) is not self:
            return
        if self._own is None:
            del self._pipe.encode_prompt  # the one of its class is there again
        else:
            self._pipe.encode_prompt = self._own

    def __enter__(self) -> "Attached":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _counting(self, encode_prompt: Callable[..., Any]) -> Callable[..., Any]:
        """The pipeline's method, which every call of the pipeline goes through, noting how many prompts there are."""

        @functools.wraps(encode_prompt)
        def encode(*args: Any, **options: Any) -> Any:
            found = encode_prompt(*args, **options)
            self._rows = len(found[0])
            return found

        encode.attached = self  # type: ignore[attr-defined]
        return encode

    def _project(self, _: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        text, time = (options[name] if name in options else args[self._places[name]] for name in (_TEXT, _TIME))
        chosen = self._conditional(len(text)) & self._on(time, len(text))
        if not chosen.any():
            return None
        places = chosen.to(text.device)
        new = text.clone()
        new[places] = self._projection.to(text.device)(text[places], self._tokens_of(chosen))
        if _TEXT in options:
            return args, {**options, _TEXT: new}
        place = self._places[_TEXT]
        return (*args[:place], new, *args[place + 1 :]), options

    def _conditional(self, batch: int) -> Tensor:
        """Which rows carry a prompt: all, or the last half, where classifier-free guidance has doubled the batch."""
        rows = batch if self._rows is None else self._rows
        if batch not in (rows, 2 * rows):
            raise SiteError(
                f"the denoiser got {batch} rows where {rows} prompts (or twice as many, with guidance) were encoded: "
                "detach the projection first, or encode these prompts with the pipeline"
            )
        return torch.arange(batch) >= batch - rows

    def _tokens_of(self, chosen: Tensor) -> Tensor | None:
        """The choice of tokens for these rows of the batch."""
        if self._tokens is None or self._tokens.ndim == 1:
            return self._tokens
        rows = len(chosen) if self._rows is None else self._rows
        if len(self._tokens) != rows:
            raise OptionError(
                f"the choice of tokens has {len(self._tokens)} rows, and {rows} prompts run: give one row, or as many"
            )
        return self._tokens[chosen[-rows:]]

    def _on(self, time: Any, batch: int) -> Tensor:
        """In which rows the projection is on at their time; never where tau is the whole schedule."""
        steps = self._pipe.scheduler.config.num_train_timesteps
        share = torch.as_tensor(time).detach().cpu().double().reshape(-1).expand(batch) / steps
        return (share >= self.share) & (self.share < 1)


def attach(
    pipe: "DiffusionPipeline",
    projection: TextProjection,
    switch_off: float = SWITCH_OFF,
    tokens: Tensor | None = None,
) -> Attached:
    """Let a pipeline's denoiser read projected text at the noisy time-steps and the text as it is at later ones.

    Only rows with a prompt are projected: with classifier-free guidance the unconditional rows stay as they are, as in
    the authors' program; the training has never seen an empty prompt projected, and guidance then points from the same
    picture without a prompt. Pooled text (SDXL, SD3) stays as it is, too.

    Args:
        pipe: SD 1.x, 2.x, SDXL, SD3, PixArt or IF.
        projection: made for the same text encoders.
        switch_off: tau: the projection is on at times t >= tau. Up to 1 it is a share of the noise schedule, above 1 a
            time-step of the model's training schedule (800 of 1000 is the share 0.8). The time is the one that the
            denoiser is told: the training step for DDPM-like schedulers, sigma times their number for flow matching. 0
            is always, 1 (or the last step's number) is never.
        tokens: which tokens to project (thesis 9.2.7), as `TextProjection.forward` takes it; with several rows, one a
            prompt that runs.

    Returns:
        What detaches it; also a context manager.

    Raises:
        OptionError: another projection is attached, the projection is for other encoders, or tau is off the schedule.
        ModelError: the pipeline has no text encoding or no scheduler.
    """
    parts = embedding_parts(pipe)
    if projection.parts != parts:
        raise OptionError(
            f"the projection is for encoders of {_widths(projection.parts)} channels, and {type(pipe).__name__} has "
            f"{_widths(parts)}: train one for this pipeline"
        )
    if attached(pipe) is not None:
        raise OptionError(f"a projection is attached to this {type(pipe).__name__} already: detach it first")
    if not hasattr(pipe, "encode_prompt"):
        raise ModelError(f"{type(pipe).__name__} has no encode_prompt: give a text-to-image pipeline of diffusers")
    return Attached(pipe, projection, switch_off_share(pipe, switch_off), tokens)


def attached(pipe: "DiffusionPipeline") -> Attached | None:
    """What is attached to a pipeline, or None."""
    return getattr(vars(pipe).get("encode_prompt"), "attached", None)


def switch_off_share(pipe: "DiffusionPipeline", switch_off: float) -> float:
    """Tau as a share of the noise schedule: a number up to 1 as it is, one above by the number of training steps.

    Raises:
        OptionError: it is negative or beyond the schedule's end.
        ModelError: the pipeline has no scheduler.
    """
    if getattr(pipe, "scheduler", None) is None:
        raise ModelError(f"{type(pipe).__name__} has no scheduler: load it with one, such as diffusers' DDIMScheduler")
    steps = pipe.scheduler.config.num_train_timesteps
    share = switch_off if switch_off <= 1 else switch_off / steps
    if not 0 <= share <= 1:
        raise OptionError(
            f"switch_off is {switch_off}: give a share of the noise schedule from 0 to 1, or a time-step up to {steps}"
        )
    return share


def _widths(parts: Any) -> str:
    return " and ".join(str(part.width) for part in parts)
