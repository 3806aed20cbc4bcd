"""Sweeps: a function over many cells, inline or as Ray actors, remembered in a ledger that a crash cannot lose."""

from ..lazy import lazy_exports

__all__ = ["Context", "Summary", "Sweep", "digest", "session"]
__getattr__, __dir__ = lazy_exports(
    __name__,
    {"Context": "batch", "Summary": "sweep", "Sweep": "sweep", "digest": "keys", "session": "cluster"},
)
