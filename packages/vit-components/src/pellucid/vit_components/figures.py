"""Figures: what each component says, layer by layer, and accuracy under ablation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pellucid.core.figures import COLOURS, figure_style, new_figure
from pellucid.core.statistics import Estimate

from .ablation import Ablated
from .components import LAYERED, Component

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shares_figure(components: Sequence[Component], shares: np.ndarray, title: str) -> "Figure":
    """Each head, MLP and convolution as a cell: layers down, heads across."""
    layers = sorted({one.layer for one in components if one.kind in LAYERED})
    heads = max((one.head or 0) for one in components) + 1
    grid = np.full((len(layers), heads), np.nan)
    names = [""] * len(layers)
    for one, share in zip(components, shares, strict=True):
        if one.kind not in LAYERED:
            continue
        row = layers.index(one.layer)
        names[row] = one.name.partition(".head")[0]
        grid[row, one.head or 0] = share
    figure, axes = new_figure(width=max(5.5, 2.8 + 0.42 * heads), height=max(2.6, 0.26 * len(layers) + 1.4))
    with figure_style():
        limit = float(np.nanmax(np.abs(grid))) or 1.0
        picture = axes.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axes.set_yticks(range(len(layers)), names, fontsize=7)
        axes.set_xticks(range(heads))
        axes.set_xlabel("head (MLPs and convolutions in the first column)")
        axes.set_title(title)
        figure.colorbar(picture, ax=axes, label="share of the variance")
    return figure


def ablation_figure(results: Sequence[Ablated], title: str) -> "Figure":
    """Accuracy as layers are ablated from the last on (thesis figure 7.2)."""
    counts = np.array([one.layers for one in results])
    values, low, high = (np.array([getattr(one.accuracy, end) for one in results]) for end in ("value", "low", "high"))
    figure, axes = new_figure(width=7.0)
    with figure_style():
        axes.fill_between(counts, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(counts, values, "o-", color=COLOURS[0], markersize=4)
        axes.set_xlabel("layers set to their mean, from the last on")
        axes.set_ylabel("accuracy")
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(title)
    return figure


def scores_figure(names: Sequence[str], features: Sequence[str], scores: np.ndarray, title: str) -> "Figure":
    """Component by feature: scores of algorithm 5, components of the highest first."""
    order = np.argsort(-scores.max(1), kind="stable")[:60]
    order = order[np.lexsort((-scores[order].max(1), scores[order].argmax(1)))]
    figure, axes = new_figure(width=max(5.5, 3.4 + 0.6 * len(features)), height=max(2.6, 0.2 * len(order) + 1.5))
    with figure_style():
        picture = axes.imshow(scores[order], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        axes.set_yticks(range(len(order)), [names[place] for place in order], fontsize=6)
        axes.set_xticks(range(len(features)), features, rotation=30, ha="right")
        axes.set_title(title)
        figure.colorbar(picture, ax=axes, label="score")
    return figure


def groups_figure(
    names: Sequence[str], before: Sequence[Estimate], after: Sequence[Estimate], random: Sequence[Estimate], title: str
) -> "Figure":
    """Accuracy of each group before and after, and with random components set to their mean."""
    figure, axes = new_figure(width=max(6.4, 1.5 * len(names)))
    with figure_style():
        for shift, (label, values, colour) in enumerate(
            (
                ("as it is", before, COLOURS[0]),
                ("feature removed", after, COLOURS[1]),
                ("random ones", random, "#999999"),
            )
        ):
            places = np.arange(len(names)) + 0.27 * (shift - 1)
            heights = [one.value for one in values]
            reach = [
                [max(0.0, one.value - one.low) for one in values],
                [max(0.0, one.high - one.value) for one in values],
            ]
            axes.bar(places, heights, 0.25, color=colour, label=label, yerr=reach, error_kw={"lw": 1})
        axes.set_xticks(range(len(names)), names, fontsize=9)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("accuracy")
        axes.set_title(title)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    return figure
