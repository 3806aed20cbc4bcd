"""Figures: effects by layer, scores by window, and grids of pictures."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pellucid.core.figures import COLOURS, figure_style, new_figure
from pellucid.core.scorers import Pictures

from .evaluation import Change
from .studies import Located, Tracing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {"self-attn": "self-attention", "cross-attn": "cross-attention", "resnet": "resnet", "mlp": "MLP", "ff": "MLP"}


def effects_figure(found: Tracing, title: str) -> "Figure":
    """Bars of the average indirect effect of each layer with their intervals (thesis figures 5.2 and 5.3)."""
    labels = [layer.label for layer in found.layers]
    values = np.array([layer.effect.value for layer in found.layers])
    low, high = (np.array([getattr(layer.effect, end) for layer in found.layers]) for end in ("low", "high"))
    figure, axes = new_figure(width=8.5, height=max(3.0, 0.19 * len(labels) + 1.2))
    with figure_style():
        kinds = [_kind(label) for label in labels]
        for number, kind in enumerate(dict.fromkeys(kinds)):
            chosen = [place for place, other in enumerate(kinds) if other == kind]
            errors = np.stack([values - low, high - values])[:, chosen]
            axes.barh(
                chosen, values[chosen], xerr=errors, color=COLOURS[number % len(COLOURS)], label=kind, ecolor="grey"
            )
        gap = found.clean.value - found.corrupted.value
        axes.axvline(gap, color="grey", linestyle=":", label="clean picture")
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("score restored, minus corrupted")
        axes.set_title(title)
        axes.legend(fontsize=8)
    return figure


def windows_figure(found: Located, title: str) -> "Figure":
    """The mean score with each window altered, one line for each size tried (thesis figure 5.10)."""
    figure, axes = new_figure(width=7.5)
    with figure_style():
        for number, (size, scores) in enumerate(found.search.scores.items()):
            means = scores.mean(axis=1)
            axes.plot(
                range(len(means)), means, "o-", color=COLOURS[number % len(COLOURS)], label=f"m = {size}", markersize=4
            )
        window = found.search.located.window
        axes.plot(window.start, found.search.located.score, "*", color="black", markersize=14, label="found")
        axes.axhline(found.original.value, color="grey", linestyle="--", linewidth=1, label="nothing altered")
        axes.axhline(found.replaced.value, color="grey", linestyle=":", linewidth=1, label="all altered")
        axes.set_xlabel("first cross-attention layer of the window")
        axes.set_ylabel("score")
        axes.set_title(title)
        axes.legend(fontsize=8, ncols=2)
    return figure


def grid_figure(rows: Sequence[Pictures], row_names: Sequence[str], column_names: Sequence[str] = ()) -> "Figure":
    """Pictures side by side: a row for each model, a column for each prompt and seed."""
    height, width = len(rows), max(map(len, rows))
    figure, axes = new_figure(height, width, width=1.6 + 1.05 * width, height=1.1 * height + 0.5)
    axes = np.asarray(axes).reshape(height, width)
    with figure_style():
        for row, pictures in enumerate(rows):
            for column in range(width):
                place = axes[row, column]
                place.set(xticks=[], yticks=[])
                place.spines[:].set_visible(False)
                if column < len(pictures):
                    place.imshow(pictures[column], interpolation="nearest")
                if row == 0 and column < len(column_names):
                    place.set_title(_folded(column_names[column]), fontsize=6)
            axes[row, 0].set_ylabel(_folded(row_names[row]), rotation=0, ha="right", va="center", fontsize=8)
    return figure


def changes_figure(found: dict[str, tuple[Change, ...]]) -> "Figure":
    """Score before and after each edit, for each group of prompts (thesis figures 5.4 and 5.13)."""
    figure, axes = new_figure(1, len(found), width=1.5 + 4.2 * len(found), height=3.6)
    with figure_style():
        for place, (name, changes) in zip(np.atleast_1d(axes), found.items(), strict=True):
            spots = np.arange(len(changes))
            for number, side in enumerate(("before", "after")):
                sides = [getattr(change, side) for change in changes]
                values = np.array([side.value for side in sides])
                errors = np.stack([values - [side.low for side in sides], [side.high for side in sides] - values])
                place.bar(
                    spots + 0.4 * number - 0.2,
                    values,
                    0.38,
                    yerr=errors,
                    color=COLOURS[number],
                    label=side,
                )
            place.set_xticks(spots, [_folded(change.group) for change in changes], fontsize=7)
            place.set_title(name)
            place.set_ylabel("score")
        figure.legend(*place.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _kind(label: str) -> str:
    return next((kind for part, kind in _KINDS.items() if part in label), "other")


def _folded(text: str, width: int = 18) -> str:
    return "\n".join(textwrap.wrap(text, width))
