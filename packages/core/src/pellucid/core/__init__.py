"""What the Pellucid packages share: activations, sweeps, models, reports."""

from typing import TYPE_CHECKING

from .lazy import lazy_exports

if TYPE_CHECKING:
    from .anatomy import DecoderAnatomy as DecoderAnatomy
    from .anatomy import decoder_anatomy as decoder_anatomy
    from .errors import PellucidError as PellucidError
    from .loading import ModelSpec as ModelSpec
    from .loading import load as load
    from .sweeps import Sweep as Sweep
    from .tracing import Site as Site
    from .tracing import capture as capture
    from .tracing import patch as patch

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DecoderAnatomy": "anatomy",
        "ModelSpec": "loading",
        "PellucidError": "errors",
        "Site": "tracing",
        "Sweep": "sweeps",
        "capture": "tracing",
        "decoder_anatomy": "anatomy",
        "load": "loading",
        "patch": "tracing",
    },
)
