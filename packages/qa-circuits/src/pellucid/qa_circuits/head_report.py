"""What `pellucid circuits heads` and `evaluate` write: how heads look at contexts, and how often methods are right."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.loading import load
from pellucid.core.outfolder import RESULT
from pellucid.core.report import COLOURS, Figure, Report, Section, Table, new_figure

from .attribution_study import SourceJob, SourceStudy, compare_sources
from .components import all_components
from .evaluation_sets import EvaluationSet
from .extract import split_by_subject
from .heads import Choice, HeadStatistics, HeadSummary, choose_head, head_statistics
from .probes import read_probes
from .prompts import Style
from .registry import HeadFile, write_heads

if TYPE_CHECKING:
    from pellucid.core.loading import ModelSpec

    from .attention_rows import Head

HEADS = "heads.json"
_NAMES = {
    "attention": "one attention head (AttnAttrib)",
    "self": "self-attribution",
    "iterative": "iterative prompt",
    "similarity": "sentence similarity",
    "gradient": "gradient",
}


def circuit_heads(folder: Path) -> list["Head"]:
    """The heads of a circuit that `pellucid circuits extract` wrote, most important first.

    Raises:
        DataError: the folder has no such result.
    """
    try:
        found = json.loads((folder / RESULT).read_text("utf-8"))["results"]["circuit"]
        (heads,) = [entry["components"] for entry in found if entry["kind"] == "head"]
        return [(int(one["layer"]), int(one["index"])) for one in heads]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no circuit of heads ({error}): give the --out of `pellucid circuits extract`"
        ) from error


def heads_report(
    spec: "ModelSpec", probes: Path, circuit: Path | None, by: str, style: Style, seed: int, out: Path
) -> Report:
    """Measure heads on probes, choose one on half of the subjects, report it on the other, and write `heads.json`."""
    known = read_probes(probes)
    members = None if circuit is None else circuit_heads(circuit)
    loaded = load(spec)
    config = loaded.model.config
    every = all_components(config.num_hidden_layers, config.num_attention_heads, ["head"])
    heads = members if members is not None else [(c.layer, cast(int, c.index)) for c in every]
    choosing, reporting = split_by_subject(known, seed)
    if not choosing or not reporting:
        raise DataError(f"{probes} has probes of one subject only: give some of two or more, to choose and to report")
    chosen = choose_head(head_statistics(loaded.model, loaded.tokenizer, choosing, heads, style), cast(Choice, by))
    found = head_statistics(loaded.model, loaded.tokenizer, reporting, heads, style)
    table = found.summary(seed)
    own = table[heads.index(chosen)]
    source = f"{len(choosing)} probes of {probes.name}, seed {seed}, by {by}"
    write_heads(out / HEADS, HeadFile(spec.name, chosen, tuple(heads), source))
    best = max(table, key=lambda s: (s.sentence.value, s.token.value))
    among = "the circuit's" if circuit is not None else "all"
    summary = (
        f"Head {chosen[0]}.{chosen[1]}, of {among} {len(heads)} heads the choice by {by} on {len(choosing)} probes, "
        f"looks most at the sentence with the answer in {own.sentence} of {len(reporting)} others (chance "
        f"{found.sentence_chance.mean():.3f}), at the answer itself in {own.token} ({found.token_chance.mean():.3f}). "
        f"The most accurate there is {best.head[0]}.{best.head[1]} with {best.sentence}."
    )
    rows = [
        [f"{s.head[0]}.{s.head[1]}", s.entropy.value, s.sentence.value, s.sentence.low, s.sentence.high, s.token.value]
        for s in sorted(table, key=lambda s: s.entropy.value)
    ]
    columns = ["head", "entropy, nats", "sentence right", "low", "high", "token right"]
    return Report(
        title="Which head tells where an answer comes from",
        command="circuits heads",
        config={"model": spec, "probes": str(probes), "circuit": None if circuit is None else str(circuit), "by": by},
        seed=seed,
        device=spec.device or "cpu",
        summary=summary,
        sections=[
            Section(
                "Heads",
                [summary],
                [entropy_figure(table, found, chosen)],
                [Table("heads", columns, rows, "Every head on the reporting probes, lowest entropy first.")],
            )
        ],
        results={
            "head": list(chosen),
            "by": by,
            "chose_on": len(choosing),
            "reported_on": len(reporting),
            "chosen": own,
            "sentence_chance": float(found.sentence_chance.mean()),
            "token_chance": float(found.token_chance.mean()),
            "heads": table,
        },
    )


def entropy_figure(table: Sequence[HeadSummary], found: HeadStatistics, chosen: "Head") -> Figure:
    """Entropy against accuracy, a point a head (as fig. 8.3 and 11.10)."""
    canvas, axes = new_figure(width=7.0, height=4.2)
    axes.scatter([s.entropy.value for s in table], [s.sentence.value for s in table], s=18, color=COLOURS[0], alpha=0.6)
    own = next(s for s in table if s.head == chosen)
    axes.plot(own.entropy.value, own.sentence.value, "o", markersize=12, markerfacecolor="none", color=COLOURS[6])
    for s in sorted(table, key=lambda s: -s.sentence.value)[:5]:
        axes.annotate(
            f"{s.head[0]}.{s.head[1]}", (s.entropy.value, s.sentence.value), xytext=(4, 4), textcoords="offset points"
        )
    axes.axhline(found.sentence_chance.mean(), linestyle=":", linewidth=1, color="#555555", label="a random sentence")
    axes.set(xlabel="entropy over the context, nats", ylabel="sentence right", ylim=(-0.03, 1.1))
    axes.legend(loc="center right", fontsize=9)
    return Figure(
        "entropy",
        canvas,
        "Each head's mean entropy over the context, and how often the sentence that it looks at most holds the answer. "
        "The ring marks the head chosen; the five most accurate ones are named.",
        f"Scatter of {len(table)} heads; head {chosen[0]}.{chosen[1]} has entropy {own.entropy.value:.2f} and is right "
        f"in {own.sentence.value:.2f}.",
    )


def evaluation_report(
    job: SourceJob, questions: EvaluationSet, file: str, seed: int, out: Path, running: Mapping[str, Any]
) -> Report:
    """Compare methods on questions, as a sweep whose finished cells stay in `out / "ledger"`."""
    found = compare_sources(job, questions.items, out / "ledger", seed=seed, **running)
    notes = list(found.notes)
    if questions.left_out:
        notes.append(f"{questions.left_out} questions are left out: no answer of theirs stands in their context")
    first, others = found.methods[0], found.methods[1:]
    rest = "; ".join(f"{_NAMES[m.method]} {m.accuracy}" for m in others)
    summary = (
        f"Head {job.head[0]}.{job.head[1]} names the right place for {first.accuracy} of {found.questions} questions "
        f"(a random one: {found.chance}){'; ' + rest if rest else ''}. {found.faithful} of the replies are right."
    )
    text = [summary]
    if found.rel is not None and found.rel_random is not None:
        text.append(
            f"Without the place that the head names, the reply's log-probability changes by {found.rel} of itself; "
            f"without a random one by {found.rel_random} (eq. 11.18)."
        )
    rows = [[_NAMES[m.method], *_three(m.accuracy), *_three(m.behind), m.seconds.value] for m in found.methods]
    columns = [
        "method", "right", "low", "high", "the head is ahead by", "low ", "high ", "seconds a question",
    ]  # fmt: skip
    return Report(
        title="Where answers come from: methods compared",
        command="circuits evaluate",
        config={"job": job, "questions": questions.name, "file": file},
        seed=seed,
        device=job.model.device or "cpu",
        summary=summary,
        sections=[
            Section(
                "Methods",
                text,
                [accuracy_figure(found)],
                [
                    Table(
                        "methods",
                        columns,
                        rows,
                        "Share of questions whose best place gives the answer. The head's seconds include generating "
                        "the answer, the others' come on top of that.",
                    )
                ],
            )
        ],
        results=found,
        notes=notes,
    )


def accuracy_figure(found: SourceStudy) -> Figure:
    """Bars of accuracy with intervals (as fig. 8.5)."""
    canvas, axes = new_figure(width=7.0, height=0.6 * len(found.methods) + 1.6)
    values = np.array([_three(m.accuracy) for m in found.methods])
    places = np.arange(len(values))[::-1]
    spread = np.abs(values[:, 1:].T - values[:, 0])
    colours = [COLOURS[1] if m.method == "attention" else COLOURS[0] for m in found.methods]
    axes.barh(places, values[:, 0], xerr=spread, color=colours, height=0.6, capsize=3)
    axes.set_yticks(places, [_NAMES[m.method] for m in found.methods])
    axes.axvline(found.chance.value, linestyle=":", linewidth=1, color="#555555", label="a random place")
    axes.set(xlim=(0, 1.02), xlabel="right", ylim=(-0.9, len(values) - 0.5))
    axes.legend(loc="lower left", fontsize=9)
    listed = "; ".join(f"{_NAMES[m.method]} {m.accuracy.value:.2f}" for m in found.methods)
    return Figure("accuracy", canvas, "How often the best place gives the answer; lines are 95 % intervals.", listed)


def _three(estimate: Any) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]
