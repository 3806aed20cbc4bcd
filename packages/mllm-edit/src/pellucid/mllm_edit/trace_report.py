"""The report of MultimodalCausalTrace: where restoring what a clean run computed brings its answer back (6.2.2)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.statistics import bootstrap_mean

from .figures import Panel, trace_figure
from .questions import VisualQuestion
from .text_backbone import Depths, depths
from .trace_jobs import RANDOM, TraceJob, TraceRow, mean_effects, phrases_of, trace_sweep
from .tracing import KINDS, Kind


def trace_report(
    spec: ModelSpec,
    questions: Sequence[VisualQuestion],
    out: Path,
    seed: int,
    *,
    corruption: str = "phrase",
    window: int = 0,
    words: bool = False,
    own: bool = False,
    running: Running,
) -> Report:
    """Trace questions, and average effects by token group and layer.

    Args:
        spec: the model.
        questions: with a visual constraint each.
        out: for the ledger.
        seed: of intervals.
        corruption: `phrase` or `noise` (see `TraceJob`).
        window: of layers; 0 for the thesis's.
        words: trace the same questions with the entity in words, too (6.3.1).
        own: follow the model's own answers rather than the first right one.
        running: how the sweep runs.

    Raises:
        DataError: no question could be traced.
    """
    job = TraceJob(spec.resolved(), corruption, "picture", window, phrases=phrases_of(questions))  # type: ignore[arg-type]
    rows = _rows(job, questions, own, out / "ledger", running)
    panels = [_panel(rows, kind, f"{_NAMES[kind]}, asked with the picture", seed) for kind in KINDS]
    tables = [_table(rows, kind, kind, seed) for kind in KINDS]
    results: dict[str, Any] = {"questions": len(rows), **_totals(rows, seed)}
    results["effects"] = {kind: mean_effects(rows, kind, seed) for kind in KINDS}
    best = {kind: _best(rows, kind, seed) for kind in KINDS}
    results["best"] = best
    summary = (
        f"{len(rows)} questions of {spec.name}: with the constraint in other words the answer's probability falls from "
        f"{results['clean']} to {results['corrupted']}. MLPs bring most of it back at {_said(best['mlp'])}, attention "
        f"at {_said(best['attention'])}."
    )
    text = [summary]
    if words:
        named = [one for one in questions if one.entity]
        if not named:
            raise DataError("no question says what its picture shows (`entity`), so none can be asked in words")
        both = _rows(replace(job, asked="words"), named, own, out / "ledger-words", running)
        panels += [_panel(both, kind, f"{_NAMES[kind]}, the entity in words", seed) for kind in KINDS]
        tables += [_table(both, kind, f"{kind}-words", seed) for kind in KINDS]
        compared = _compared(rows, both, questions, named, seed)
        results["words"] = {
            "questions": len(both),
            **_totals(both, seed),
            "effects": {kind: mean_effects(both, kind, seed) for kind in KINDS},
            "depth": compared,
        }
        text.append(
            f"Asked with the entity in words, the constraint's MLPs work most at layer {compared.words}, with the "
            f"picture at {compared.pictures}: a difference of {compared.later} layers."
        )
    figure = Figure(
        "trace",
        trace_figure(panels),
        "Mean indirect estimation effect of restoring a window of layers, for each group of tokens.",
        f"Heat maps of token groups by layers; the strongest is {_said(best['mlp'])} for MLPs.",
    )
    return Report(
        title=f"Where {spec.name} keeps what it is asked",
        command="mllm trace",
        config={"model": spec.name, "questions": len(questions), "corruption": corruption, "window": window,
                "words": words, "own": own},
        seed=seed,
        device=spec.device or "cpu",
        summary=summary,
        sections=[Section("Trace", text, [figure], tables)],
        results=results,
    )  # fmt: skip


_NAMES = {"mlp": "MLP", "attention": "attention"}


def _rows(
    job: TraceJob, questions: Sequence[VisualQuestion], own: bool, ledger: Path, running: Running
) -> list[TraceRow]:
    answers = None if own else [one.answers[0] for one in questions]
    sweep = trace_sweep(job, questions, answers, cpus=running.cpus, gpus=running.gpus)
    summary = sweep.run(ledger, running.workers, address=running.address)
    if summary.failed:
        cell, text = sweep.failures(ledger)[0]
        reason = text.strip().splitlines()[-1].partition("Error: ")[2]
        raise DataError(f"{cell.question.question!r} ({summary.failed} such) could not be traced: {reason}")
    return list(sweep.rows(ledger))


def _totals(rows: Sequence[TraceRow], seed: int) -> dict[str, Any]:
    clean, corrupted = ([getattr(row, name) for row in rows] for name in ("clean", "corrupted"))
    return {"clean": bootstrap_mean(clean, seed), "corrupted": bootstrap_mean(corrupted, seed)}


def _panel(rows: Sequence[TraceRow], kind: Kind, title: str, seed: int) -> Panel:
    found = mean_effects(rows, kind, seed)
    return Panel(title, tuple(found), np.array([one.value for one in found.values()]))


def _table(rows: Sequence[TraceRow], kind: Kind, name: str, seed: int) -> Table:
    lines: list[list[Any]] = []
    for group, effects in mean_effects(rows, kind, seed).items():
        for layer in range(len(effects)):
            lines.append([group, layer, effects.value[layer], effects.low[layer], effects.high[layer]])
    return Table(name, ["tokens", "layer", "effect", "low", "high"], lines, f"{_NAMES[kind]} outputs restored.")


def _best(rows: Sequence[TraceRow], kind: Kind, seed: int) -> dict[str, Any]:
    """The group and layer of the largest mean effect; random tokens stand beside it, not among it."""
    found = mean_effects(rows, kind, seed)
    random = found.get(RANDOM)
    group = max((name for name in found if name != RANDOM), key=lambda name: float(np.max(found[name].value)))
    layer = int(np.argmax(found[group].value))
    beside = None if random is None else float(np.max(random.value))
    one = found[group]
    return {"tokens": group, "layer": layer, "effect": float(one.value[layer]), "low": float(one.low[layer]),
            "high": float(one.high[layer]), "random_tokens": beside}  # fmt: skip


def _said(best: dict[str, Any]) -> str:
    return f"the {best['tokens']}, layer {best['layer']} ({best['effect']:.2f} [{best['low']:.2f}, {best['high']:.2f}])"


def _compared(
    pictures: Sequence[TraceRow],
    words: Sequence[TraceRow],
    asked: Sequence[VisualQuestion],
    named: Sequence[VisualQuestion],
    seed: int,
) -> Depths:
    """At which layer MLPs on the constraint work most, asked both ways."""
    kept = [row for row, one in zip(pictures, asked, strict=True) if one in set(named)]
    pairs = [
        (first.effects("mlp")["visual constraint"], second.effects("mlp")["visual constraint"])
        for first, second in zip(kept, words, strict=True)
    ]
    return depths(np.array([one for one, _ in pairs]), np.array([other for _, other in pairs]), seed)
