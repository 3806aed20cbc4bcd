"""A local page to try Pellucid on."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "Asking": "asking",
    "Correcting": "correcting",
    "DOCUMENT": "asking",
    "Editing": "editing",
    "Looking": "looking",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
