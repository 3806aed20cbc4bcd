"""What `pellucid circuits compare` writes: circuits side by side, or one circuit from several parts of the probes."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.errors import OptionError
from pellucid.core.report import Figure, Report, Section, Table, new_figure

from .compare import FoundCircuits, Overlap, as_found, overlaps, parts_by_relation, parts_by_size, read_circuits
from .extract import extract_circuit
from .figures import NAMES

if TYPE_CHECKING:
    from pellucid.core.loading import ModelSpec

    from .components import Kind
    from .probes import Probe
    from .prompts import Style

BY = ("relation", "size")


def folders_report(folders: Sequence[Path]) -> Report:
    """Compare circuits that `extract` found, such as those of context and of memory."""
    if len(folders) < 2:
        raise OptionError("one circuit is nothing to compare: give two folders of `pellucid circuits extract` or more")
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    found = {name: read_circuits(folder) for name, folder in zip(names, folders, strict=True)}
    return _report(found, {"circuits": [str(folder) for folder in folders]}, None, "cpu")


def parts_report(
    spec: "ModelSpec",
    probes: "Sequence[Probe]",
    by: str,
    kinds: "Sequence[Kind]",
    delta: float,
    style: "Style",
    seed: int,
    out: Path,
    running: Mapping[str, Any],
) -> Report:
    """Extract a circuit from each part of the probes, by knowledge partition or of growing size, and compare them."""
    if by not in BY:
        raise OptionError(f"--by {by!r}: choose {' or '.join(BY)}")
    parts = parts_by_relation(probes) if by == "relation" else parts_by_size(probes, seed)
    found = {}
    for place, (name, part) in enumerate(parts.items()):
        folder = out / "ledger" / str(place)
        one = extract_circuit(spec, part, folder, delta=delta, kinds=kinds, style=style, seed=seed, **running)
        found[name] = as_found(one.results())
    return _report(found, {"model": spec, "by": by, "delta": delta}, seed, spec.device or "cpu")


def _report(found: Mapping[str, FoundCircuits], config: Mapping[str, Any], seed: int | None, device: str) -> Report:
    pairs = {(a, b): overlaps(found[a], found[b]) for a, b in itertools.combinations(found, 2)}
    rows, sentences = [], []
    for (a, b), entries in pairs.items():
        for o in entries:
            rows.append(
                [a, b, o.kind, *o.sizes, o.shared, o.jaccard, o.chance.value, o.chance.low, o.chance.high, o.agreement]
            )
            if len(pairs) == 1:
                sentences.append(_sentence(a, b, o))
    kinds = [o.kind for o in next(iter(pairs.values()))]
    means = [np.mean([o.jaccard for entries in pairs.values() for o in entries if o.kind == kind]) for kind in kinds]
    listed = ", ".join(f"{mean:.2f} for {NAMES[kind]}" for kind, mean in zip(kinds, means, strict=True))
    summary = " ".join(sentences) or f"{len(found)} circuits share, on average over pairs, this much of both: {listed}."
    columns = [
        "one", "other", "kind", "size", "other's size", "shared", "shared of both", "by chance", "low", "high",
        "agreement of scores",
    ]  # fmt: skip
    return Report(
        title="Circuits side by side",
        command="circuits compare",
        config=dict(config),
        seed=seed,
        device=device,
        summary=summary,
        sections=[
            Section(
                "Overlap",
                [summary],
                [_figure(list(found), pairs, kind) for kind in kinds],
                [
                    Table(
                        "overlaps",
                        columns,
                        rows,
                        "Components in both circuits; by chance: as many of two random circuits of these sizes, with "
                        "the range of 95 %; agreement: Spearman correlation of all components' scores.",
                    )
                ],
            )
        ],
        results={
            "circuits": {
                name: {kind: [str(c) for c in members] for kind, members in one.circuits.items()}
                for name, one in found.items()
            },
            "overlaps": [
                {"one": a, "other": b, **asdict(o), "common": [str(c) for c in o.common]}
                for (a, b), entries in pairs.items()
                for o in entries
            ],
        },
    )


def _sentence(one: str, other: str, o: Overlap) -> str:
    return (
        f"{one} ({o.sizes[0]}) and {other} ({o.sizes[1]}) share {o.shared} of {o.pool} {NAMES[o.kind]}, where chance "
        f"would give {o.chance.value:.1f} [{o.chance.low:.0f}, {o.chance.high:.0f}]; all scores correlate by "
        f"{o.agreement:.2f}."
    )


def _figure(names: list[str], pairs: Mapping[tuple[str, str], Sequence[Overlap]], kind: "Kind") -> Figure:
    table = np.eye(len(names))
    for (a, b), entries in pairs.items():
        (o,) = [entry for entry in entries if entry.kind == kind]
        table[names.index(a), names.index(b)] = table[names.index(b), names.index(a)] = o.jaccard
    side = 2.6 + 0.55 * len(names)
    canvas, axes = new_figure(width=side + 1.2, height=side)
    image = axes.imshow(table, vmin=0, vmax=1, cmap="Blues")
    places = range(len(names))
    axes.set_xticks(places, names, rotation=40, ha="right")
    axes.set_yticks(places, names)
    axes.grid(False)
    for i, j in itertools.product(places, places):
        axes.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color="white" if table[i, j] > 0.6 else "black")
    axes.set_title(f"{NAMES[kind]}: shared of both")
    canvas.colorbar(image, ax=axes, shrink=0.8)
    listed = "; ".join(f"{a} and {b}: {table[names.index(a), names.index(b)]:.2f}" for a, b in pairs)
    return Figure(f"overlap-{kind}", canvas, f"Share of {NAMES[kind]} in both circuits, of those in either.", listed)
