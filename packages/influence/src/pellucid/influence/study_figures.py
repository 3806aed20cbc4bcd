"""Pictures and words for the fragility study: correlations over depth, width and decay, curvature, findings."""

from typing import Any

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.figures import figure_style
from pellucid.core.report import COLOURS, Figure, Section, Table, new_figure
from pellucid.core.statistics import Estimate, bootstrap_mean

from .findings import Finding, findings
from .settings import DECAY, StudySetting
from .study import Quantity, Study, StudyRow, Subset

Outcomes = list[tuple[StudySetting, StudyRow]]


def study_section(study: Study, seed: int = 0, title: str = "How fragile influence is") -> Section:
    """A study as a section of a report: findings, figures 3.3 to 3.5 of the thesis, table 3.1's columns."""
    found = findings(study, seed)
    drawn = (_axis(study, "depth"), _axis(study, "width"), _decay(study), _factors(study), _norms(study))
    figures = [figure for figure in drawn if figure is not None]
    seeds = {s.seed for s, _ in study.outcomes}
    text = [
        f"{len(study.outcomes)} networks were trained, {len(seeds)} seed(s) a setting; a seed decides the split, the "
        "initial weights and the order of batches. Each was retrained without each of its most influential training "
        "points, and without points around the 30th percentile of influence, from its trained parameters.",
        "Findings are differences over pairs that share a seed, with 95 % bootstrap intervals; with few pairs these "
        "are narrower than they ought to be.",
        *(f"Note: {note}." for note in study.notes),
    ]
    return Section(title, text, figures, [findings_table(found), settings_table(study, seed)])


def study_summary(study: Study, seed: int = 0) -> str:
    """The findings in one sentence."""
    found = findings(study, seed)
    count = {v: sum(f.verdict == v for f in found) for v in ("as in the thesis", "the opposite", "not told apart")}
    return (
        f"{len(study.outcomes)} networks measured. Of {len(found)} findings of the thesis that these settings can "
        f"test, {count['as in the thesis']} hold here, {count['the opposite']} come out the other way, and "
        f"{count['not told apart']} cannot be told apart from chance."
    )


def study_results(study: Study, seed: int = 0) -> dict[str, Any]:
    """What `result.json` holds under `results`."""
    settings = []
    for setting, row in study.outcomes:
        correlations = [
            {
                "estimate": quantity,
                "test": setting.tests[test],
                "points": subset,
                "pearson": row.correlation(quantity, test, subset, "pearson"),
                "spearman": row.correlation(quantity, test, subset),
                "relative_error": _relative_error(row, quantity, test, subset),
            }
            for quantity, test, subset in _measured(setting, row)
        ]
        settings.append({"label": setting.label, "setting": setting, "row": row, "correlations": correlations})
    return {"settings": settings, "findings": findings(study, seed), "notes": study.notes}


def findings_table(found: list[Finding]) -> Table:
    """The thesis's claims, each with its difference and interval."""
    rows = [[f.claim, f.measure, str(f.difference), f.pairs, f.verdict] for f in found]
    return Table(
        "findings",
        ["claim", "measured by", "difference", "pairs", "here"],
        rows,
        "The thesis's claims, put so that a positive difference agrees.",
    )


