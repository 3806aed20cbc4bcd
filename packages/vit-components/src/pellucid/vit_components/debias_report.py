"""The report of debiasing: accuracy group by group before and after (thesis table 7.3)."""

from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import OptionError
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.statistics import Estimate, bootstrap_mean

from .commands import right_classes
from .debiasing import Groups, group_accuracies, hits_of, mean_ablated
from .features import named, read_features
from .figures import groups_figure
from .options import Source
from .retrieval import top_components
from .scoring import component_scores
from .stages import stage

RANDOM = 20  # random sets of as many components, averaged


def debias_report(
    source: Source,
    out: Path,
    seed: int,
    *,
    alignment: Path | None,
    features: Path | None = None,
    remove: str,
    keep: str,
    label: str = "label",
    group: str = "group",
    top: int = 10,
) -> Report:
    """Set the components of `remove` but not of `keep` to their mean over the pictures, and classify.

    No label is read to choose them: only scores for the two features, by their gap (7.4.2). Beside it stand random sets
    of as many components.
    """
    ground = stage(source, alignment, out)
    read = read_features(features, ground.clip)
    pair = (named(read, remove), named(read, keep))
    if remove == keep:
        raise OptionError(f"--remove and --keep are both {remove!r}: give two features")
    for name in (label, group):
        if name not in ground.pictures.labels:
            known = ", ".join(ground.pictures.labels) or "none"
            raise OptionError(f"the pictures have no annotation {name!r}: they have {known}")
    found, model = ground.mapped.found, ground.model.model
    scores = component_scores(ground.mapped, pair)
    components = top_components(ground.mapped, scores, 0, top, gap=True)
    right, groups = right_classes(ground.model, ground.pictures, label), ground.pictures.labels[group]

    def told(chosen: np.ndarray) -> tuple[Groups, np.ndarray]:
        hits = hits_of(model, mean_ablated(found, chosen), right)
        return group_accuracies(hits, groups, seed), hits

    (before, first), (after, then) = told(components[:0]), told(components)
    own = np.array(groups) == before.worst
    gain = bootstrap_mean((then - first)[own], seed)
    layered = np.array([place for place, one in enumerate(found.components) if one.layer >= 0])
    random = np.random.default_rng(seed)
    others = [told(random.choice(layered, len(components), replace=False))[0] for _ in range(RANDOM)]
    chance = {name: bootstrap_mean([one.groups[name].value for one in others], seed) for name in before.groups}
    rows: list[list[Any]] = [
        [name, str(before.groups[name]), str(after.groups[name]), str(chance[name])] for name in before.groups
    ]
    worst = [before.groups[before.worst], after.groups[after.worst], _worst(others, seed)]
    average = [before.average, after.average, bootstrap_mean([one.average.value for one in others], seed)]
    rows += [["worst group", *map(str, worst)], ["average of groups", *map(str, average)]]
    summary = (
        f"With {len(components)} components of {remove} at their mean, the worst group of {source.model} goes from "
        f"{worst[0]} to {worst[1]} right ({before.worst}: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] on the "
        f"same pictures), the average of groups from {average[0].value:.3f} to {average[1].value:.3f} "
        f"(random components: worst {worst[2].value:.3f}, average {average[2].value:.3f})."
    )
    names = list(before.groups)
    figure = Figure(
        "groups",
        groups_figure(
            names,
            [before.groups[name] for name in names],
            [after.groups[name] for name in names],
            [chance[name] for name in names],
            f"{source.model}: {remove} removed",
        ),
        f"Accuracy of each group with 95 % intervals; random components: mean of {RANDOM} sets.",
        summary,
    )
    taken = [found.components[place].name for place in components]
    table = Table("groups", ["group", "as it is", f"{remove} removed", "random components"], rows, "Accuracy.")
    listed = Table(
        "removed",
        ["component", f"score for {remove}", f"score for {keep}"],
        [[name, *map(float, scores[place])] for name, place in zip(taken, components, strict=True)],
        "What was set to its mean.",
    )
    return Report(
        title=f"{source.model} without {remove}",
        command="vit debias",
        config={"model": source.model, "alignment": str(alignment), "remove": remove, "keep": keep, "top": top,
                "label": label, "group": group, "pictures": len(ground.pictures)},
        seed=seed,
        device=source.placed(),
        summary=summary,
        sections=[Section("Groups", [summary], [figure], [table, listed])],
        results={
            "before": before, "after": after, "gain": gain, "removed": taken,
            "worst": dict(zip(("before", "after", "random"), worst, strict=True)),
            "average": dict(zip(("before", "after", "random"), average, strict=True)),
        },
    )  # fmt: skip


def _worst(others: list[Groups], seed: int) -> Estimate:
    return bootstrap_mean([one.groups[one.worst].value for one in others], seed)
