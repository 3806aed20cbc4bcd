"""Causal tracing of the text encoders: which state, restored from the clean run, brings the picture back (5.2.4).

A state is what a self-attention layer or an MLP writes at one token, or a word embedding before its noise. The text
encoder's clean, corrupted and restored runs (eq. 5.6) are rows of one batch; their outputs condition the unchanged
denoiser (eq. 5.7). All states of all layers, with the embeddings, are all that the corruption can change: in the
residual stream the noised embeddings stay where they are, however many layers are restored.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pellucid.core.conditioning import Conditioning, encode
from pellucid.core.errors import OptionError, SiteError
from pellucid.core.generation import Output, chunks, generate
from pellucid.core.text_anatomy import TextAnatomy, text_anatomies
from pellucid.core.tracing import Site, patch
from torch import Tensor

from .corruption import Subject, noising, subject_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Part = Literal["embedding", "self_attention", "mlp"]
_SHORT = {"embedding": "embedding", "self_attention": "self-attn", "mlp": "mlp"}


@dataclass(frozen=True)
class TextState:
    """One thing to restore in a text encoder.

    Attributes:
        part: what writes it.
        layer: counted from 0; 0 for embeddings.
        token: position, or None for all tokens.
        encoder: the pipeline's component.
    """

    part: Part
    layer: int
    token: int | None
    encoder: str = "text_encoder"

    @property
    def label(self) -> str:
        """Such as "self-attn-0", the thesis's names; without the token and the encoder."""
        return _SHORT[self.part] if self.part == "embedding" else f"{_SHORT[self.part]}-{self.layer}"


@dataclass(frozen=True)
class TextTraceRun:
    """Pictures of one traced prompt and seed.

    Attributes:
        clean: of the clean model, `(height, width, 3)` uint8 (or latents, if asked for).
        corrupted: with noise on the subject's word embeddings, of the same shape.
        restored: one a state, `(len(states), ...)`.
        states: what was restored.
    """

    clean: Any
    corrupted: Any
    restored: Any
    states: tuple[TextState, ...]


def text_states(
    pipe: "DiffusionPipeline",
    subject: Subject,
    *,
    tokens: Subject | None = None,
    layers: Sequence[int] | None = None,
    encoders: Sequence[str] | None = None,
) -> tuple[TextState, ...]:
    """All single states: by encoder, then the embedding, then self-attention and MLP of each layer; by token.

    Args:
        pipe: the pipeline.
        subject: positions of the subject's tokens.
        tokens: positions to restore; None: those of the subject. Tokens before the subject do not matter in causal
            encoders (CLIP); those after it may, above all in T5.
        layers: which layers of each encoder; None: all.
        encoders: which components; None: all.
    """
    anatomies = text_anatomies(pipe)
    places = subject_of(anatomies, subject if tokens is None else tokens)
    names = [anatomy.component for anatomy in anatomies]
    for name in encoders or ():
        if name not in names:
            raise SiteError(f"the pipeline has no text encoder {name!r}: it has {', '.join(names)}")
    states: list[TextState] = []
    for anatomy in anatomies:
        name = anatomy.component
        if encoders is not None and name not in encoders:
            continue
        states += [TextState("embedding", 0, token, name) for token in places[name]]
        for layer in range(anatomy.layers) if layers is None else layers:
            for part in ("self_attention", "mlp"):
                states += [TextState(part, layer, token, name) for token in places[name]]
    return tuple(states)


