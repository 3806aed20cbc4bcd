"""What each head and MLP of any vision transformer adds to its representation, and what that means in words."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "Alignment": "compalign",
    "Clip": "clip",
    "Component": "components",
    "Contributions": "store",
    "Decomposition": "decompose",
    "Feature": "features",
    "Mapped": "mapped",
    "Pictures": "pictures",
    "VisionModel": "encoders",
    "ablate_layers": "ablation",
    "align": "compalign",
    "by_picture": "retrieval",
    "by_text": "retrieval",
    "component_scores": "scoring",
    "components_of": "decompose",
    "contributions": "store",
    "default_layers": "representations",
    "embeddings": "represented",
    "heat_maps": "heatmaps",
    "load_clip": "clip",
    "load_vision": "encoders",
    "mean_ablated": "debiasing",
    "read_alignment": "compalign",
    "read_features": "features",
    "read_pictures": "pictures",
    "rep_decompose": "decompose",
    "representation_of": "representations",
    "retrieval_scores": "scoring",
    "score_gaps": "scoring",
    "text_span": "textspan",
    "through": "mapped",
    "top_components": "retrieval",
    "unpack_segmentation": "layouts",
    "variance_shares": "shares",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
