"""The report of component scores: algorithm 5, tables 7.2 and 11.4, and the truth where pictures are annotated."""

from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.statistics import bootstrap_mean, spearman

from .features import Feature, read_features
from .figures import scores_figure
from .mapped import Mapped
from .options import Source
from .retrieval import by_picture, by_text, picture_precision, text_precision, top_components
from .scoring import component_scores, correlations, retrieval_scores
from .separation import macro_auroc, macro_aurocs, separations
from .stages import Stage, clip_embeddings, stage

TOP = 5  # components that retrieve together


def score_report(
    source: Source, out: Path, seed: int, *, alignment: Path | None, features: Path | None = None
) -> Report:
    """Score components on every second picture; compare on the others."""
    ground = stage(source, alignment, out)
    read = read_features(features, ground.clip)
    chosen, second = ground.halves()
    scores = component_scores(chosen, read)
    components = ground.mapped.found.components
    own = np.array([place for place, one in enumerate(components) if one.layer >= 0])
    whole = clip_embeddings(source, ground.clip, ground.pictures, out)
    other = Mapped(ground.mapped.found.some(second), ground.mapped.maps)
    proxy = retrieval_scores(other, whole[second], read)
    ordered = [spearman(scores[own, column], proxy[own, column], seed) for column in range(len(read))]
    by_feature = bootstrap_mean([one.value for one in ordered], seed)
    ranked = bootstrap_mean([_rank(scores[place], proxy[place]) for place in own], seed)
    names = [components[place].name for place in own]
    truths = [_truth(ground, other, scores, own, column, one, second, seed) for column, one in enumerate(read)]
    told = [row for row in truths if row is not None]
    summary = (
        f"The scores order {len(own)} components of {source.model} much as retrieval by the CLIP does: rank "
        f"correlation {by_feature.value:.2f} over components, {ranked.value:.2f} over features."
    )
    rows: list[list[Any]] = [[name, *map(float, scores[place])] for name, place in zip(names, own, strict=True)]
    tables = [
        Table(
            "scores", ["component", *(one.name for one in read)], rows, "Algorithm 5; the first half of the pictures."
        ),
        Table(
            "orderings",
            ["feature", "rank correlation"],
            [[one.name, str(value)] for one, value in zip(read, ordered, strict=True)],
            "Spearman's correlation of scores with retrieval by the CLIP, over components (thesis table 11.4).",
        ),
    ]
    if told:
        tables.append(
            Table(
                "truth",
                ["feature", "top component", "AUROC", "median component", "above", "precision@10 by text",
                 "precision@10 by picture", "whole representation"],
                [[row["feature"], row["top"], str(row["auroc"]), row["median"], row["above"], str(row["by_text"]),
                  str(row["by_picture"]), str(row["whole"])] for row in told],
                f"By annotations, on the second half of the pictures; retrieval by {TOP} components.",
            )
        )  # fmt: skip
    figure = Figure(
        "scores",
        scores_figure(names, [one.name for one in read], scores[own], f"{source.model}: components by features"),
        "Score of each component for each feature; the 60 of the highest, grouped by their first feature.",
        f"A map of scores from {scores[own].min():.2f} to {scores[own].max():.2f}.",
    )
    return Report(
        title=f"Which components of {source.model} carry which feature",
        command="vit score",
        config={"model": source.model, "alignment": str(alignment), "pictures": len(ground.pictures)},
        seed=seed,
        device=source.placed(),
        summary=summary,
        sections=[Section("Scores", [summary], [figure], tables)],
        results={
            "component_ordering": by_feature,
            "feature_ordering": ranked,
            "features": {one.name: value for one, value in zip(read, ordered, strict=True)},
            "scores": [dict(zip(tables[0].columns, row, strict=True)) for row in rows],
            "truth": told,
        },
    )


def _rank(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import rankdata

    return float(correlations(rankdata(first)[:, None], rankdata(second)[:, None])[0])


def _truth(
    ground: Stage,
    other: Mapped,
    scores: np.ndarray,
    own: np.ndarray,
    column: int,
    feature: Feature,
    places: np.ndarray,
    seed: int,
) -> dict[str, Any] | None:
    """What annotations say of a feature; None where the pictures have none of its name."""
    if feature.name not in ground.pictures.labels:
        return None
    labels = ground.pictures.some(places).labels[feature.name]
    projections, shown = separations(other, feature, labels)
    areas = macro_aurocs(projections[own], shown)
    top = own[int(np.argmax(scores[own, column]))]
    middle = own[int(np.argsort(areas, kind="stable")[len(areas) // 2])]
    best, median = macro_auroc(projections[top], shown, seed), macro_auroc(projections[middle], shown, seed)
    several = top_components(other, scores, column, min(TOP, len(own)))
    apart = top_components(other, scores, column, min(TOP, len(own)), gap=True) if scores.shape[1] > 1 else several
    right = np.array([[label == value for label in labels] for value in feature.values])
    used = right.any(1)
    similar = np.stack([by_text(other, several, direction) for direction in feature.directions[used]])
    told = np.array(labels)
    everything = np.arange(len(other.found.components))
    return {
        "feature": feature.name,
        "top": other.found.components[top].name,
        "auroc": best,
        "median": str(median),
        "above": bool(best.low > median.value),
        "rank_correlation": spearman(scores[own, column], areas, seed),
        "by_text": text_precision(similar, right[used], seed),
        "by_picture": picture_precision(by_picture(other, apart), told, seed),
        "whole": picture_precision(by_picture(other, everything), told, seed),
    }
