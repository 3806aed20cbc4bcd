"""Find the components by which a language model answers a question from its context (thesis chapter 8)."""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from .ablation import ablating as ablating
    from .attribution import attribute as attribute
    from .attribution import attribute_batch as attribute_batch
    from .attribution import attribute_response as attribute_response
    from .attribution import stream_attributions as stream_attributions
    from .compare import overlaps as overlaps
    from .components import Component as Component
    from .components import all_components as all_components
    from .effects import patched_scores as patched_scores
    from .extract import Extraction as Extraction
    from .extract import extract_circuit as extract_circuit
    from .facts import copy_probes as copy_probes
    from .facts import read_facts as read_facts
    from .heads import choose_head as choose_head
    from .heads import head_statistics as head_statistics
    from .hierarchy import hierarchy_scores as hierarchy_scores
    from .probes import Probe as Probe
    from .probes import read_probes as read_probes
    from .probes import write_probes as write_probes
    from .prompts import encode as encode
    from .registry import published_circuit as published_circuit

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Component": "components",
        "Extraction": "extract",
        "Probe": "probes",
        "ablating": "ablation",
        "all_components": "components",
        "attribute": "attribution",
        "attribute_batch": "attribution",
        "attribute_response": "attribution",
        "choose_head": "heads",
        "copy_probes": "facts",
        "encode": "prompts",
        "extract_circuit": "extract",
        "head_statistics": "heads",
        "hierarchy_scores": "hierarchy",
        "overlaps": "compare",
        "patched_scores": "effects",
        "published_circuit": "registry",
        "read_facts": "facts",
        "read_probes": "probes",
        "stream_attributions": "attribution",
        "write_probes": "probes",
    },
)
