"""Small real models and data for trying Pellucid with no hub, no account and no GPU."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "ASSETS": "registry",
    "Asset": "registry",
    "Fact": "countries",
    "cache_root": "cache",
    "facts": "countries",
    "resolve": "registry",
}

__all__ = ["ASSETS", "Asset", "Fact", "cache_root", "facts", "resolve"]
__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
