"""Whether the thesis's own models would go through: sites looked up and weights placed, on the meta device."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from .entry import Paper
from .paper_models import parts_of, pipeline

_GPUS = re.compile(r"(\d+) GPUs? of (\d+) GB")
_SPARE = 0.85  # share of a GPU that weights may take; activations have the rest
_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Checked:
    """One model, looked at without its weights.

    Attributes:
        name: as the entry writes it.
        found: what its anatomy resolved, such as "32 layers of 32 heads".
        parameters: how many.
        gigabytes: of its weights in `dtype` (10^9 bytes).
        dtype: in which the entry's commands load it.
        placed: where the weights go on the entry's hardware.
        fits: whether they fit on its GPUs.
    """

    name: str
    found: str
    parameters: int
    gigabytes: float
    dtype: str
    placed: str
    fits: bool

    def __str__(self) -> str:
        size = f"{self.parameters / 1e9:.2f} billion parameters, {self.gigabytes:.1f} GB in {self.dtype}"
        return f"{self.name}: {self.found}; {size}; {self.placed}"


def models_of(paper: Paper) -> tuple[str, ...]:
    """The models that an entry names, without what its text says beside them."""
    words = (word.strip() for word in paper.models.split(","))
    names = (f"open_clip:{word[10:]}/any" if word.startswith("open_clip ") else word for word in words)
    return tuple(name for name in names if ("/" in name or name.startswith("timm:")) and " " not in name)


def check(name: str, paper: Paper) -> Checked:
    """Look one model of an entry up.

    Every site that the methods use is found by name in the model's own class; accelerate places the weights.

    Raises:
        OptionError: the model's config is not known here.
        SiteError: a site is not found.
    """
    return _check(name, _dtype(name, paper.argvs), paper.hardware)


@cache
def _check(name: str, dtype: str, hardware: str) -> Checked:
    with _hushed():
        parts = parts_of(name)
        placed, fits = _placed(parts, dtype, hardware)
    parameters = sum(tensor.numel() for part in parts.values() for tensor in part.parameters())
    return Checked(name, _resolved(parts), parameters, parameters * _WIDTHS[dtype] / 1e9, dtype, placed, fits)


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the libraries' warnings that no weights were loaded, and that there are no such GPUs: it is so meant."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _dtype(name: str, argvs: Iterable[tuple[str, ...]]) -> str:
    for argv in argvs:
        if name in argv and "--dtype" in argv:
            return argv[argv.index("--dtype") + 1]
    return "float32"


def _resolved(parts: Mapping[str, Any]) -> str:
    if "unet" in parts:
        return _resolved_pipeline(parts)
    (model,) = parts.values()
    kind = type(model).__name__
    if kind.endswith("ForCausalLM"):
        return _resolved_decoder(model)
    if kind.startswith("Llava"):
        return _resolved_multimodal(model)
    return kind


def _resolved_decoder(model: Any) -> str:
    from pellucid.core.anatomy import decoder_anatomy
    from pellucid.core.tracing import find_module

    anatomy = decoder_anatomy(model)
    for layer in range(anatomy.layers):
        sites = [anatomy.head(layer, head) for head in range(anatomy.heads)]
        sites += [anatomy.attention(layer), anatomy.mlp(layer), anatomy.residual_before_mlp(layer)]
        for site in sites:
            find_module(model, site.module)
    return f"{anatomy.layers} layers of {anatomy.heads} heads"


def _resolved_multimodal(model: Any) -> str:
    from pellucid.core.multimodal_anatomy import language_anatomy
    from pellucid.core.tracing import find_module

    anatomy = language_anatomy(model)
    for layer in range(anatomy.layers):
        for site in (anatomy.attention(layer), anatomy.mlp(layer), anatomy.keys(layer), anatomy.values(layer)):
            find_module(model, site.module)
    return f"{anatomy.layers} layers of the language model"


def _resolved_pipeline(parts: Mapping[str, Any]) -> str:
    from pellucid.core.denoiser_anatomy import denoiser_anatomy
    from pellucid.core.text_anatomy import text_anatomies
    from pellucid.core.tracing import find_module

    pipe = pipeline(parts)
    denoiser = denoiser_anatomy(pipe)
    for layer in denoiser.layers:
        find_module(denoiser.denoiser, denoiser.site(layer).module)
    said = [f"{len(denoiser.layers)} layers of the UNet, {len(denoiser.cross_attentions)} read text"]
    for encoder in text_anatomies(pipe):
        for number in range(encoder.layers):
            find_module(encoder.encoder, encoder.attention(number).module)
            find_module(encoder.encoder, encoder.out_projection(number))
        said.append(f"{encoder.layers} layers of {encoder.component}")
    return ", ".join(said)


def _placed(parts: Mapping[str, Any], dtype: str, hardware: str) -> tuple[str, bool]:
    """Where accelerate puts the weights, and whether all of them lie on GPUs."""
    import torch
    from accelerate import infer_auto_device_map

    match = _GPUS.search(hardware)
    if match is None:
        return "on the CPU", True
    count, each = int(match[1]), int(match[2])
    memory: dict[int | str, int] = {gpu: int(_SPARE * each * 1e9) for gpu in range(count)}
    used: dict[Any, int] = {}
    for part in parts.values():
        whole = [str(name) for name in getattr(part, "_no_split_modules", None) or ()]
        free = {gpu: size - used.get(gpu, 0) for gpu, size in memory.items()}
        places = infer_auto_device_map(
            part, {**free, "cpu": 10**15}, no_split_module_classes=whole, dtype=getattr(torch, dtype)
        )
        for name, tensor in part.named_parameters():
            place = next(places[start] for start in _starts(name) if start in places)
            used[place] = used.get(place, 0) + tensor.numel() * _WIDTHS[dtype]
    said = ", ".join(
        f"{size / 1e9:.1f} GB on {'the CPU' if place == 'cpu' else f'GPU {place}'}"
        for place, size in sorted(used.items(), key=lambda item: str(item[0]))
    )
    fits = "cpu" not in used and "disk" not in used
    return f"{said} of {count} x {each} GB{'' if fits else ' (does not fit: add --max-memory or --quantize)'}", fits


def _starts(name: str) -> Iterable[str]:
    """A dotted name, what it lies in, what that lies in, and so on to the whole model."""
    words = name.split(".")
    return (".".join(words[:count]) for count in range(len(words), -1, -1))
