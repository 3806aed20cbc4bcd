"""Tinyworld's models, in the real libraries' classes: a CLIP and a Stable Diffusion, trained on its pictures."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "NAMES": "recipes",
    "build_tokenizer": "tokenizer",
    "generate": "generating",
    "train": "recipes",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
