"""What each head and MLP of any vision transformer adds to its representation, and what that means in words."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "Component": "components",
    "Contributions": "store",
    "Decomposition": "decompose",
    "Pictures": "pictures",
    "VisionModel": "encoders",
    "ablate_layers": "ablation",
    "components_of": "decompose",
    "contributions": "store",
    "default_layers": "representations",
    "load_vision": "encoders",
    "read_pictures": "pictures",
    "rep_decompose": "decompose",
    "representation_of": "representations",
    "variance_shares": "shares",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
