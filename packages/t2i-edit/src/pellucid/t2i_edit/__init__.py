"""Find where a text-to-image model keeps a concept, and take it out or change it there."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "Conditioning": "pellucid.core.conditioning",
    "encode": "pellucid.core.conditioning",
    "load_scorer": "pellucid.core.scorers",
    "ConceptPrompts": "concepts",
    "Probe": "probes",
    "Window": "locogen",
    "concept_ablation": "baselines",
    "concept_erase": "baselines",
    "concept_prompts": "concepts",
    "diff_quickfix": "quickfix",
    "dropped": "neurons",
    "edit_all_layers": "locoedit",
    "encoder_positions": "positions",
    "generate": "pellucid.core.generation",
    "locogen_images": "locogen",
    "locogen_search": "locogen",
    "neuron_scores": "neurons",
    "nominal_probes": "probes",
    "read_concepts": "concepts",
    "read_probes": "probes",
    "top_neurons": "neurons",
    "trace_text": "text_tracing",
    "trace_unet": "unet_tracing",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