def settings_table(study: Study, seed: int = 0) -> Table:
    """Every setting's correlations, means over seeds (as table 3.1: A is the highest loss, B the median)."""
    rows = []
    for label, outcomes in _by_label(study).items():
        both = [row for _, row in outcomes]

        def cell(kind: Any, quantity: Quantity, test: int, subset: Subset, rows: list[StudyRow] = both) -> str | None:
            return _text([row.correlation(quantity, test, subset, kind) for row in rows], seed)

        tops = [row.top_eigenvalue for row in both if row.top_eigenvalue is not None]
        rows.append(
            [
                label, len(both), both[0].parameters, float(np.mean([row.accuracy for row in both])),
                cell("pearson", "influence", 0, "top"), cell("spearman", "influence", 0, "top"),
                cell("pearson", "influence", 1, "top"), cell("spearman", "influence", 1, "top"),
                cell("spearman", "influence", 0, "low"), cell("spearman", "stochastic", 0, "top"),
                cell("spearman", "norm", 0, "top"), float(np.mean(tops)) if tops else None,
                float(np.max([row.gradient_norm for row in both])), float(np.max([row.residual for row in both])),
                float(np.mean([row.seconds for row in both])),
            ]
        )  # fmt: skip
    columns = [
        "setting", "seeds", "parameters", "accuracy", "A Pearson", "A Spearman", "B Pearson", "B Spearman",
        "A Spearman, 30th percentile", "A Spearman, stochastic", "Spearman of norms", "top eigenvalue",
        "largest gradient norm", "largest residual", "seconds a test point",
    ]  # fmt: skip
    return Table(
        "settings", columns, rows,
        "Correlation of influence with retraining, means over seeds with 95 % bootstrap intervals. A is the test point "
        "of the highest loss, B the one of median loss.",
    )  # fmt: skip


def _axis(study: Study, name: str) -> Figure | None:
    """Correlation and top eigenvalue against depth or width (fig. 3.3 c and d, 3.4 a to c)."""
    nets = [(s, r) for s, r in study.outcomes if s.model == "mlp" and s.l2 and _option(s, "activation") == "tanh"]
    other = "width" if name == "depth" else "depth"
    if not nets:
        return None
    held = min(_option(s, other) for s, _ in nets)
    chosen = [(s, r) for s, r in nets if _option(s, other) == held]
    values = sorted({_option(s, name) for s, _ in chosen})
    if len(values) < 2:
        return None
    canvas, (left, right) = new_figure(columns=2, width=7.4, height=3.6)
    lines: list[tuple[str, Quantity, str, str]] = [
        ("exact", "influence", COLOURS[0], "o"),
        ("stochastic", "stochastic", COLOURS[1], "s"),
        ("norms of parameter changes", "norm", COLOURS[2], "^"),
    ]
    said = []
    with figure_style():
        for place, (label, quantity, colour, mark) in enumerate(lines):
            got = [_mean([r.correlation(quantity) for s, r in chosen if _option(s, name) == v]) for v in values]
            _errorbars(left, [v + 0.12 * (place - 1) for v in values], got, label, colour, mark)
            said.append(f"{label}: " + ", ".join(f"{v}: {g}" for v, g in zip(values, got, strict=True)))
        tops = [[r.top_eigenvalue for s, r in chosen if _option(s, name) == v and r.top_eigenvalue] for v in values]
        got = [bootstrap_mean(part, 0) if part else None for part in tops]
        _errorbars(right, values, got, "top eigenvalue", COLOURS[3], "o")
        left.set(xlabel=name, ylabel="Spearman with retraining", ylim=(min(0.0, left.get_ylim()[0]), 1.05))
        right.set(xlabel=name, ylabel="top eigenvalue of the Hessian", yscale="log")
        left.set_xticks(values)
        right.set_xticks(values)
        left.legend(fontsize=9, loc="lower left")
    figure = "fig. 3.3 c, 3.4" if name == "depth" else "fig. 3.3 d"
    return Figure(
        name, canvas,
        f"Left: Spearman correlation of influence with retraining over the most influential points against {name}. "
        f"Right: the Hessian's top eigenvalue. Means over seeds, 95 % intervals (thesis {figure}).",
        f"Correlation by {name}. " + "; ".join(said) + ".",
    )  # fmt: skip


