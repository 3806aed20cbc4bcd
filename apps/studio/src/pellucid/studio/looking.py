"""What the heads of a vision transformer say of one picture, and which pictures they find alike (thesis chapter 7)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pellucid.core.errors import DataError

from .limits import picture as open_checked

if TYPE_CHECKING:
    from pellucid.vit_components.clip import Clip
    from pellucid.vit_components.compalign import Alignment
    from pellucid.vit_components.encoders import VisionModel
    from pellucid.vit_components.features import Feature
    from pellucid.vit_components.mapped import Mapped
    from PIL.Image import Image

LEARNT, SEEN, STEPS = 400, 200, 300  # pictures to align on and to search in; steps of the alignment
TOP, ALIKE, SHOWN = 5, 8, 10  # components that search; pictures found; components listed
SIZE = 320  # pixels of a side of the heat map

Say = Callable[[float, str], object]


@dataclass(frozen=True)
class Carried:
    """A component's share in what the model says of a picture in a feature.

    Attributes:
        component: its name.
        score: how well it stands for the feature over many pictures (algorithm 5), from -1 to 1.
        says: the text of the feature that it says most, beyond what it says of any picture.
        amount: by how much: its part's product with that text's direction.
    """

    component: str
    score: float
    says: str
    amount: float


@dataclass(frozen=True, eq=False)
class Looked:
    """What was found about a picture; similarities are cosines."""

    heat: "Image"
    head: str
    carried: tuple[Carried, ...]
    alike: tuple[tuple[Path, float], ...]
    found: tuple[tuple[Path, float], ...]


@dataclass(frozen=True, eq=False)
class _Ground:
    """The model taken apart over the pictures that are searched."""

    model: "VisionModel"
    clip: "Clip"
    mapped: "Mapped"
    features: "tuple[Feature, ...]"
    scores: np.ndarray
    last_layers: int | None


class Looking:
    """Looks into a vision model; pictures are drawn at once, the rest is done when it is first needed, and kept.

    Args:
        model: as `load_vision` takes it.
        clip: whose words describe it; the model itself where that is a CLIP.
        keep: a folder for pictures, contributions and the alignment.
        device: such as "cpu" or "cuda".
        learnt: pictures to align on.
        seen: pictures to search in.
        steps: of the alignment.
    """

    def __init__(
        self, model: str, clip: str, keep: Path, device: str, learnt: int = LEARNT, seen: int = SEEN, steps: int = STEPS
    ) -> None:
        self.model, self._clip, self._keep, self._device = model, clip, keep, device
        self._learnt, self._seen, self._steps = learnt, seen, steps
        self._ground: _Ground | None = None

    @cached_property
    def _folder(self) -> Path:
        """The drawn pictures, half of them to search in."""
        from pellucid.zoo.world_datasets import write_dataset

        folder = self._keep / f"views-{self._learnt}-{self._seen}"
        if not (folder / "annotations.parquet").is_file():
            write_dataset("views", folder, {"train": self._learnt, "validation": 0, "test": self._seen}, seed=0)
        return folder

    def features(self) -> dict[str, list[str]]:
        """Each feature's texts."""
        return {name: list(texts) for name, texts in json.loads((self._folder / "features.json").read_text()).items()}

    def pictures(self) -> list[Path]:
        """The pictures that are searched."""
        from pellucid.vit_components.pictures import read_pictures

        return list(read_pictures(self._folder, "test").paths)

    def look(self, path: str | Path | None, feature: str, text: str, say: Say = lambda share, what: None) -> Looked:
        """Find what the model's components say of a picture in a feature, and where it shows a text.

        Args:
            path: the picture.
            feature: one of `features()`.
            text: one of its texts, or any other.
            say: is told how far it is, as a share, and what is done.

        Raises:
            DataError: the picture cannot be read, there is no such feature, or the text is empty.
        """
        from pellucid.vit_components.features import named

        image = open_checked(path)
        if feature not in self.features():
            raise DataError(f"there is no feature {feature!r}: choose among {', '.join(self.features())}")
        ground = self._prepared(say)
        wanted = named(ground.features, feature)
        column = ground.features.index(wanted)
        say(0.9, "Looking")
        parts = self._parts(ground, image)
        head, heat = self._heat(ground, image, wanted, column, text)
        return Looked(
            heat, head, self._carried(ground, parts, wanted, column), self._alike(ground, parts, column),
            self._found(ground, wanted, column, text),
        )  # fmt: skip

    def _prepared(self, say: Say) -> _Ground:
        """Take the model apart over all pictures, and align it, once."""
        if self._ground is not None:
            return self._ground
        from pellucid.vit_components.clip import as_clip, load_clip
        from pellucid.vit_components.encoders import load_vision
        from pellucid.vit_components.features import read_features
        from pellucid.vit_components.mapped import through
        from pellucid.vit_components.pictures import read_pictures
        from pellucid.vit_components.representations import default_layers
        from pellucid.vit_components.scoring import component_scores
        from pellucid.vit_components.store import contributions

        say(0.05, "Loading the models")
        model = load_vision(self.model, self._device)
        own = as_clip(model)
        clip = load_clip(self.model if own else self._clip, self._device)
        # Tinyworld's models are small enough to take apart whole.
        last = None if self.model.startswith("zoo:") else default_layers(model.model)
        say(0.15, "Taking the model apart over the pictures (once)")
        store = self._keep / "store"
        seen = contributions(
            model, read_pictures(self._folder, "test"), store, last_layers=last, device=self._device
        )  # fmt: skip
        maps = None if own else self._aligned(model, clip, last, say)
        mapped = through(seen, maps)
        features = read_features(self._folder / "features.json", clip)
        self._ground = _Ground(model, clip, mapped, features, component_scores(mapped, features), last)
        return self._ground

    def _aligned(self, model: "VisionModel", clip: "Clip", last: int | None, say: Say) -> "Alignment":
        from pellucid.core.sweeps import digest
        from pellucid.vit_components.compalign import align, read_alignment
        from pellucid.vit_components.pictures import read_pictures
        from pellucid.vit_components.represented import embeddings
        from pellucid.vit_components.store import contributions

        made_of = digest([model.revision, clip.vision.revision, last, self._learnt, self._steps])[:12]
        file = self._keep / f"alignment-{made_of}.safetensors"
        if file.is_file():
            return read_alignment(file)
        pictures = read_pictures(self._folder, "train")
        say(0.4, "Taking the model apart over the pictures it is aligned on (once)")
        parts = contributions(
            model, pictures, self._keep / "store", last_layers=last, device=self._device
        )  # fmt: skip
        goal = embeddings(clip.vision, pictures, self._keep / "whole", device=self._device)
        say(0.7, "Aligning each component with the words of the CLIP (once)")
        found = align(
            parts, goal, clip=self._clip, clip_model=clip.vision.revision, steps=self._steps, last_layers=last
        )  # fmt: skip
        found.save(file)
        return found

    def _parts(self, ground: _Ground, image: "Image") -> np.ndarray:
        """The picture's own parts: (components, width)."""
        from pellucid.vit_components.decompose import rep_decompose

        given = ground.model.prepare([image]).to(self._device)
        found = rep_decompose(ground.model.model, given, last_layers=ground.last_layers)
        return np.asarray(found.parts[:, 0].float().cpu().numpy())

    def _carried(
        self, ground: _Ground, parts: np.ndarray, feature: "Feature", column: int
    ) -> tuple[Carried, ...]:  # fmt: skip
        """What the components that stand for the feature say, beyond what they say of any picture."""
        directions = feature.directions - feature.directions.mean(0)
        rows = []
        for place in _top(ground, column, SHOWN):
            usual = ground.mapped.part(place).mean(0)
            own = parts[place].astype(np.float64)
            said = (own if ground.mapped.maps is None else own @ ground.mapped.maps[place]) - usual
            amounts = directions @ said
            best = int(amounts.argmax())
            name = ground.mapped.found.components[place].name
            rows.append(Carried(name, float(ground.scores[place, column]), feature.values[best], float(amounts[best])))
        return tuple(rows)

    def _heat(self, ground: _Ground, image: "Image", feature: "Feature", column: int, text: str) -> "tuple[str, Image]":
        from pellucid.vit_components.heatmaps import heat_maps

        components = ground.mapped.found.components
        every = _top(ground, column, sum(one.layer >= 0 for one in components))
        heads = [place for place in every if components[place].kind == "head"]
        if not heads:
            raise DataError(f"the layers of {self.model} that are taken apart have no attention heads")
        direction = _direction(ground, feature, text) - feature.directions.mean(0)
        own = None if ground.mapped.maps is None else ground.mapped.maps[heads[0]]
        given = ground.model.prepare([image]).to(self._device)
        [[heat]] = heat_maps(
            ground.model.model, given, [components[heads[0]].name], [own], direction, ground.last_layers
        )
        return components[heads[0]].name, _overlaid(image, heat)

    def _alike(self, ground: _Ground, parts: np.ndarray, column: int) -> tuple[tuple[Path, float], ...]:
        """Pictures whose z_p is nearest, in the model's own space (7.4.2)."""
        from pellucid.vit_components.scoring import unit

        chosen = _top(ground, column, TOP, gap=True)
        rows = unit(ground.mapped.found.parts[chosen].astype(np.float64).sum(0))
        return _nearest(ground, rows @ unit(parts[chosen].astype(np.float64).sum(0)))

    def _found(
        self, ground: _Ground, feature: "Feature", column: int, text: str
    ) -> tuple[tuple[Path, float], ...]:  # fmt: skip
        from pellucid.vit_components.retrieval import by_text

        chosen = np.array(_top(ground, column, TOP))
        return _nearest(ground, by_text(ground.mapped, chosen, _direction(ground, feature, text)))


