"""Tinyworld: a drawn world in which every picture has exact captions and attributes."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "COLOURS": "vocabulary",
    "HOLDERS": "people",
    "OBJECTS": "vocabulary",
    "PEOPLE": "people",
    "PLACES": "vocabulary",
    "RELATIONS": "vocabulary",
    "Role": "people",
    "STYLES": "vocabulary",
    "Scene": "scene",
    "TEXTURES": "vocabulary",
    "Thing": "scene",
    "VIEWS": "vocabulary",
    "WorldFact": "facts",
    "caption": "captioning",
    "caption_words": "captioning",
    "captions": "captioning",
    "contact_sheet": "sheets",
    "fact_words": "captioning",
    "parse": "captioning",
    "render": "renderer",
    "render_all": "renderer",
    "sample": "sampling",
    "save_sheet": "sheets",
    "settled": "scene",
    "split_of": "sampling",
    "world_facts": "facts",
}


__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
