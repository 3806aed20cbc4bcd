"""Corrupted prompts: Gaussian noise on a subject's word embeddings, or on the whole of what the denoiser reads.

As in ROME (Meng et al., 2022), which the thesis follows (5.2.2): the noise's standard deviation is a multiple, by
default 3, of that of the embeddings. The unconditional half is never corrupted.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from pellucid.core.conditioning import Conditioning, encode
from pellucid.core.errors import ModelError, OptionError
from pellucid.core.text_anatomy import TextAnatomy, text_anatomies
from pellucid.core.tracing import find_module, patch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Positions of the subject's tokens: for all text encoders, or for each by its component's name.
Subject = Sequence[int] | Mapping[str, Sequence[int]]


def subject_of(anatomies: Sequence[TextAnatomy], subject: Subject) -> dict[str, list[int]]:
    """Positions of the subject's tokens by text encoder.

    Raises:
        OptionError: no positions, an unknown encoder, or one list for encoders that split words differently (CLIP, T5).
    """
    names = [anatomy.component for anatomy in anatomies]
    if isinstance(subject, Mapping):
        unknown = sorted(set(subject) - set(names))
        missing = [name for name in names if name not in subject]
        if unknown or missing:
            raise OptionError(
                f"subject positions are given for {', '.join(sorted(subject))}, but the text encoders are "
                f"{', '.join(names)}: give each its list"
            )
        found = {name: [int(p) for p in subject[name]] for name in names}
    else:
        if len({anatomy.causal for anatomy in anatomies}) > 1:
            raise OptionError(
                f"the text encoders {', '.join(names)} split words into different tokens: give the subject's "
                "positions for each, such as {'text_encoder': [5, 6], 'text_encoder_2': [4, 5]}"
            )
        found = {name: [int(p) for p in subject] for name in names}
    if not all(found.values()):
        raise OptionError("the subject has no token positions: name words that stand in the prompt")
    return found


@contextmanager
def noising(
    pipe: "DiffusionPipeline",
    prompt: str,
    subject: Subject,
    seed: int,
    *,
    noise: float = 3.0,
    rows: slice = slice(None),
) -> Iterator[None]:
    """Add noise to the subject's word embeddings in all text encoders while the block runs.

    Args:
        pipe: the pipeline.
        prompt: the prompt; with `seed` it determines the noise, which is the same in all rows.
        subject: positions of the subject's tokens.
        seed: any integer.
        noise: standard deviation of the noise, as a multiple of that of the encoder's embedding table.
        rows: which rows of the text encoders' batch are corrupted.

    Raises:
        OptionError: no positions, or one that the encoder does not have.
    """
    anatomies = text_anatomies(pipe)
    positions = subject_of(anatomies, subject)
    with ExitStack() as stack:
        for anatomy in anatomies:
            site, places = anatomy.embeddings(), positions[anatomy.component]
            scale, width = embedding_scale(find_module(anatomy.encoder, site.module))
            drawn = torch.randn(len(places), width, generator=rng(prompt, seed, anatomy.component))
            change = _adding(noise * scale * drawn, places, rows, anatomy.component)
            stack.enter_context(patch(anatomy.encoder, {site: change}))
        yield


def corrupt_subject(
    pipe: "DiffusionPipeline", clean: Conditioning, prompt: str, subject: Subject, seed: int, *, noise: float = 3.0
) -> Conditioning:
    """The prompt's one row of conditioning with noise on the subject's word embeddings (thesis 5.2.3, 5.2.4).

    Args:
        pipe: the pipeline.
        clean: the prompt's conditioning from `encode`, one row, of which the unconditional half is kept.
        prompt: the prompt.
        subject: positions of the subject's tokens, for all text encoders or by the name of each.
        seed: with the prompt it determines the noise.
        noise: see `noising`.
    """
    with noising(pipe, prompt, subject, seed, noise=noise):
        return clean.replaced(encode(pipe, [prompt], negative=None))


def corrupt_whole(clean: Conditioning, prompt: str, seed: int, *, noise: float = 3.0) -> Conditioning:
    """The prompt's conditioning with noise on the whole text embedding, pooled ones included (thesis 5.3).

    The noise's standard deviation is `noise` times that of the embedding itself (over tokens and channels). Masks and
    the unconditional half stay.
    """
    changed = {}
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        value = clean.arguments.get(name)
        if value is not None:
            drawn = torch.randn(value.shape[1:], generator=rng(prompt, seed, name)).to(value.device)
            scale = noise * value.float().std(dim=tuple(range(1, value.ndim)), keepdim=True)
            changed[name] = (value.float() + drawn * scale).to(value.dtype)
    return clean.replaced(Conditioning(changed))


def embedding_scale(table: nn.Module) -> tuple[float, int]:
    """Standard deviation and width of an embedding table, which may be offloaded."""
    from accelerate.utils import align_module_device

    if not isinstance(getattr(table, "weight", None), Tensor):
        raise ModelError(f"{type(table).__name__} has no embedding table whose scale the noise could take")
    with align_module_device(table):
        weight = table.get_parameter("weight")
        return float(weight.float().std()), weight.shape[-1]


def rng(prompt: str, seed: int, what: str) -> torch.Generator:
    """A generator for one purpose, the same in every process and on every device."""
    digest = hashlib.sha256(f"{what}\0{seed}\0{prompt}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))


def _adding(noise: Tensor, places: list[int], rows: slice, encoder: str) -> Callable[[Tensor, int], Tensor]:
    def add(value: Tensor, _: int) -> Tensor:
        if not all(0 <= place < value.shape[1] for place in places):
            raise OptionError(
                f"the subject's positions {places} do not all lie in the {value.shape[1]} tokens of {encoder}"
            )
        new = value.clone()
        new[rows, places] = (value[rows, places].float() + noise.to(value.device)).to(value.dtype)
        return new

    return add
