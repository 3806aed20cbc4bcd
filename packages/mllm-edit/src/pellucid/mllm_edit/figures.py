"""Figures: traces (6.1, 6.3, 6.4, 11.7), contributions (6.5), what foretells a right answer (6.3.4), edits (6.6)."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from pellucid.core.errors import DataError
from pellucid.core.figures import COLOURS, figure_style, new_figure
from pellucid.core.statistics import Estimate, Estimates

from .prediction import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


@dataclass(frozen=True)
class Panel:
    """One heat map of a trace.

    Attributes:
        title: what was traced, such as "MLP, windows of 3".
        groups: names of the token groups, from the first token to the last.
        effects: indirect estimation effects, `(groups, layers)`; a layer is the middle of its window.
    """

    title: str
    groups: tuple[str, ...]
    effects: ArrayLike


@dataclass(frozen=True)
class Strength:
    """One point of a method's curve: what it does at one strength (such as one lambda).

    Attributes:
        label: of the strength, such as "0.01".
        gain: efficacy or generalisation, a probability.
        lost: specificity lost, in points of 100.
    """

    label: str
    gain: Estimate
    lost: Estimate


def trace_figure(panels: Sequence[Panel], columns: int = 2) -> "Figure":
    """Effects by token group and layer, one heat map a panel on one scale (thesis figures 6.1, 6.3, 6.4 and 11.7).

    Args:
        panels: in reading order; all are coloured on the same scale, so that they can be compared.
        columns: of panels.

    Raises:
        DataError: there is no panel, or one has other groups than rows.
    """
    tables = [np.asarray(panel.effects, dtype=np.float64) for panel in panels]
    if not tables:
        raise DataError("there is nothing to draw: give at least one panel")
    for panel, table in zip(panels, tables, strict=True):
        if table.ndim != 2 or len(table) != len(panel.groups):
            raise DataError(f"{panel.title!r} has effects of shape {table.shape} for {len(panel.groups)} token groups")
    limit = max(max(float(np.abs(table).max()) for table in tables), 1e-12)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    tallest, widest = (max(table.shape[axis] for table in tables) for axis in (0, 1))
    figure, axes = new_figure(
        rows, columns, width=1.0 + columns * (2.6 + 0.1 * widest), height=rows * (1.1 + 0.3 * tallest)
    )
    places = np.asarray(axes).reshape(-1)
    with figure_style():
        for place, panel, table in zip(places, panels, tables, strict=False):
            # Blue works against the answer, red brings it back.
            image = place.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
            place.set_yticks(range(len(panel.groups)), [_folded(name, 22) for name in panel.groups], fontsize=8)
            _layer_axis(place, table.shape[1])
            place.set_title(_folded(panel.title, 18 + widest), fontsize=10)
        for place in places[len(panels) :]:
            place.set_visible(False)
        bar = figure.colorbar(image, ax=list(places), aspect=12 * rows, fraction=0.05)
        bar.set_label("indirect estimation effect", fontsize=9)
    return figure


def image_tokens_figure(contributions: ArrayLike, title: str) -> "Figure":
    """What each image token adds to the constraint's last token, by layer (thesis figure 6.5).

    Args:
        contributions: norms, `(layers, image tokens)`.
        title: of the figure.
    """
    table = np.asarray(contributions, dtype=np.float64)
    figure, axes = new_figure(width=8.0, height=max(2.4, 0.16 * len(table) + 1.6))
    with figure_style():
        image = axes.imshow(table, aspect="auto", interpolation="nearest", vmin=0)
        axes.set(xlabel="image token", ylabel="layer", title=title)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=axes, label="contribution (norm)")
    return figure


def patches_figure(picture: "Image", maps: Mapping[str, ArrayLike]) -> "Figure":
    """A picture, and maps of numbers over its patches laid on it.

    Args:
        picture: as the model sees it.
        maps: title -> numbers of at least 0, `(rows, columns)` of patches; each is coloured on its own scale.
    """
    figure, axes = new_figure(1, 1 + len(maps), width=2.4 * (1 + len(maps)), height=2.9)
    places = np.asarray(axes).reshape(-1)
    seen = np.asarray(picture.convert("RGB"))
    height, width = seen.shape[:2]
    with figure_style():
        places[0].imshow(seen, interpolation="nearest")
        places[0].set_title("picture", fontsize=9)
        for place, (title, numbers) in zip(places[1:], maps.items(), strict=True):
            grid = np.asarray(numbers, dtype=np.float64)
            grey = np.repeat(seen.mean(axis=2, keepdims=True), 3, axis=2) / 255
            place.imshow(grey, interpolation="nearest")
            image = place.imshow(
                grid,
                cmap="inferno",
                alpha=0.65,
                vmin=0,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                interpolation="nearest",
            )
            place.set_title(_folded(title, 26), fontsize=9)
            figure.colorbar(image, ax=place, orientation="horizontal", shrink=0.9, pad=0.03).ax.tick_params(labelsize=7)
        for place in places:
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
    return figure


def layers_figure(lines: Mapping[str, Estimates], label: str, title: str) -> "Figure":
    """Numbers by layer with their intervals, such as contributions where the answer is right and where it is wrong.

    Args:
        lines: name -> one estimate a layer.
        label: of the numbers.
        title: of the figure.
    """
    figure, axes = new_figure()
    with figure_style():
        for colour, (name, line) in zip(_colours(len(lines)), lines.items(), strict=True):
            layers = np.arange(len(line))
            axes.plot(layers, line.value, "o-", markersize=4, color=colour, label=name)
            axes.fill_between(layers, line.low, line.high, alpha=0.2, color=colour, linewidth=0)
        axes.set(xlabel="layer", ylabel=label, title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=9)
    return figure


def prediction_figure(found: Prediction) -> "Figure":
    """How well each layer's contributions foretell a right answer, beside the model's confidence (thesis 6.3.4)."""
    figure, axes = new_figure(width=7.0)
    with figure_style():
        layers = [sign.layer for sign in found.layers]
        axes.plot(layers, [sign.auroc.value for sign in found.layers], "o-", color=COLOURS[0], label="contribution")
        low, high = ([getattr(sign.auroc, end) for sign in found.layers] for end in ("low", "high"))
        axes.fill_between(layers, low, high, alpha=0.2, color=COLOURS[0], linewidth=0)
        axes.axhline(found.by_confidence.value, color=COLOURS[1], linestyle="--", label="confidence")
        axes.axhspan(found.by_confidence.low, found.by_confidence.high, color=COLOURS[1], alpha=0.12, linewidth=0)
        axes.axvspan(found.middle[0] - 0.3, found.middle[1] + 0.3, color="grey", alpha=0.15, label="middle layers")
        axes.axhline(0.5, color="grey", linestyle=":", linewidth=1, label="chance")
        axes.set(xlabel="layer", ylabel="AUROC", title="Right or wrong? Contributions against confidence")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, ncols=2)
    return figure


def edits_figure(settings: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> "Figure":
    """Metrics of each method, one panel a setting (thesis figure 6.6).

    Args:
        settings: such as "errors corrected" -> method, such as "MultEdit" -> metric, such as "efficacy" -> its value.
            All methods have the same metrics.

    Raises:
        DataError: there is nothing to draw, or a method lacks a metric that the first one has.
    """
    if not settings or not all(settings.values()):
        raise DataError("there is nothing to draw: give at least one method in each setting")
    figure, axes = new_figure(1, len(settings), width=1.2 + 4.4 * len(settings), height=3.9)
    with figure_style():
        for place, (setting, methods) in zip(np.atleast_1d(axes), settings.items(), strict=True):
            metrics = list(next(iter(methods.values())))
            wide = 0.84 / len(methods)
            for number, (name, values) in enumerate(methods.items()):
                if missing := [metric for metric in metrics if metric not in values]:
                    raise DataError(f"{name!r} has no {missing[0]!r} in {setting!r}, which the other methods have")
                spots = np.arange(len(metrics)) + wide * (number - (len(methods) - 1) / 2)
                _bars(place, spots, wide, [values[metric] for metric in metrics], _colours(len(methods))[number], name)
            place.set_xticks(range(len(metrics)), [_folded(metric, 16) for metric in metrics], fontsize=9)
            place.set_title(setting)
            place.set_ylim(0, 1.05)
        np.atleast_1d(axes)[0].set_ylabel("P(answer), or VQA accuracy")
        handles, names = np.atleast_1d(axes)[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(handles), fontsize=9)
    return figure


def curves_figure(
    curves: Mapping[str, Sequence[Strength]], gain: str, aim: tuple[float, float] | None = None
) -> "Figure":
    """What each method gains against what it loses elsewhere, over its strengths.

    Args:
        curves: method -> points in the order of strength.
        gain: what is gained, such as "efficacy".
        aim: the corner to reach: (most points of specificity lost, least gain).
    """
    figure, axes = new_figure(width=7.0, height=4.2)
    with figure_style():
        for colour, (name, points) in zip(_colours(len(curves)), curves.items(), strict=True):
            lost, gained = [point.lost for point in points], [point.gain for point in points]
            axes.errorbar(
                [one.value for one in lost],
                [one.value for one in gained],
                xerr=_ends(lost),
                yerr=_ends(gained),
                fmt="o-",
                markersize=5,
                color=colour,
                ecolor=colour,
                elinewidth=0.8,
                label=name,
            )
            for point in points:
                axes.annotate(
                    point.label, (point.lost.value, point.gain.value), (4, 4), textcoords="offset points", fontsize=7
                )
        if aim is not None:
            axes.axvline(aim[0], color="grey", linestyle=":", linewidth=1)
            axes.axhline(aim[1], color="grey", linestyle=":", linewidth=1)
            axes.plot(*aim, "*", color="black", markersize=11, label="aim")
        axes.set(xlabel="specificity lost (points)", ylabel=gain, title=f"{gain[:1].upper()}{gain[1:]} and its price")
        axes.legend(fontsize=9)
    return figure


def _bars(axes: Any, spots: ArrayLike, width: float, values: Sequence[Estimate], colour: str, label: str) -> None:
    heights = [one.value for one in values]
    axes.bar(spots, heights, 0.92 * width, yerr=_ends(values), color=colour, ecolor="#444444", label=label)


def _ends(values: Sequence[Estimate]) -> ArrayLike:
    """Lengths of the error bars below and above."""
    return np.array([[one.value - one.low for one in values], [one.high - one.value for one in values]])


def _layer_axis(axes: Any, layers: int) -> None:
    step = max(1, layers // 8)
    axes.set_xticks(range(0, layers, step), [str(layer) for layer in range(0, layers, step)], fontsize=8)
    axes.set_xlabel("layer", fontsize=9)


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _folded(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or text
