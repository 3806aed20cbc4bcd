"""What `pellucid circuits validate` writes: answers with a circuit cut off, beside as many random components."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.errors import DataError, OptionError
from pellucid.core.report import COLOURS, Figure, Report, Section, Table, new_figure

from .compare import read_circuits
from .components import KINDS, Component, Kind
from .figures import NAMES
from .validate import Validation, validate

if TYPE_CHECKING:
    from pellucid.core.loading import ModelSpec

    from .prompts import Style
    from .qa_data import QAExample

_ARMS = (("nothing", "nothing"), ("random components", "with_random"), ("the circuit", "with_circuit"))


def members_of(circuit: Path, kind: str) -> tuple[Component, ...]:
    """One kind's components of a circuit that `extract` wrote.

    Raises:
        OptionError: there is no such kind.
        DataError: the circuit has none of it.
    """
    if kind not in KINDS:
        raise OptionError(f"no component kind {kind!r}: choose from {', '.join(KINDS)}")
    found = read_circuits(circuit).circuits
    chosen: Kind = next(one for one in KINDS if one == kind)
    if not found.get(chosen):
        raise DataError(f"{circuit} has no {NAMES[chosen]} in its circuit: extract with --kinds {kind}")
    return tuple(found[chosen])


def validation_report(
    spec: "ModelSpec",
    circuit: Sequence[Component],
    examples: "Sequence[QAExample]",
    file: str,
    draws: int,
    style: "Style",
    seed: int,
    out: Path,
    running: Mapping[str, Any],
) -> Report:
    """Ablate a circuit's edges to the logits on questions, as a sweep (thesis 8.3.3, fig. 8.4)."""
    found = validate(spec, circuit, examples, out / "ledger", draws=draws, style=style, seed=seed, **running)
    summary = (
        f"Of {len(found.examples)} questions the model answers {found.nothing.exact} exactly; without the direct edges "
        f"of the circuit's {len(found.circuit)} components {found.with_circuit.exact}, without those of as many random "
        f"ones {found.with_random.exact} (difference {found.difference.exact}, paired)."
    )
    rows = []
    for name, field in _ARMS:
        score = getattr(found, field)
        exact, f1 = score.exact, score.f1
        rows.append([name, exact.value, exact.low, exact.high, f1.value, f1.low, f1.high])
    shown = [[e.question, *replies] for e, replies in zip(found.examples, found.replies, strict=True)]
    return Report(
        title="Answers with a circuit cut off",
        command="circuits validate",
        config={"model": spec, "circuit": [str(c) for c in found.circuit], "file": file, "draws": draws},
        seed=seed,
        device=spec.device or "cpu",
        summary=summary,
        sections=[
            Section(
                "Ablation",
                [summary],
                [_figure(found)],
                [
                    Table(
                        "ablation",
                        ["ablated", "exact match", "low", "high", "F1", "low ", "high "],
                        rows,
                        f"Means over questions with 95 % intervals; of the random components over {draws} draws.",
                    ),
                    Table(
                        "replies",
                        ["question", "nothing ablated", "the circuit", "a random draw"],
                        shown,
                        "What the model replied.",
                    ),
                ],
            )
        ],
        results=found.results(),
        notes=found.notes,
    )


def _figure(found: Validation) -> Figure:
    canvas, axes = new_figure(width=6.0, height=3.6)
    scores = [getattr(found, field) for _, field in _ARMS]
    places = np.arange(len(_ARMS))
    for shift, label, field, colour in ((-0.18, "exact match", "exact", COLOURS[0]), (0.18, "F1", "f1", COLOURS[1])):
        values = np.array([[getattr(s, field).value, getattr(s, field).low, getattr(s, field).high] for s in scores])
        spread = np.abs(values[:, 1:].T - values[:, 0])
        axes.bar(places + shift, values[:, 0], yerr=spread, width=0.34, capsize=3, color=colour, label=label)
    axes.set_xticks(places, [name for name, _ in _ARMS])
    axes.set(ylim=(0, 1.05), ylabel="share")
    axes.legend(loc="upper right", fontsize=9)
    listed = "; ".join(f"{name}: {s.exact.value:.2f}" for (name, _), s in zip(_ARMS, scores, strict=True))
    return Figure("ablation", canvas, "Answers by what is cut off from the logits, with 95 % intervals.", listed)
