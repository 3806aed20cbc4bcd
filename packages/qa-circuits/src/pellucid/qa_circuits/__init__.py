"""Find the components by which a language model answers a question from its context (thesis chapter 8)."""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from .components import Component as Component
    from .components import all_components as all_components
    from .effects import patched_scores as patched_scores
    from .extract import Extraction as Extraction
    from .extract import extract_circuit as extract_circuit
    from .facts import copy_probes as copy_probes
    from .facts import read_facts as read_facts
    from .probes import Probe as Probe
    from .probes import read_probes as read_probes
    from .probes import write_probes as write_probes
    from .prompts import encode as encode

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Component": "components",
        "Extraction": "extract",
        "Probe": "probes",
        "all_components": "components",
        "copy_probes": "facts",
        "encode": "prompts",
        "extract_circuit": "extract",
        "patched_scores": "effects",
        "read_facts": "facts",
        "read_probes": "probes",
        "write_probes": "probes",
    },
)
