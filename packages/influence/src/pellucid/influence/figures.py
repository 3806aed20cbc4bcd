"""Pictures and words for estimates beside the truth, and for the most influential examples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.figures import figure_style
from pellucid.core.report import COLOURS, Figure, Section, Table, new_figure
from pellucid.core.statistics import Estimate
from torch import Tensor

from .compare import Agreement, Comparison, Method

if TYPE_CHECKING:
    from .datasets import Data

NAMES: dict[Method, str] = {"first": "first order", "second": "second order", "newton": "one Newton step"}
_MARKS = {"first": "o", "second": "s", "newton": "^"}
_TINTS = {"first": COLOURS[1], "second": COLOURS[0], "newton": COLOURS[2]}
_FEWEST_FOR_BANDS = 6
_KINDS = {"random": "random groups", "class": "coherent groups (one class)", "cluster": "coherent groups (a cluster)"}


def comparison_section(found: Comparison, title: str = "Estimates against retraining") -> Section:
    """A comparison as a section of a report: sentences, figures 3.1 and 3.2 of the thesis, tables."""
    figures = [scatter(found)]
    if len({r.fraction for r in found.records}) > 1:
        figures += [errors_by_size(found)]
        if any(a.pearson is not None and a.fraction is not None for a in found.agreements()):
            figures.insert(1, correlations_by_size(found))
    return Section(title, _sentences(found), figures, [agreement_table(found), records_table(found)])


def summary(found: Comparison) -> str:
    """The finding in one sentence."""
    whole = {m: found.agreement(m) for m in found.methods}
    errors = ", ".join(f"{_number(a.relative_error)} ({NAMES[m]})" for m, a in whole.items())
    ranks = ", ".join(f"{a.spearman or '–'} ({NAMES[m]})" for m, a in whole.items())
    return (
        f"Over {len(found.records)} removals, each checked by retraining, the estimates' relative error is {errors}; "
        f"their Spearman correlation with the truth is {ranks}."
    )


def scatter(found: Comparison) -> Figure:
    """Estimate against truth with y = x, one panel a kind of group (thesis fig. 3.1)."""
    kinds = list(dict.fromkeys(r.kind for r in found.records))
    canvas, grid = new_figure(columns=len(kinds), width=max(4.6, 3.4 * len(kinds)), height=3.9)
    with figure_style():
        for axes, kind in zip(np.atleast_1d(grid), kinds, strict=True):
            chosen = found.select(kind)
            truth = np.array([r.truth for r in chosen])
            for method in found.methods:
                values = [getattr(r, method) for r in chosen]
                axes.plot(
                    truth, values, _MARKS[method], markersize=4, alpha=0.75, color=_TINTS[method], label=NAMES[method]
                )
            ends = [float(truth.min()), float(truth.max())]
            room = 0.05 * (ends[1] - ends[0]) or 1e-12
            line = [ends[0] - room, ends[1] + room]
            axes.plot(line, line, "--", linewidth=1, color="#555555", label="estimate = truth")
            axes.set(xlabel="change of test loss by retraining", title=_KINDS.get(kind, kind))
            axes.ticklabel_format(style="sci", scilimits=(-3, 4))
        np.atleast_1d(grid)[0].set_ylabel("estimated change")
        np.atleast_1d(grid)[0].legend(fontsize=9)
    said = "; ".join(
        f"{_KINDS.get(kind, kind)}: "
        + ", ".join(f"{NAMES[m]} {_number(found.agreement(m, kind).relative_error)}" for m in found.methods)
        for kind in kinds
    )
    return Figure(
        "estimates",
        canvas,
        "Estimated change of the test loss when a group is removed, against retraining without it. On the dashed line "
        "an estimate is exact (thesis fig. 3.1).",
        f"Scatter of {len(found.records)} removals. Relative errors: {said}.",
    )


def correlations_by_size(found: Comparison) -> Figure:
    """Correlation with the truth against group size, by kind (thesis fig. 3.2)."""
    return _by_size(
        found,
        "correlations",
        "Pearson correlation",
        lambda a: a.pearson,
        "Correlation of estimates with retraining against group size; bands (with six groups a size and more) are 95 % "
        "bootstrap intervals over groups (thesis fig. 3.2).",
    )


def errors_by_size(found: Comparison) -> Figure:
    """Relative error against group size, by kind."""

    def error(a: Agreement) -> Estimate | None:
        return None if a.relative_error is None else Estimate(a.relative_error, a.relative_error, a.relative_error)

    return _by_size(
        found,
        "errors",
        "relative error",
        error,
        "Relative error of the estimates against group size: 0 is exact, 1 is as bad as guessing no change.",
    )


def _by_size(found: Comparison, name: str, label: str, value: Any, caption: str) -> Figure:
    kinds = list(dict.fromkeys(r.kind for r in found.records))
    canvas, grid = new_figure(columns=len(kinds), width=max(4.6, 3.4 * len(kinds)), height=3.6)
    said = []
    with figure_style():
        for axes, kind in zip(np.atleast_1d(grid), kinds, strict=True):
            fractions = sorted({r.fraction for r in found.records if r.kind == kind})
            lowest = 1.0
            for method in found.methods:
                got = [(f, value(found.agreement(method, kind, f))) for f in fractions]
                points = [(100 * f, v) for f, v in got if v is not None]
                if not points:
                    continue
                x = [f for f, _ in points]
                axes.plot(
                    x, [v.value for _, v in points], marker=_MARKS[method], markersize=4, color=_TINTS[method],
                    label=NAMES[method],
                )  # fmt: skip
                if all(found.agreement(method, kind, f).pairs >= _FEWEST_FOR_BANDS for f in fractions):
                    low, high = [v.low for _, v in points], [v.high for _, v in points]
                    axes.fill_between(x, low, high, alpha=0.15, color=_TINTS[method], linewidth=0)
                lowest = min(lowest, *(v.value for _, v in points))
                said.append(f"{_KINDS.get(kind, kind)}, {NAMES[method]}: {points[0][1].value:.2f} at {x[0]:.3g} % to "
                            f"{points[-1][1].value:.2f} at {x[-1]:.3g} %")  # fmt: skip
            axes.set(xlabel="% of the training data removed", title=_KINDS.get(kind, kind))
            if name == "correlations":
                # Bands of a few groups reach far down; the lines are what is read off.
                axes.set_ylim(max(-1.05, lowest - max(0.05, 0.6 * (1 - lowest))), 1.0 + 0.06 * (1.1 - lowest))
        np.atleast_1d(grid)[0].set_ylabel(label)
        np.atleast_1d(grid)[0].legend(fontsize=9)
    return Figure(name, canvas, caption, f"{label} against group size. " + "; ".join(said) + ".")


def selection_bars(methods: Sequence[str], predicted: Sequence[float], truth: Sequence[float], random: float) -> Figure:
    """What each way of choosing a group predicts, and what retraining says.

    Args:
        methods: names of the functions that chose.
        predicted: each one's own prediction.
        truth: by retraining without each one's group.
        random: mean truth of random groups.
    """
    canvas, axes = new_figure(height=3.4)
    names = [name.replace("_", " ") for name in methods]
    with figure_style():
        places = np.arange(len(names))
        axes.barh(places - 0.19, predicted, 0.36, color=COLOURS[5], label="its own prediction")
        axes.barh(places + 0.19, truth, 0.36, color=COLOURS[0], label="retrained without it")
        axes.axvline(random, color=COLOURS[6], linestyle="--", linewidth=1, label="random groups, retrained")
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set(xlabel="change of the test loss")
        canvas.legend(fontsize=9, loc="outside upper center", ncols=3)
    rows = zip(names, predicted, truth, strict=True)
    said = "; ".join(f"{n}: predicted {p:.3g}, retrained {t:.3g}" for n, p, t in rows)
    return Figure(
        "selection",
        canvas,
        "Change of the test loss when the chosen group is removed: as the method predicts it, and by retraining.",
        f"Bars. {said}; random groups: {random:.2g}.",
    )


def agreement_table(found: Comparison) -> Table:
    """How well each estimate agrees with the truth, by kind and size."""
    rows = [
        [
            a.kind or "all",
            None if a.fraction is None else f"{100 * a.fraction:.3g} %",
            NAMES[a.method],
            a.pairs,
            None if a.pearson is None else str(a.pearson),
            None if a.spearman is None else str(a.spearman),
            a.relative_error,
        ]
        for a in found.agreements()
    ]
    return Table(
        "agreement",
        ["groups", "size", "estimate", "removals", "Pearson", "Spearman", "relative error"],
        rows,
        "Agreement of the estimates with retraining; brackets hold 95 % bootstrap intervals over removals.",
    )


def records_table(found: Comparison) -> Table:
    """Every removal with its estimates and its truth."""
    rows = [[r.size, r.fraction, r.kind, r.test, r.first, r.second, r.newton, r.truth] for r in found.records]
    return Table(
        "groups",
        ["size", "fraction", "kind", "test point", "first order", "second order", "one Newton step", "retrained"],
        rows,
        "Change of the test point's loss when the group is removed.",
    )


def is_image(data: "Data") -> bool:
    """Whether the points can be shown as pictures: one or three channels."""
    return len(data.shape) == 3 and data.shape[0] in (1, 3)


def pictures(data: "Data", test: int, predicted: int, ranked: Sequence[int], changes: Tensor, top: int = 5) -> Figure:
    """The test point, and the training points whose removal lowers and raises its loss the most (thesis fig. 11.1).

    Args:
        data: images.
        test: row of the test point; `predicted` is the class that the model gives it.
        ranked: training rows, from the one whose removal raises the loss the most to the one that lowers it the most.
        changes: predicted change of the loss for each training row, shape (n,).
        predicted: the model's class.
        top: how many of each.
    """
    top = min(top, len(ranked))
    canvas, grid = new_figure(rows=2, columns=top + 1, width=6.4, height=3.2)
    with figure_style():
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.set_frame_on(False)
        _picture(
            grid[0, 0], data.test_inputs[test], f"test {test}: {int(data.test_targets[test])}\ntaken for {predicted}"
        )
        for line, (rows, word) in enumerate(((list(ranked[:top]), "helps"), (list(ranked[::-1][:top]), "harms"))):
            for place, row in enumerate(rows):
                title = f"{word}: {int(data.targets[row])}\n{float(changes[row]):+.1e}"
                _picture(grid[line, place + 1], data.inputs[row], title)

    def labels(rows: Sequence[int]) -> str:
        return ", ".join(str(int(data.targets[row])) for row in rows)

    return Figure(
        "influential",
        canvas,
        "The test point, and the training points of the largest influence on its loss, with their labels and the "
        "change of the loss that removing them would bring. Above: those that help (the loss would rise); below: those "
        "that harm (thesis fig. 11.1).",
        f"Test point {test} of class {int(data.test_targets[test])}. Helping examples are of classes "
        f"{labels(ranked[:top])}; harming ones of {labels(ranked[::-1][:top])}.",
    )


def _picture(axes: Any, image: Tensor, title: str) -> None:
    shown = image.permute(1, 2, 0).squeeze(-1).numpy()
    axes.imshow(shown, cmap="gray_r" if shown.ndim == 2 else None, interpolation="nearest")
    axes.set_title(title, fontsize=8)


def _sentences(found: Comparison) -> list[str]:
    kinds = ", ".join(_KINDS.get(k, k) for k in dict.fromkeys(r.kind for r in found.records))
    text = [
        f"{len(found.records)} removals ({kinds}) of {min(r.size for r in found.records)} to "
        f"{max(r.size for r in found.records)} training points were predicted by influence functions and made, by "
        f"retraining without them. The objective's gradient at the base model has norm {found.gradient_norm:.2g}; the "
        f"inverse-Hessian products have a relative residual of at most {found.residual:.2g}.",
        f"Training on with all points changes the test loss by {max(map(abs, found.drift)):.2g} at most: a truth "
        "smaller than that is noise.",
    ]
    if max(r.fraction for r in found.records) > 0.5:
        text.append("Above half of the data the second-order expansion need not contract (thesis theorem 1).")
    return text + [f"Note: {note}." for note in found.notes]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
