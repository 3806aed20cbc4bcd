"""The report of retrieval: by a text through components in the order of their scores, or by a picture."""

from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import OptionError
from pellucid.core.pictures import open_picture
from pellucid.core.report import Figure, Report, Section, Table

from .features import Feature, named, read_features
from .mapped import Mapped
from .options import Source
from .pictures import Pictures
from .retrieval import by_picture, by_text, top_components
from .scoring import component_scores
from .sheets import retrieval_sheet
from .stages import Stage, stage
from .store import contributions

NEAREST = 6  # pictures a row
TRIPLE = 3  # components that answer together (figure 7.3)


def retrieve_report(
    source: Source,
    out: Path,
    seed: int,
    *,
    alignment: Path | None,
    features: Path | None = None,
    feature: str | None = None,
    text: str | None = None,
    like: Path | None = None,
    top: int = 5,
) -> Report:
    """Find pictures by `text` through the components of `feature` (7.4.1), or like a picture in each feature (7.4.2).

    Raises:
        OptionError: neither or both of `text` and `like`, or a text without its feature.
    """
    if (text is None) == (like is None):
        raise OptionError("give --text with --feature, or --like with a picture")
    if text is not None and feature is None:
        raise OptionError("--text needs --feature: whose components are to answer")
    ground = stage(source, alignment, out)
    read = read_features(features, ground.clip)
    scores = component_scores(ground.mapped, read)
    if text is not None:
        assert feature is not None
        rows, summary = _by_text(ground, read, scores, named(read, feature), text, top)
        title, headings = f"“{text}” by components of {feature}", _ranks()
    else:
        assert like is not None
        wanted = read if feature is None else (named(read, feature),)
        rows, summary = _by_picture(source, ground, read, scores, wanted, like, out, top)
        title, headings = f"Like {like.name}, in one feature at a time", ["reference", *_ranks()[:-1]]
    drawn = [(name, [open_picture(path) for path in paths]) for name, paths, _ in rows]
    lines: list[list[Any]] = [
        [name.replace("\n", " "), place, said] for name, _, found in rows for place, said in found
    ]
    figure = Figure(
        "retrieved", retrieval_sheet(drawn, headings, title), "Nearest first.",
        f"{len(rows)} rows of pictures that were found.",
    )  # fmt: skip
    table = Table("retrieved", ["by", "picture", "similarity"], lines, "What was found, nearest first.")
    return Report(
        title=title,
        command="vit retrieve",
        config={"model": source.model, "alignment": str(alignment), "feature": feature, "text": text,
                "like": None if like is None else str(like), "top": top, "pictures": len(ground.pictures)},
        seed=seed,
        device=source.placed(),
        summary=summary,
        sections=[Section("Found", [summary], [figure], [table])],
        results={"retrieved": [dict(zip(("by", "picture", "similarity"), line, strict=True)) for line in lines]},
    )  # fmt: skip


_Rows = list[tuple[str, list[Path], list[tuple[str, float]]]]


def _by_text(
    ground: Stage, read: tuple[Feature, ...], scores: np.ndarray, feature: Feature, text: str, top: int
) -> tuple[_Rows, str]:
    column = read.index(feature)
    if text in feature.values:
        direction = feature.directions[feature.values.index(text)]
    else:
        direction = ground.clip.texts([text])[0]
    layered = sum(one.layer >= 0 for one in ground.mapped.found.components)
    order = top_components(ground.mapped, scores, column, layered)
    groups = [(f"top {top}", order[:top])]
    thirds = [order[start : start + TRIPLE] for start in range(0, len(order) - TRIPLE + 1, TRIPLE)]
    for turn in sorted({0, 1, 2, len(thirds) // 2, len(thirds) - 1}):
        groups.append((f"{turn * TRIPLE + 1}. to {turn * TRIPLE + TRIPLE}.", thirds[turn]))
    rows: _Rows = []
    for name, components in groups:
        rows.append(_nearest(ground.pictures, name, by_text(ground.mapped, components, direction)))
    first = ground.mapped.found.components[order[0]].name
    return rows, f"The components of {feature.name} find “{text}”; {first} scores highest."


def _by_picture(
    source: Source,
    ground: Stage,
    read: tuple[Feature, ...],
    scores: np.ndarray,
    wanted: tuple[Feature, ...],
    like: Path,
    out: Path,
    top: int,
) -> tuple[_Rows, str]:
    one = Pictures((like,), (like.name,))
    found = contributions(
        ground.model, one, source.ledger(out, "parts"), last_layers=ground.last_layers, **source.running()
    )
    joined = np.concatenate([found.parts, ground.mapped.found.parts], 1)
    whole = np.concatenate([found.representation, ground.mapped.found.representation])
    both = type(found)(found.components, joined, whole, ground.pictures, found.revision)
    mapped = Mapped(both, ground.mapped.maps)
    rows: _Rows = []
    for feature in wanted:
        components = top_components(mapped, scores, read.index(feature), top, gap=True)
        similarity = by_picture(mapped, components)[0, 1:]
        similarity[[path.resolve() == like.resolve() for path in ground.pictures.paths]] = -np.inf
        name, paths, told = _nearest(ground.pictures, feature.name, similarity, NEAREST - 1)
        rows.append((name, [like, *paths], told))
    return (
        rows,
        f"Pictures like {like.name} in {', '.join(feature.name for feature in wanted)}, by {top} components each.",
    )


def _nearest(
    pictures: Pictures, name: str, similarity: np.ndarray, count: int = NEAREST
) -> tuple[str, list[Path], list[tuple[str, float]]]:
    best = np.argsort(-similarity, kind="stable")[:count]
    return (
        name,
        [pictures.paths[place] for place in best],
        [(pictures.ids[place], float(similarity[place])) for place in best],
    )


def _ranks() -> list[str]:
    return [f"{place}." for place in range(1, NEAREST + 1)]