def _top(ground: _Ground, column: int, count: int, gap: bool = False) -> list[int]:
    from pellucid.vit_components.retrieval import top_components

    own = sum(one.layer >= 0 for one in ground.mapped.found.components)
    return [int(place) for place in top_components(ground.mapped, ground.scores, column, min(count, own), gap)]


def _direction(ground: _Ground, feature: "Feature", text: str) -> np.ndarray:
    if text in feature.values:
        return np.asarray(feature.directions[feature.values.index(text)])
    return ground.clip.texts([text])[0]


def _nearest(ground: _Ground, similarity: np.ndarray) -> tuple[tuple[Path, float], ...]:
    best = np.argsort(-similarity, kind="stable")[:ALIKE]
    return tuple((ground.mapped.found.pictures.paths[place], float(similarity[place])) for place in best)


def _overlaid(image: "Image", heat: np.ndarray) -> "Image":
    """A heat map over the grey picture: red adds to the text, blue works against it."""
    from matplotlib import colormaps
    from PIL import Image

    strength = heat / (float(np.abs(heat).max()) or 1.0)
    colours = Image.fromarray((colormaps["RdBu_r"](0.5 + strength / 2)[..., :3] * 255).astype(np.uint8))
    grey = image.convert("L").convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST)
    return Image.blend(grey, colours.resize((SIZE, SIZE), Image.Resampling.BILINEAR), 0.6)
