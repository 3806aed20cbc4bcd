"""Causal tracing of the denoiser: which layer, restored from the clean run, brings the picture back (thesis 5.2.3).

The clean model, the corrupted one and all restored ones (eq. 5.3-5.5) are rows of one batch: see `rows`. Works for
UNets and for transformers alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.conditioning import Conditioning, encode
from pellucid.core.denoiser_anatomy import DenoiserAnatomy, denoiser_anatomy
from pellucid.core.errors import OptionError, SiteError
from pellucid.core.generation import Output, chunks, generate
from pellucid.core.tracing import Site

from .corruption import Subject, corrupt_subject, corrupt_whole
from .rows import pooled_site, restoring

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

POOLED_LABEL = "pooled-text"


@dataclass(frozen=True)
class TraceRun:
    """Pictures of one traced prompt and seed.

    Attributes:
        clean: of the clean model, `(height, width, 3)` uint8 (or latents, if asked for).
        corrupted: of the corrupted model, of the same shape.
        restored: of the restored models, `(len(layers), ...)`.
        layers: what was restored: a layer's label, or the labels of a window's first and last one ("a..b").
    """

    clean: Any
    corrupted: Any
    restored: Any
    layers: tuple[str, ...]


def traced_sites(anatomy: DenoiserAnatomy) -> dict[str, Site]:
    """What can be restored, by label, in execution order.

    Where pooled text goes around the layers (SDXL, IF, SD3, Flux) it stands first, under "pooled-text": its embedding
    (with that of the time step, which is the same in all runs) scales and shifts what the layers write. All of these
    sites together carry all that a prompt can do to the picture: every write into the residual stream of the latents.
    """
    pooled = pooled_site(anatomy.denoiser)
    first = {} if pooled is None else {POOLED_LABEL: pooled}
    return first | {layer.label: anatomy.site(layer) for layer in anatomy.layers}


def trace_unet(
    pipe: "DiffusionPipeline",
    prompt: str,
    subject: Subject,
    seed: int,
    *,
    steps: int = 25,
    guidance: float = 7.5,
    layers: Sequence[str] | None = None,
    window: int = 1,
    noise: float = 3.0,
    whole: bool = False,
    chunk: int = 16,
    output: Output = "pixels",
) -> TraceRun:
    """Restore the layers of a corrupted denoiser from the clean one, one layer (or window) at a time, at every step.

    Args:
        pipe: a diffusers text-to-image pipeline.
        prompt: the caption c.
        subject: positions of the subject's tokens in the text encoders (not read with `whole`).
        seed: of the first noise of the picture, and with the prompt of the corruption.
        steps: denoising steps.
        guidance: diffusers' guidance scale, the thesis's alpha plus 1.
        layers: labels of `traced_sites`, restored in this order; None: all.
        window: how many adjacent ones of them are restored together.
        noise: of the corruption: a multiple of the embeddings' standard deviation.
        whole: corrupt the whole text embedding (thesis 5.3) and not only the subject's words.
        chunk: rows at once, at least 3; each batch has the clean row beside those to be restored.
        output: "pixels" or "latents".

    Returns:
        The pictures. The average indirect effect (5.2.5) of a layer is the score of its restored picture minus that of
        the corrupted one.

    Raises:
        SiteError: a label that the denoiser does not have; the message lists some.
        OptionError: a window larger than the list of layers, or a chunk that leaves no room.
    """
    anatomy = denoiser_anatomy(pipe)
    sites = traced_sites(anatomy)
    labels = list(sites) if layers is None else list(layers)
    for label in labels:
        if label not in sites:
            known = ", ".join(list(sites)[:6])
            raise SiteError(f"the {anatomy.component} has no layer {label!r}; its {len(sites)} layers begin {known}")
    windows = adjacent(labels, window)
    clean = encode(pipe, [prompt])
    corrupted = (
        corrupt_whole(clean, prompt, seed, noise=noise)
        if whole
        else corrupt_subject(pipe, clean, prompt, subject, seed, noise=noise)
    )
    pictures = restored_runs(
        pipe,
        anatomy,
        clean,
        corrupted,
        [[sites[label] for label in part] for part in windows],
        seed,
        steps=steps,
        guidance=guidance,
        chunk=chunk,
        output=output,
    )
    names = tuple(part[0] if len(part) == 1 else f"{part[0]}..{part[-1]}" for part in windows)
    return TraceRun(pictures[0], pictures[1], pictures[2:], names)


def restored_runs(
    pipe: "DiffusionPipeline",
    anatomy: DenoiserAnatomy,
    clean: Conditioning,
    corrupted: Conditioning,
    restored: Sequence[Sequence[Site]],
    seed: int,
    *,
    steps: int,
    guidance: float,
    chunk: int,
    output: Output = "pixels",
) -> Any:
    """Run the clean row, the corrupted row, and one corrupted row for each set of sites that is restored in it.

    Args:
        pipe: the pipeline.
        anatomy: of its denoiser.
        clean: one row of the clean prompt.
        corrupted: one row of the corrupted one.
        restored: sets of sites; an empty one gives the corrupted picture again.
        seed: of the first noise, the same in all rows.
        steps: denoising steps.
        guidance: diffusers' guidance scale.
        chunk: rows at once, at least 3.
        output: "pixels" or "latents".

    Returns:
        `(2 + len(restored), ...)`: clean, corrupted, restored ones. Batches beyond the first run the clean row again.
    """
    if chunk < 3:
        raise OptionError(f"chunk is {chunk}: at least 3 rows (clean, corrupted, restored) must run at once")
    # The corrupted run is a run with nothing restored.
    runs: list[Sequence[Site]] = [(), *restored]
    parts: list[Any] = []
    for part in chunks(len(runs), chunk - 1):
        rows = 1 + len(part)
        copies: dict[Site, list[tuple[int, int]]] = {}
        for row, run in enumerate(part, start=1):
            for site in runs[run]:
                copies.setdefault(site, []).append((0, row))
        batch = Conditioning.stack([clean, corrupted.take([0] * len(part))])
        with restoring(anatomy.denoiser, copies, rows):
            pictures = generate(pipe, batch, [seed] * rows, steps=steps, guidance=guidance, output=output)
        parts.append(pictures if not parts else pictures[1:])
    return join(parts)


def join(parts: Sequence[Any]) -> Any:
    """One array (or tensor, for latents) of several."""
    import torch

    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else torch.cat(list(parts))


def adjacent(labels: Sequence[str], window: int) -> list[Sequence[str]]:
    """All runs of `window` neighbours."""
    if not 1 <= window <= len(labels):
        raise OptionError(f"a window of {window} does not fit {len(labels)} layers: give 1 to {len(labels)}")
    return [labels[start : start + window] for start in range(len(labels) - window + 1)]
