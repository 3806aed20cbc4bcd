"""Figures: what each component says, layer by layer, and accuracy under ablation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pellucid.core.figures import COLOURS, figure_style, new_figure

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