def _decay(study: Study) -> Figure | None:
    """Correlations with and without weight decay, over top and less influential points (fig. 3.5, table 3.1)."""
    labels: dict[str, dict[bool, Outcomes]] = {}
    for setting, row in study.outcomes:
        if setting.l2 in (0.0, DECAY):
            bare = setting.label.rpartition(", ")[0]
            labels.setdefault(bare, {}).setdefault(bool(setting.l2), []).append((setting, row))
    pairs = {label: part for label, part in labels.items() if len(part) == 2}
    if not pairs:
        return None
    canvas, grid = new_figure(columns=2, width=7.4, height=1.4 + 0.75 * len(pairs))
    said = []
    subsets: tuple[tuple[Subset, str], ...] = (("top", "most influential points"), ("low", "30th percentile"))
    with figure_style():
        for axes, (subset, title) in zip(grid, subsets, strict=True):
            for place, (decayed, word) in enumerate(((True, "weight decay"), (False, "no weight decay"))):
                got = [_mean([r.correlation(subset=subset) for _, r in part[decayed]]) for part in pairs.values()]
                for line, estimate in enumerate(got):
                    if estimate is None:
                        continue
                    spread = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
                    axes.errorbar(
                        estimate.value, line + 0.16 * (2 * place - 1), xerr=spread, fmt="os"[place], capsize=3,
                        color=COLOURS[place], label=word if line == 0 else None,
                    )  # fmt: skip
                    said.append(f"{list(pairs)[line]}, {word}, {title}: {estimate}")
            axes.axvline(0, color="#555555", linewidth=1, linestyle=":")
            axes.set(xlabel="Spearman with retraining", title=title, ylim=(len(pairs) - 0.5, -0.5))
            axes.set_yticks(range(len(pairs)), list(pairs) if subset == "top" else [""] * len(pairs), fontsize=9)
        left = min(0.0, *(axes.get_xlim()[0] for axes in grid))
        for axes in grid:
            axes.set_xlim(left - 0.05, 1.05)
        handles, labels = grid[0].get_legend_handles_labels()
        canvas.legend(handles, labels, fontsize=9, loc="outside upper center", ncols=2)
    return Figure(
        "decay", canvas,
        "Spearman correlation of influence with retraining for the test point of highest loss, with weight decay and "
        "without. Means over seeds, 95 % intervals (thesis fig. 3.5, table 3.1).",
        "; ".join(said) + ".",
    )  # fmt: skip


def _factors(study: Study) -> Figure | None:
    """Correlation against the factor of weight decay, for either test point (fig. 3.5 c)."""
    cnn = [(s, r) for s, r in study.outcomes if s.model == "small_cnn" and s.l2]
    factors = sorted({s.l2 for s, _ in cnn})
    if len(factors) < 3:
        return None
    canvas, axes = new_figure(width=5.6, height=3.6)
    said = []
    with figure_style():
        for test, label in enumerate(("highest loss", "median loss")):
            got = [_mean([r.correlation(test=test) for s, r in cnn if s.l2 == factor]) for factor in factors]
            _errorbars(axes, [f * (1 + 0.06 * test) for f in factors], got, label, COLOURS[test], "os"[test])
            said.append(f"{label}: " + ", ".join(f"{f:g}: {e}" for f, e in zip(factors, got, strict=True)))
        axes.set(xscale="log", xlabel="factor of weight decay", ylabel="Spearman with retraining")
        axes.set(ylim=(min(0.0, axes.get_ylim()[0]), 1.05))
        axes.legend(fontsize=9, loc="lower left", title="test point of")
    return Figure(
        "factors", canvas,
        "Spearman correlation of influence with retraining over the most influential points, small CNN, against the "
        "factor of weight decay. Means over seeds, 95 % intervals (thesis fig. 3.5 c).",
        "; ".join(said) + ".",
    )  # fmt: skip


