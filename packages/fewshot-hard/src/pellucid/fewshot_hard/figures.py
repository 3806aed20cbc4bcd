"""Figures 4.1 to 4.5 of the thesis in one's own data: accuracy by pool, backbone and time; composition of tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pellucid.core.figures import figure_style
from pellucid.core.report import COLOURS, Figure, new_figure
from pellucid.core.statistics import Estimate, Estimates

from .explain import Composition

KINDS = {"default": "default (as sampled)", "hard": "hard", "easy": "easy"}
_TINTS = {"default": COLOURS[0], "hard": COLOURS[1], "easy": COLOURS[2]}
_QUERY = "#777777"
_ROW = 0.3
"""Inches of a bar with the room around it."""


def accuracy_bars(
    found: Mapping[str, Mapping[str, Estimate]],
    name: str = "accuracy",
    caption: str = "Accuracy on default, hard and easy tasks of the same query sets (thesis fig. 4.1).",
    chance: float | None = None,
) -> Figure:
    """Accuracy with its interval, a group of bars for each pool, backbone or method (thesis figs. 4.1, 4.3, 4.4).

    Args:
        found: by group (a pool's or a backbone's name), then by kind of task: mean accuracy, 0 to 1.
        name: of the figure's file.
        caption: what is shown.
        chance: accuracy of guessing, drawn as a line.
    """
    groups = list(found)
    kinds = [kind for kind in KINDS if any(kind in each for each in found.values())]
    height = 0.8 / len(kinds)
    canvas, axes = new_figure(height=max(2.4, 1.1 + _ROW * len(groups) * max(1.0, 0.75 * len(kinds))))
    with figure_style():
        for place, kind in enumerate(kinds):
            held = [(row, found[group][kind]) for row, group in enumerate(groups) if kind in found[group]]
            rows = [row + (place - (len(kinds) - 1) / 2) * height for row, _ in held]
            _barh(axes, rows, [100 * estimate.value for _, estimate in held],
                  _ends([estimate for _, estimate in held], 100), height, _TINTS[kind], KINDS[kind])  # fmt: skip
        if chance is not None:
            axes.axvline(100 * chance, color="#000000", linestyle="--", linewidth=1, label="guessing")
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.set(xlabel="accuracy on the query set, %", xlim=(0, 100))
        canvas.legend(fontsize=9, loc="outside upper center", ncols=4)
    said = "; ".join(
        f"{group}: " + ", ".join(f"{kind} {100 * each[kind].value:.1f} %" for kind in kinds if kind in each)
        for group, each in found.items()
    )
    return Figure(name, canvas, f"{caption} Lines are 95 % intervals over tasks.", f"Bars of accuracy. {said}.")


def accuracy_against_time(found: Mapping[str, tuple[Estimate, float]], name: str = "extraction") -> Figure:
    """How hard the tasks of each selector are, against what it takes to find one (thesis fig. 4.2).

    Args:
        found: by selector: mean accuracy (0 to 1) of its tasks, and seconds a task.
        name: of the figure's file.
    """
    canvas, axes = new_figure(height=3.8)
    with figure_style():
        for place, (method, (accuracy, seconds)) in enumerate(found.items()):
            axes.errorbar(
                [1000 * seconds],
                [100 * accuracy.value],
                yerr=_ends([accuracy], 100),
                fmt="os^Dv<>P"[place % 8],
                markersize=7,
                linewidth=1.5,
                capsize=3,
                color=COLOURS[place % len(COLOURS)],
                label=method,
            )
        axes.set(xscale="log", xlabel="milliseconds a task (logarithmic)", ylabel="accuracy on its tasks, %")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.1)
        canvas.legend(fontsize=9, loc="outside right center")
    said = "; ".join(f"{m}: {100 * a.value:.1f} % in {1000 * s:.3g} ms" for m, (a, s) in found.items())
    return Figure(
        name,
        canvas,
        "Accuracy on the extracted tasks (lower is harder) against the time to extract one; lines are 95 % intervals "
        "over tasks (thesis fig. 4.2).",
        f"Scatter. {said}.",
    )


def training_curve(curve: Sequence[tuple[int, Estimate]], name: str = "meta-training") -> Figure:
    """Accuracy on held-out tasks while a backbone is meta-trained.

    Args:
        curve: (episodes, mean accuracy) in order; the first is before meta-training.
        name: of the figure's file.
    """
    canvas, axes = new_figure(height=3.4)
    with figure_style():
        values = [100 * estimate.value for _, estimate in curve]
        axes.errorbar(
            [episodes for episodes, _ in curve], values, yerr=_ends([estimate for _, estimate in curve], 100),
            marker="o", capsize=3, color=COLOURS[0],
        )  # fmt: skip
        axes.set(xlabel="episodes", ylabel="accuracy on held-out tasks, %")
    said = ", ".join(f"{episodes}: {value:.1f} %" for (episodes, _), value in zip(curve, values, strict=True))
    return Figure(
        name, canvas,
        "Accuracy of mean prototypes on held-out tasks while meta-training; lines are 95 % intervals over tasks.",
        f"Curve by episodes. {said}.",
    )  # fmt: skip


def composition_bars(found: Mapping[str, Composition], name: str = "composition") -> Figure:
    """What the support sets of each kind are made of, and how far from the query sets (thesis fig. 4.5).

    Args:
        found: by kind of task (default, hard, easy), of one pool; query shares are those of the first.
        name: of the figure's file.
    """
    kinds = list(found)
    first = found[kinds[0]]
    annotations = [each.replace("_", " ") for each in first.annotations]
    bars = len(kinds) + 1
    canvas, (left, right) = new_figure(columns=2, width=8.0, height=1.5 + _ROW * len(annotations) * 0.75 * bars)
    with figure_style():
        shares: Sequence[tuple[str, Estimates, Any]] = [
            *((f"support of {kind} tasks", found[kind].support, _TINTS[kind]) for kind in kinds),
            ("query", first.query, _QUERY),
        ]
        for place, (label, share, tint) in enumerate(shares):
            _estimates(left, share, place, bars, tint, label)
        for place, kind in enumerate(kinds):
            _estimates(right, found[kind].size, place, len(kinds), _TINTS[kind], None)
        for axes in (left, right):
            axes.set_yticks(range(len(annotations)), annotations)
            axes.invert_yaxis()
            axes.set_xlim(left=0)
        right.tick_params(labelleft=False)
        left.set(xlabel="images with the property, %")
        right.set(xlabel="|support - query|, percentage points")
        canvas.legend(fontsize=9, loc="outside upper center", ncols=min(3, bars))
    said = "; ".join(
        f"{annotation}: "
        + ", ".join(f"{kind} gap {100 * float(found[kind].size.value[row]):.1f} points" for kind in kinds)
        for row, annotation in enumerate(annotations)
    )
    return Figure(
        name,
        canvas,
        "Left: share of images with each annotated property, in support and query sets. Right: mean absolute "
        "difference of the two within a task. Lines are 95 % intervals over tasks (thesis fig. 4.5).",
        f"Two panels of bars. {said}.",
    )


def _estimates(axes: Any, values: Estimates, place: int, bars: int, tint: str, label: str | None) -> None:
    height = 0.8 / bars
    rows = [row + (place - (bars - 1) / 2) * height for row in range(len(values))]
    ends = 100 * np.stack([values.value - values.low, values.high - values.value])
    _barh(axes, rows, (100 * values.value).tolist(), ends, height, tint, label)


def _barh(
    axes: Any, rows: Sequence[float], values: Sequence[float], ends: Any, height: float, tint: str, label: str | None
) -> None:
    axes.barh(rows, values, 0.9 * height, color=tint, label=label)
    axes.errorbar(values, rows, xerr=ends, fmt="none", ecolor="#222222", elinewidth=1.2, capsize=2)


def _ends(estimates: Sequence[Estimate], scale: float) -> Any:
    """Return (2, n): how far intervals reach below and above, as matplotlib wants them."""
    return scale * np.array([[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]])
