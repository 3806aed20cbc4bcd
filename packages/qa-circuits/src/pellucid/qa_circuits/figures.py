"""Pictures and words for an extraction: where the effects sit, and how few components carry the answer."""

import numpy as np
from pellucid.core.report import COLOURS, Figure, Report, Section, Table, new_figure

from .extract import Circuit, Extraction

NAMES = {"head": "heads", "attention": "attention layers", "mlp": "MLPs"}


def extraction_report(found: Extraction, probes: str, seed: int, workers: int) -> Report:
    """An extraction as the report that `pellucid circuits extract` writes."""
    return Report(
        title="A context-faithfulness circuit",
        command="circuits extract",
        config={
            "model": found.model,
            "probes": probes,
            "delta": found.delta,
            "definition": found.definition,
            "workers": workers,
        },
        seed=seed,
        device=found.model.device or "cpu",
        sections=[extraction_section(found)],
        results=found.results(),
        summary=summary(found),
        notes=found.notes,
    )


def extraction_section(found: Extraction, title: str = "The circuit") -> Section:
    """An extraction as a section of a report: sentences, heat map, curves, tables."""
    figures = [_heat_map(found)] if any(c.kind == "head" for c in found.components) else []
    if found.circuits:
        figures.append(_curves(found))
    return Section(title, _sentences(found), figures, [_circuit_table(found), _effects_table(found)])


def summary(found: Extraction) -> str:
    """The finding in one sentence."""
    best = found.circuits[0]
    reach = "reach" if best.reached else "do not reach"
    return (
        f"{len(best.components)} of {_count(found, best.kind)} {NAMES[best.kind]} patched together take the chance of "
        f"a wrong answer from {found.floor} to {best.score} on held-out probes ({reach} {found.delta} on those that "
        f"ranked them); equally many random ones to {best.random_score}."
    )


def _sentences(found: Extraction) -> list[str]:
    what = {
        "direct": "all other components held at their clean values",
        "through_mlps": "attention held at its clean values, later MLPs recomputed",
    }[found.definition]
    text = [
        f"The model answers {found.kept} of {found.offered} probes from the context that it is given, where the true "
        f"answer was swapped for another. Components were ranked on {found.ranked_on} of these and are reported on the "
        f"{found.held_out} others, which are about other subjects. Brackets hold 95 % bootstrap intervals over probes.",
        "A component's score is the chance of a wrong answer, 1 - P(answer), after its output where the answer is said "
        f"is replaced by its output on a corrupted prompt, with {what}. With nothing patched it is {found.floor}; on "
        f"the corrupted prompt itself {found.corrupted}.",
    ]
    for c in found.circuits:
        name, total, size = NAMES[c.kind], _count(found, c.kind), len(c.components)
        listed = [str(m).removeprefix("head ").removeprefix(f"{c.kind} ") for m in c.components]
        members = ", ".join(listed[:12]) + (f" and {size - 12} more" if size > 12 else "")
        outcome = (
            f"{size} of {total} reach {found.delta} on the ranking half"
            if c.reached
            else f"no number of them reaches {found.delta} on the ranking half, {size} of {total} come nearest"
        )
        text.append(
            f"{name[0].upper()}{name[1:]}: {outcome}. On the held-out half these score {c.score}, equally many random "
            f"ones {c.random_score}. They are {members}."
        )
    if found.peak_memory:
        text.append(f"The largest process held {found.peak_memory / 2**30:.2f} GiB of memory.")
    return text


