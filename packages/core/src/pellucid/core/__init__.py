"""What the Pellucid packages share: activations, sweeps, models, reports."""

from .lazy import lazy_exports

__all__: list[str] = []
__getattr__, __dir__ = lazy_exports(__name__, {})