def _norms(study: Study) -> Figure | None:
    """Predicted against retrained length of the parameters' change (fig. 3.3 a and b)."""
    nets = [(s, r) for s, r in study.outcomes if r.norm and _option(s, "depth") == 1 and _option(s, "width") == 5]
    if len({bool(s.l2) for s, _ in nets}) < 2:
        return None
    canvas, grid = new_figure(columns=2, width=7.4, height=3.6)
    said = []
    with figure_style():
        for axes, decayed in zip(grid, (True, False), strict=True):
            for colour, activation in zip(COLOURS, sorted({_option(s, "activation") for s, _ in nets}), strict=False):
                rows = [r for s, r in nets if bool(s.l2) == decayed and _option(s, "activation") == activation]
                guess = np.concatenate([r.pairs("norm", 0, "top")[0] for r in rows]) if rows else np.array([])
                truth = np.concatenate([r.pairs("norm", 0, "top")[1] for r in rows]) if rows else np.array([])
                sound = (guess > 0) & (truth > 0)
                if not sound.any():
                    continue
                axes.plot(truth[sound], guess[sound], "o", markersize=4, alpha=0.7, color=colour, label=activation)
                ratio = float(np.median(guess[sound] / truth[sound]))
                said.append(f"{activation}, {'decay' if decayed else 'no decay'}: median ratio {ratio:.2g}")
            ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
            ends[0] = max(ends[0], 1e-3)
            axes.plot(ends, ends, "--", linewidth=1, color="#555555")
            axes.set(xscale="log", yscale="log", xlabel="length by retraining",
                     title="weight decay" if decayed else "no weight decay")  # fmt: skip
        grid[0].set_ylabel("length by influence")
        grid[0].legend(fontsize=9)
    return Figure(
        "norms", canvas,
        "Length of the parameters' change on removing one of the most influential points, by influence and by "
        "retraining; equal on the dashed line (thesis fig. 3.3 a and b). Width 5, depth 1, all seeds. Upright "
        "strips are seeds where training on moves the parameters by as much whichever point is left out.",
        "; ".join(said) + ".",
    )  # fmt: skip


def _errorbars(axes: Any, x: Any, estimates: Any, label: str, colour: str, mark: str) -> None:
    points = [(at, e) for at, e in zip(x, estimates, strict=True) if e is not None]
    if points:
        spread = [[e.value - e.low for _, e in points], [e.high - e.value for _, e in points]]
        axes.errorbar(
            [at for at, _ in points], [e.value for _, e in points], yerr=spread, marker=mark, markersize=5, capsize=3,
            color=colour, label=label, linewidth=1.5,
        )  # fmt: skip


def _measured(setting: StudySetting, row: StudyRow) -> list[tuple[Quantity, int, Subset]]:
    quantities: list[Quantity] = ["influence"]
    quantities += ["stochastic"] if row.stochastic else []
    quantities += ["norm"] if row.norm else []
    subsets: list[Subset] = ["top", "low"] if setting.low else ["top"]
    return [(q, test, subset) for q in quantities for test in range(len(row.tests)) for subset in subsets]


def _relative_error(row: StudyRow, quantity: Quantity, test: int, subset: Subset) -> float | None:
    from pellucid.core.statistics import relative_error

    try:
        return relative_error(*row.pairs(quantity, test, subset))
    except DataError:  # truth is all zeros
        return None


def _by_label(study: Study) -> dict[str, Outcomes]:
    found: dict[str, Outcomes] = {}
    for setting, row in study.outcomes:
        found.setdefault(setting.label, []).append((setting, row))
    return found


def _mean(estimates: list[Estimate | None], seed: int = 0) -> Estimate | None:
    """The mean over seeds with its interval; of one seed its own interval over points."""
    known = [e for e in estimates if e is not None]
    if len(known) == 1:
        return known[0]
    return bootstrap_mean([e.value for e in known], seed) if known else None


def _text(estimates: list[Estimate | None], seed: int) -> str | None:
    mean = _mean(estimates, seed)
    return None if mean is None else str(mean)


def _option(setting: StudySetting, name: str) -> Any:
    return dict(setting.options).get(name)