def _heat_map(found: Extraction) -> Figure:
    table = np.full((found.layers, found.heads), np.nan)
    for component, value in zip(found.components, found.effects.value, strict=True):
        if component.kind == "head":
            table[component.layer, component.index] = value - found.floor.value
    limit = float(np.abs(table).max()) or 1.0
    canvas, axes = new_figure(width=max(7.0, 0.2 * found.heads + 2), height=max(3.0, 0.13 * found.layers + 1.2))
    image = axes.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    axes.set(xlabel="head", ylabel="layer", title="Direct effect of each head")
    axes.grid(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    canvas.colorbar(image, ax=axes, label="score minus floor")
    heads = [i for i, c in enumerate(found.components) if c.kind == "head"]
    top = sorted(heads, key=lambda i: -found.effects.value[i])[:3]
    named = ", ".join(f"{found.components[i]} ({found.effects.value[i] - found.floor.value:+.3f})" for i in top)
    return Figure(
        "heads",
        canvas,
        "By how much replacing one head's output raises the chance of a wrong answer (mean over held-out probes). "
        "Red heads carry the answer from the context; blue heads work against it.",
        f"Heat map of {found.layers} layers by {found.heads} heads. The largest effects: {named}.",
    )


def _curves(found: Extraction) -> Figure:
    count = len(found.circuits)
    canvas, grid = new_figure(columns=count, width=1.0 + 3.4 * count, height=3.8)
    for axes, circuit in zip(np.atleast_1d(grid), found.circuits, strict=True):
        _curve(axes, found, circuit)
    np.atleast_1d(grid)[0].set_ylabel("score, 1 - P(answer)")
    np.atleast_1d(grid)[0].legend(loc="lower right", fontsize=9)
    ends = "; ".join(
        f"{len(c.components)} {NAMES[c.kind]}: {c.score.value:.2f} against {c.random_score.value:.2f} at random"
        for c in found.circuits
    )
    return Figure(
        "sizes",
        canvas,
        "Score when the top-ranked components are patched together, against equally many random ones (mean of "
        "10 draws). Bands are 95 % intervals over held-out probes; the ring marks the circuit.",
        f"Score against the number of patched components. {ends}.",
    )


def _curve(axes, found: Extraction, circuit: Circuit) -> None:  # type: ignore[no-untyped-def]
    for curve, label, colour in (
        (circuit.curve, "top-ranked", COLOURS[0]),
        (circuit.random_curve, "random", COLOURS[1]),
    ):
        axes.plot(circuit.sizes, curve.value, marker="o", markersize=3, label=label, color=colour)
        axes.fill_between(circuit.sizes, curve.low, curve.high, alpha=0.2, color=colour, linewidth=0)
    axes.plot(
        len(circuit.components), circuit.score.value, "o", markersize=12, markerfacecolor="none", color=COLOURS[6]
    )
    axes.axhline(found.delta, linestyle="--", linewidth=1, color="#555555", label=f"delta = {found.delta}")
    axes.axhline(found.floor.value, linestyle=":", linewidth=1, color="#555555", label="nothing patched")
    axes.set(xscale="log", xlabel=f"{NAMES[circuit.kind]} patched", ylim=(0, 1.02), title=NAMES[circuit.kind])
    shown = [size for size in circuit.sizes if size & (size - 1) == 0]
    axes.set_xticks(shown, [str(size) for size in shown], fontsize=9)
    axes.minorticks_off()


def _circuit_table(found: Extraction) -> Table:
    rows = [[c.kind, place + 1, m.layer, m.index] for c in found.circuits for place, m in enumerate(c.components)]
    return Table("circuit", ["kind", "rank", "layer", "head"], rows, "The circuit's components, most important first.")


def _effects_table(found: Extraction) -> Table:
    effects = found.effects
    rows = [
        [c.kind, c.layer, c.index, float(effects.value[i]), float(effects.low[i]), float(effects.high[i])]
        for i, c in sorted(enumerate(found.components), key=lambda pair: -effects.value[pair[0]])
    ]
    return Table(
        "effects",
        ["kind", "layer", "head", "score", "low", "high"],
        rows,
        f"Score of each component patched alone, highest first; with nothing patched it is {found.floor}.",
    )


def _count(found: Extraction, kind: str) -> int:
    return sum(c.kind == kind for c in found.components)
