"""The steps that commands share: from a model, pictures and an alignment to parts in a CLIP's space."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pellucid.core.errors import DataError, OptionError

from .clip import Clip, as_clip, load_clip
from .compalign import read_alignment
from .encoders import VisionModel, load_vision
from .mapped import Mapped, through
from .options import Source
from .pictures import Pictures
from .represented import embeddings
from .store import contributions


@dataclass(frozen=True, eq=False)
class Stage:
    """What an analysis works on.

    Attributes:
        model: that is analysed.
        clip: whose texts describe it.
        pictures: that it sees.
        mapped: its parts in the CLIP's space.
        last_layers: how many layers are taken apart; None for all.
    """

    model: VisionModel
    clip: Clip
    pictures: Pictures
    mapped: Mapped
    last_layers: int | None

    def halves(self) -> tuple[Mapped, np.ndarray]:
        """The parts of every second picture, to choose by; the places of the others, to report on."""
        first, second = np.arange(0, len(self.pictures), 2), np.arange(1, len(self.pictures), 2)
        return Mapped(self.mapped.found.some(first), self.mapped.maps), second


def stage(source: Source, alignment: Path | None, out: Path, pictures: Pictures | None = None) -> Stage:
    """Decompose pictures and map the parts.

    Args:
        source: model and pictures.
        alignment: what `pellucid vit align` wrote; None where the model is a CLIP itself.
        out: the command's folder, for ledgers.
        pictures: in the place of the source's.

    Raises:
        OptionError: no alignment, and the model is no CLIP.
        DataError: the alignment belongs to another model or CLIP.
    """
    pictures = pictures or source.pictures()
    device = source.placed()
    if alignment is None:
        model = load_vision(source.model, device)
        if not as_clip(model):
            raise OptionError(f"{source.model} is no CLIP: give --alignment, as `pellucid vit align` writes it")
        clip, maps, last = load_clip(source.model, device), None, None
    else:
        maps = read_alignment(alignment)
        model, clip, last = load_vision(source.model, device), load_clip(maps.clip, device), maps.last_layers
        if clip.vision.revision != maps.clip_model:
            raise DataError(f"{maps.clip} has other weights than the alignment was made with: make it again")
    found = contributions(model, pictures, source.ledger(out, "parts"), last_layers=last, **source.running())
    return Stage(model, clip, pictures, through(found, maps), last)


def clip_embeddings(source: Source, clip: Clip, pictures: Pictures, out: Path) -> np.ndarray:
    """The CLIP's own representations of the pictures: (pictures, clip width) float32."""
    return embeddings(clip.vision, pictures, source.ledger(out, "whole"), **source.running())
