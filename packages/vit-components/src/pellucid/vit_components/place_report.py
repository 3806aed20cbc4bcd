"""Reports on where: heat maps of heads on pictures, and zero-shot segmentation by them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError, OptionError
from pellucid.core.pictures import open_picture
from pellucid.core.progress import progress
from pellucid.core.report import Figure, Report, Section, Table

from .features import Feature, named, read_features
from .heatmaps import heat_maps
from .options import Source
from .retrieval import top_components
from .scoring import component_scores
from .segmentation import measure
from .sheets import heat_sheet
from .stages import Stage, stage

SHOWN = 6


def heatmap_report(
    source: Source,
    out: Path,
    seed: int,
    *,
    alignment: Path | None,
    features: Path | None = None,
    feature: str,
    text: str,
    pictures: Sequence[Path],
    top: int = 3,
) -> Report:
    """Draw, for the heads that score highest for a feature, what each place of a picture adds to a text."""
    ground = stage(source, alignment, out)
    read = read_features(features, ground.clip)
    wanted = named(read, feature)
    heads = _heads(ground, read, wanted, top)
    direction = _direction(ground, wanted, text)
    seen = [open_picture(path) for path in pictures]
    maps = _maps(ground, heads, ground.model.prepare(seen).to(source.placed()), direction)
    names = [ground.mapped.found.components[place].name for place in heads]
    peaks = [
        [path.name, name, float(one.max()), float(one.min())]
        for column, name in enumerate(names)
        for path, one in zip(pictures, maps[column], strict=True)
    ]
    summary = f"Where {len(names)} heads of {feature} find “{text}” in {len(seen)} pictures; {names[0]} scores highest."
    columns = ["picture", "head", "highest", "lowest"]
    return Report(
        title=f"Where {source.model} finds “{text}”",
        command="vit heatmap",
        config={"model": source.model, "alignment": str(alignment), "feature": feature, "text": text, "top": top},
        seed=seed,
        device=source.placed(),
        summary=summary,
        sections=[
            Section(
                "Heat maps",
                [summary],
                [
                    Figure(
                        "heatmaps",
                        heat_sheet(seen, maps, names, f"“{text}”"),
                        "Each token's contribution along the text: red adds to it, blue works against it.",
                        summary,
                    )
                ],
                [Table("heatmaps", columns, peaks, "The range of each map.")],
            )
        ],
        results={"heads": names, "maps": [dict(zip(columns, row, strict=True)) for row in peaks]},
    )


def segment_report(
    source: Source,
    out: Path,
    seed: int,
    *,
    alignment: Path | None,
    features: Path | None = None,
    feature: str,
    masks: Path,
    top: int = 5,
) -> Report:
    """Mark what each picture's annotation names, by the heads of its feature, and compare with its mask."""
    ground = stage(source, alignment, out)
    read = read_features(features, ground.clip)
    wanted = named(read, feature)
    labels = ground.pictures.labels.get(feature)
    if labels is None:
        raise OptionError(f"the pictures have no annotation {feature!r}: they have {', '.join(ground.pictures.labels)}")
    kept = [place for place, label in enumerate(labels) if label in wanted.values]
    if not kept:
        raise DataError(f"no picture's {feature} is one of {', '.join(wanted.values)}: check the names")
    heads = _heads(ground, read, wanted, top)
    truth = [_mask(masks, ground.pictures.ids[place]) for place in kept]
    drawn: list[tuple[int, np.ndarray]] = []
    with progress("Drawing heat maps", len(kept)) as advance:
        for start in range(0, len(kept), source.batch):
            some = kept[start : start + source.batch]
            images = ground.model.prepare([open_picture(ground.pictures.paths[place]) for place in some])
            images = images.to(source.placed())
            for value in dict.fromkeys(labels[place] for place in some):
                rows = [row for row, place in enumerate(some) if labels[place] == value]
                maps = _maps(ground, heads, images[rows], _direction(ground, wanted, value)).sum(0)
                drawn += [(start + row, one) for row, one in zip(rows, maps, strict=True)]
            advance(len(some))
    ordered = [one for _, one in sorted(drawn, key=lambda pair: pair[0])]
    fitted = [_fitted(mask, one.shape) for mask, one in zip(truth, ordered, strict=True)]
    found = measure(np.stack(ordered), np.stack(fitted), seed)
    summary = (
        f"{len(heads)} heads of {feature} mark what {len(kept)} pictures show: pixel accuracy {found.pixel_accuracy}, "
        f"mean IoU {found.mean_iou}, mean average precision {found.mean_precision}."
    )
    first = list(range(min(SHOWN, len(kept))))
    sheet = heat_sheet(
        [open_picture(ground.pictures.paths[kept[row]]) for row in first],
        np.stack([np.stack([ordered[row] for row in first]), np.stack([2.0 * fitted[row] - 1 for row in first])]),
        ["by heads", "the mask"],
        f"{source.model}: what shows the {feature}",
    )
    lines: list[list[Any]] = [
        ["pixel accuracy", str(found.pixel_accuracy)],
        ["mean IoU", str(found.mean_iou)],
        ["mean average precision", str(found.mean_precision)],
    ]
    return Report(
        title=f"What {source.model} sees, cut out",
        command="vit segment",
        config={
            "model": source.model,
            "alignment": str(alignment),
            "feature": feature,
            "top": top,
            "pictures": len(kept),
        },
        seed=seed,
        device=source.placed(),
        summary=summary,
        sections=[
            Section(
                "Segmentation",
                [summary],
                [Figure("segmented", sheet, "Heads' heat maps beside the masks; the first pictures.", summary)],
                [Table("segmentation", ["measure", "mean over pictures"], lines, "As for ImageNet-Segmentation.")],
            )
        ],
        results={"segmentation": found, "heads": [ground.mapped.found.components[place].name for place in heads]},
    )


def _heads(ground: Stage, read: tuple[Feature, ...], feature: Feature, top: int) -> list[int]:
    """The heads of the highest score, best first."""
    scores = component_scores(ground.mapped, read)
    components = ground.mapped.found.components
    order = top_components(ground.mapped, scores, read.index(feature), sum(one.layer >= 0 for one in components))
    heads = [int(place) for place in order if components[place].kind == "head"]
    if not heads:
        raise OptionError("the layers taken apart have no attention heads: align with more --last-layers")
    return heads[:top]


def _direction(ground: Stage, feature: Feature, text: str) -> np.ndarray:
    """A text's direction, less what all of the feature's texts share."""
    own = feature.directions[feature.values.index(text)] if text in feature.values else ground.clip.texts([text])[0]
    found = own - feature.directions.mean(0)
    return np.asarray(found / np.linalg.norm(found))


def _maps(ground: Stage, heads: list[int], images: Any, direction: np.ndarray) -> np.ndarray:
    maps = ground.mapped.maps
    names = [ground.mapped.found.components[place].name for place in heads]
    own = [None if maps is None else maps[place] for place in heads]
    return heat_maps(ground.model.model, images, names, own, direction, ground.last_layers)


def _mask(folder: Path, picture: str) -> np.ndarray:
    path = (folder / picture).with_suffix(".png")
    if not path.is_file():
        path = folder / Path(picture).with_suffix(".png").name
    if not path.is_file():
        raise DataError(f"{folder} has no mask {Path(picture).with_suffix('.png')}: give one for each picture")
    return np.asarray(open_picture(path).convert("L")) > 0


def _fitted(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask at the size of the model's picture (nearest pixel)."""
    from PIL import Image

    whole = Image.fromarray(mask.astype(np.uint8) * 255).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(whole) > 0