def trace_text(
    pipe: "DiffusionPipeline",
    prompt: str,
    subject: Subject,
    seed: int,
    *,
    steps: int = 25,
    guidance: float = 7.5,
    states: Sequence[TextState] | None = None,
    noise: float = 3.0,
    chunk: int = 16,
    output: Output = "pixels",
) -> TextTraceRun:
    """Restore the states of a corrupted text encoder from the clean one, one at a time (eq. 5.6-5.7).

    Args:
        pipe: a diffusers text-to-image pipeline.
        prompt: the caption c.
        subject: positions of the subject's tokens, for all text encoders or by the name of each.
        seed: of the first noise of the picture, and with the prompt of the corruption.
        steps: denoising steps.
        guidance: diffusers' guidance scale, the thesis's alpha plus 1.
        states: what to restore; None: `text_states` of the subject's tokens.
        noise: a multiple of the standard deviation of the embedding table.
        chunk: rows at once, of the text encoders and of pictures.
        output: "pixels" or "latents".
    """
    chosen = text_states(pipe, subject) if states is None else tuple(states)
    conditioning = encode_restored(pipe, prompt, subject, seed, [[state] for state in chosen], noise=noise, chunk=chunk)
    pictures = generate(
        pipe,
        conditioning,
        [seed] * conditioning.rows,
        steps=steps,
        guidance=guidance,
        output=output,
        chunk=chunk,
    )
    return TextTraceRun(pictures[0], pictures[1], pictures[2:], chosen)


def encode_restored(
    pipe: "DiffusionPipeline",
    prompt: str,
    subject: Subject,
    seed: int,
    restored: Sequence[Sequence[TextState]],
    *,
    noise: float = 3.0,
    chunk: int = 64,
) -> Conditioning:
    """Encode a prompt clean, corrupted, and corrupted with each set of states restored: `2 + len(restored)` rows.

    The unconditional half is the clean one in all rows. At most `chunk` sets go through the text encoders at once.

    Raises:
        SiteError: a state of an encoder or a layer that the pipeline does not have.
        OptionError: a token outside of the sequence.
    """
    anatomies = {anatomy.component: anatomy for anatomy in text_anatomies(pipe)}
    clean = encode(pipe, [prompt])
    parts: list[Conditioning] = []
    for part in chunks(len(restored), chunk) or [range(0)]:
        rows = 2 + len(part)
        changes = _changes(anatomies, [restored[index] for index in part])
        with ExitStack() as stack:
            # The noise goes in first, so that restored embeddings come after it.
            stack.enter_context(noising(pipe, prompt, subject, seed, noise=noise, rows=slice(1, None)))
            for name, change in changes.items():
                stack.enter_context(patch(anatomies[name].encoder, change))
            positive = encode(pipe, [prompt] * rows, negative=None)
        parts.append(positive if not parts else positive.take(range(2, rows)))
    positive = Conditioning.stack(parts)
    return clean.take([0] * positive.rows).replaced(positive)


def _changes(
    anatomies: Mapping[str, TextAnatomy], restored: Sequence[Sequence[TextState]]
) -> dict[str, dict[Site, Callable[[Tensor, int], Tensor]]]:
    """By encoder: what restores each set of states in its row (the first set in row 2)."""
    targets: dict[str, dict[Site, list[tuple[int, int | None]]]] = {}
    for row, states in enumerate(restored, start=2):
        for state in states:
            if state.encoder not in anatomies:
                raise SiteError(f"the pipeline has no text encoder {state.encoder!r}: it has {', '.join(anatomies)}")
            site = _site(anatomies[state.encoder], state)
            targets.setdefault(state.encoder, {}).setdefault(site, []).append((row, state.token))
    return {name: {site: _restore(places, name) for site, places in sites.items()} for name, sites in targets.items()}


def _restore(targets: Sequence[tuple[int, int | None]], encoder: str) -> Callable[[Tensor, int], Tensor]:
    """Give some rows the first row's activation at some tokens."""

    def change(value: Tensor, _: int) -> Tensor:
        new = value.clone()
        for row, token in targets:
            if token is None:
                new[row] = value[0]
            elif 0 <= token < value.shape[1]:
                new[row, token] = value[0, token]
            else:
                raise OptionError(f"there is no token {token} in the {value.shape[1]} of {encoder}")
        return new

    return change


def _site(anatomy: TextAnatomy, state: TextState) -> Site:
    if state.part == "embedding":
        return anatomy.embeddings()
    return anatomy.attention(state.layer) if state.part == "self_attention" else anatomy.mlp(state.layer)
