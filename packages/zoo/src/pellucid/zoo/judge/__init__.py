"""The judge: reads the attributes of a picture of Tinyworld, or says that it is none."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "HEADS": "labels",
    "Judge": "reading",
    "Reading": "reading",
    "ThingReading": "reading",
    "agreement": "agreeing",
    "load_judge": "reading",
    "measure": "measuring",
    "tinyworld_scorer": "scoring",
    "train_judge": "training",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
