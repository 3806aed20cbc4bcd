"""Reports of CompAlign and of TextSpan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError, ModelError
from pellucid.core.report import Report, Section, Table
from pellucid.core.statistics import bootstrap_mean

from .clip import Clip, load_clip
from .compalign import METHODS, Alignment, align, cosine_distances, departure
from .encoders import VisionModel, load_vision
from .features import read_features
from .mapped import through
from .options import Source
from .representations import default_layers
from .stages import clip_embeddings, stage
from .store import Contributions, contributions
from .textspan import Described, match_rate, text_span

FILE = "alignment.safetensors"
HELD = 5  # one picture in so many is kept from training, to measure on
DESCRIBED = 10  # texts for each component, as in table 7.1; a quarter of the classes where these are few


def align_report(
    source: Source,
    out: Path,
    seed: int,
    *,
    clip: str,
    last_layers: int | None = None,
    penalty: float = 1e-3,
    steps: int = 1500,
    rate: float = 1e-3,
    ablations: bool = False,
    template: str = "a photo of a {}",
) -> Report:
    """Train the maps on four pictures in five, measure the cosine distance on the fifth, and write the maps.

    With `ablations`, table 7.1: one map for all and maps without the regulariser beside it, with the share of
    TextSpan's descriptions that agree with those by the model's own classifier, where it names its classes.
    """
    device, pictures = source.placed(), source.pictures()
    model, towards = load_vision(source.model, device), load_clip(clip, device)
    last = default_layers(model.model) if last_layers is None else last_layers or None
    found = contributions(model, pictures, source.ledger(out, "parts"), last_layers=last, **source.running())
    goal = clip_embeddings(source, towards, pictures, out)
    held = np.arange(len(pictures)) % HELD == HELD - 1
    if not held.any():
        raise DataError(f"{len(pictures)} pictures are too few: give {HELD} or more, a thousand to be of use")
    train, test = found.some(np.flatnonzero(~held)), found.some(np.flatnonzero(held))
    rows: list[list[Any]] = []
    numbers: dict[str, Any] = {}
    kept: Alignment | None = None
    truth = _by_classifier(model, test) if ablations else None
    for method in METHODS if ablations else METHODS[:1]:
        maps = align(
            train, goal[~held], clip=clip, clip_model=towards.vision.revision, method=method, penalty=penalty,
            steps=steps, rate=rate, last_layers=last, seed=seed,
        )  # fmt: skip
        distance = bootstrap_mean(cosine_distances(test, maps, goal[held]), seed)
        away = float(departure(maps.maps).mean())
        match = None if truth is None else bootstrap_mean(_matches(test, maps, towards, model, template, truth), seed)
        rows.append([method, distance.value, str(distance), away, None if match is None else str(match)])
        numbers[method] = {"cosine_distance": distance, "departure": away, "match_rate": match}
        kept = kept or maps
    assert kept is not None
    kept.save(out / FILE)
    best = numbers["compalign"]["cosine_distance"]
    summary = (
        f"{len(kept.components)} components of {source.model} are mapped into {clip}'s space; the cosine distance to "
        f"its representations of {int(held.sum())} pictures that were not learnt from is {best}."
    )
    table = Table(
        "alignment",
        ["method", "distance", "with interval", "departure from orthogonal", "match rate"],
        rows,
        "Cosine distance on held-out pictures; compalign is the one that is kept (thesis table 7.1).",
    )
    return Report(
        title=f"{source.model} in the words of {clip}",
        command="vit align",
        config={"model": source.model, "clip": clip, "pictures": len(pictures), "last_layers": last,
                "penalty": penalty, "steps": steps, "rate": rate},
        seed=seed,
        device=device,
        summary=summary,
        sections=[Section("Alignment", [summary, f"The maps are in {FILE}."], [], [table])],
        results=numbers | {"alignment": FILE, "components": list(kept.components)},
    )  # fmt: skip


def describe_report(
    source: Source,
    out: Path,
    seed: int,
    *,
    alignment: Path | None,
    texts: Path | None = None,
    features: Path | None = None,
    count: int = 10,
) -> Report:
    """Name each component's texts by TextSpan."""
    ground = stage(source, alignment, out)
    said, directions = _texts(texts, features, ground.clip)
    rows: list[list[Any]] = []
    results: list[dict[str, Any]] = []
    for place, one in enumerate(ground.mapped.found.components):
        if one.layer < 0:
            continue
        found = text_span(ground.mapped.part(place), directions, said, count)
        share = found[-1].explained if found else 0.0
        rows.append([one.name, share, "; ".join(each.text for each in found)])
        results.append({"component": one.name, "explained": share, "texts": [each.text for each in found]})
    best = max(results, key=lambda one: one["explained"])
    summary = (
        f"{count} of {len(said)} texts explain most of {best['component']} of {source.model}: {best['explained']:.0%} "
        f"of its variance, first by «{best['texts'][0] if best['texts'] else ''}»."
    )
    table = Table("texts", ["component", "explained", "texts"], rows, "The most telling text first.")
    return Report(
        title=f"What the components of {source.model} say",
        command="vit describe",
        config={"model": source.model, "alignment": str(alignment), "pictures": len(ground.pictures), "count": count},
        seed=seed,
        device=source.placed(),
        summary=summary,
        sections=[Section("Descriptions", [summary], [], [table])],
        results={"components": results},
    )


def _texts(path: Path | None, features: Path | None, clip: Clip) -> tuple[list[str], np.ndarray]:
    if path is None:
        read = read_features(features, clip)
        return [value for one in read for value in one.values], np.concatenate([one.directions for one in read])
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}): give a text a line") from error
    return lines, clip.texts(lines)


def _by_classifier(model: VisionModel, found: Contributions) -> list[list[Described]]:
    """The descriptions by the classifier's own class vectors: table 7.1's "ground truth"."""
    head: Any = model.model
    layer = head.get_classifier() if hasattr(head, "get_classifier") else None
    if layer is None or not model.classes or getattr(layer, "weight", None) is None:
        raise ModelError(
            f"{model.name} has no classifier that names its classes, which --ablations needs: leave it out"
        )
    vectors = layer.weight.detach().double().cpu().numpy()
    if vectors.shape[1] != found.parts.shape[2]:
        raise ModelError(f"{model.name} has a hidden layer before its classifier: --ablations cannot compare with it")
    return [text_span(found.parts[place], vectors, model.classes, _count(model)) for place in _layered(found)]


def _matches(
    found: Contributions,
    maps: Alignment,
    clip: Clip,
    model: VisionModel,
    template: str,
    truth: Sequence[Sequence[Described]],
) -> np.ndarray:
    mapped = through(found, maps)
    directions = clip.texts([template.format(name) for name in model.classes])
    mine = [text_span(mapped.part(place), directions, model.classes, _count(model)) for place in _layered(found)]
    return match_rate(mine, truth)


def _layered(found: Contributions) -> list[int]:
    return [place for place, one in enumerate(found.components) if one.layer >= 0]


def _count(model: VisionModel) -> int:
    return max(1, min(DESCRIBED, len(model.classes) // 4))
