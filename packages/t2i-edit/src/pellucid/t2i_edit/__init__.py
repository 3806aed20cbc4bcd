"""Find where a text-to-image model keeps a concept, and take it out or change it there."""

from pellucid.core.lazy import lazy_exports

_HOMES: dict[str, str] = {}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
