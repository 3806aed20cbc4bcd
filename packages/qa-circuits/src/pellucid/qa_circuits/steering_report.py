"""What `pellucid circuits steer` writes: how often answers come from the context, steered in each way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.report import COLOURS, Figure, Report, Section, Table, new_figure

from .compare import read_circuits
from .extract import split_by_subject
from .faithfulness import Faithfulness, conflict_of, faithfulness
from .steering import Method, Steering
from .upweighting import top_layers

if TYPE_CHECKING:
    from pellucid.core.loading import ModelSpec

    from .attention_rows import Head
    from .probes import Probe
    from .prompts import Style

_NAMES = {
    "plain": "plain prompt",
    "attributed": "attributions in the prompt",
    "upweighted": "attention up-weighted",
    "zeroed": "memory's MLPs zeroed",
    "mean_ablated": "memory's MLPs mean-ablated",
    "context_aware": "context-aware decoding",
}


def steering_of(head: "Head | None", circuit: Path | None, memory: Path | None, mlps: int, beta: float) -> Steering:
    """What the methods need, from the folders of two extractions.

    Args:
        head: that attributes.
        circuit: `extract`'s folder for the context's circuit, whose three top attention layers are up-weighted.
        memory: `extract`'s folder for the memory's circuit, whose first MLPs are ablated.
        mlps: how many of them.
        beta: of up-weighting.

    Raises:
        DataError: a folder lacks attention layers, or MLPs.
    """
    layers: tuple[int, ...] = ()
    if circuit is not None:
        found = read_circuits(circuit).circuits
        members = found.get("attention") or found.get("head")
        if not members:
            raise DataError(f"{circuit} has no attention in its circuit: extract with --kinds head,attention,mlp")
        layers = tuple(top_layers(members))
    ablated: tuple[int, ...] = ()
    if memory is not None:
        ablated = tuple(c.layer for c in read_circuits(memory).circuits.get("mlp", ())[:mlps])
        if not ablated:
            raise DataError(f"{memory} has no MLPs in its circuit: extract with --kinds head,attention,mlp")
    return Steering(head=head, layers=layers, mlps=ablated, beta=beta)


def steering_report(
    spec: "ModelSpec",
    probes: "Sequence[Probe]",
    steering: Steering,
    methods: Sequence[Method],
    style: "Style",
    seed: int,
    out: Path,
    running: Mapping[str, Any],
) -> Report:
    """Steer on probes, as a sweep; means are taken over one part of the subjects, the rest is reported."""
    reference: list[Probe] = []
    measured = list(probes)
    if "mean_ablated" in methods:
        reference, measured = split_by_subject(probes, seed)
        reference = reference[:32]
    found = faithfulness(
        spec,
        [conflict_of(probe) for probe in measured],
        out / "ledger",
        steering=steering,
        methods=methods,
        reference=[conflict_of(probe) for probe in reference],
        style=style,
        seed=seed,
        **running,
    )
    plain, others = found.methods[0], found.methods[1:]
    rest = "; ".join(f"{_NAMES[m.method]} {m.context} (gain {m.gain})" for m in others)
    summary = (
        f"Of {len(found.conflicts)} questions {plain.context} are answered from the context and {plain.memory} from "
        f"memory with a plain prompt. From the context with: {rest}."
    )
    rows = [
        [
            _NAMES[m.method], m.context.value, m.context.low, m.context.high, m.memory.value,
            m.gain.value, m.gain.low, m.gain.high,
            None if m.switched is None else m.switched.value, None if m.kept is None else m.kept.value,
        ]
        for m in found.methods
    ]  # fmt: skip
    columns = [
        "method", "from the context", "low", "high", "from memory", "gain", "low ", "high ", "switched", "kept",
    ]  # fmt: skip
    return Report(
        title="Keeping a model to its context",
        command="circuits steer",
        config={"model": spec, "steering": steering, "methods": list(methods), "style": style},
        seed=seed,
        device=spec.device or "cpu",
        summary=summary,
        sections=[
            Section(
                "Methods",
                [summary],
                [_figure(found)],
                [
                    Table(
                        "methods",
                        columns,
                        rows,
                        "Share of replies; gain: over the plain prompt, question by question; switched: of the replies "
                        "from memory, those now from the context; kept: of those from the context, those still.",
                    )
                ],
            )
        ],
        results=found.results(),
        notes=found.notes,
    )


def _figure(found: Faithfulness) -> Figure:
    canvas, axes = new_figure(width=7.0, height=0.6 * len(found.methods) + 1.7)
    places = np.arange(len(found.methods))[::-1]
    values = np.array([[m.context.value, m.context.low, m.context.high] for m in found.methods])
    axes.barh(
        places + 0.18,
        values[:, 0],
        xerr=np.abs(values[:, 1:].T - values[:, 0]),
        height=0.34,
        capsize=3,
        color=COLOURS[0],
        label="from the context",
    )
    axes.barh(
        places - 0.18, [m.memory.value for m in found.methods], height=0.34, color=COLOURS[1], label="from memory"
    )
    axes.set_yticks(places, [_NAMES[m.method] for m in found.methods])
    axes.set(xlim=(0, 1.02), xlabel="share of replies", ylim=(-1.1, len(places) - 0.5))
    axes.legend(loc="lower right", ncols=2, fontsize=9)
    listed = "; ".join(f"{_NAMES[m.method]} {m.context.value:.2f} and {m.memory.value:.2f}" for m in found.methods)
    return Figure(
        "methods",
        canvas,
        "Replies from the context (with 95 % intervals) and from memory, a pair of bars a method.",
        listed,
    )
