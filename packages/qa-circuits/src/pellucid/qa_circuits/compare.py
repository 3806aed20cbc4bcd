"""How alike two circuits are: components shared, beside what chance would share (thesis 8.3.3, 11.7.7)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.outfolder import RESULT
from pellucid.core.statistics import Estimate
from scipy.stats import hypergeom, spearmanr

from .components import KINDS, Component, Kind
from .probes import Probe

FEWEST = 8  # probes of a part that gets a circuit of its own


@dataclass(frozen=True)
class FoundCircuits:
    """What one extraction found.

    Attributes:
        circuits: of each kind its components, most important first.
        effects: of each component its score when it is patched alone.
    """

    circuits: Mapping[Kind, tuple[Component, ...]]
    effects: Mapping[Component, float]


@dataclass(frozen=True)
class Overlap:
    """Two circuits of one kind side by side.

    Attributes:
        kind: heads, attention layers or MLPs.
        sizes: components of each; `pool`: of the whole model.
        shared: how many are in both; `jaccard`: these by those in either.
        chance: of two random circuits of these sizes, how many are shared, with the range of 95 % of them.
        agreement: Spearman correlation of all components' scores.
        common: the components in both, in the first one's order.
    """

    kind: Kind
    sizes: tuple[int, int]
    pool: int
    shared: int
    jaccard: float
    chance: Estimate
    agreement: float
    common: tuple[Component, ...]


def read_circuits(folder: Path) -> FoundCircuits:
    """Read what `pellucid circuits extract` left in its folder.

    Raises:
        DataError: there is no such result.
    """
    try:
        return as_found(json.loads((folder / RESULT).read_text("utf-8"))["results"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no circuit ({type(error).__name__}: {error}): "
            "give the --out of `pellucid circuits extract`"
        ) from error


def overlaps(one: FoundCircuits, other: FoundCircuits) -> list[Overlap]:
    """Compare two extractions of one model, kind by kind.

    Raises:
        DataError: they are of models of different size, or have no kind in common.
    """
    if one.effects.keys() != other.effects.keys():
        raise DataError(
            f"the circuits are of {len(one.effects)} and {len(other.effects)} components: compare extractions of one "
            "model and of the same kinds"
        )
    found = []
    for kind in KINDS:
        if kind in one.circuits and kind in other.circuits:
            pool = [component for component in one.effects if component.kind == kind]
            found.append(_overlap(kind, pool, one, other))
    return found


def _overlap(kind: Kind, pool: Sequence[Component], one: FoundCircuits, other: FoundCircuits) -> Overlap:
    first, second = one.circuits[kind], other.circuits[kind]
    common = tuple(component for component in first if component in set(second))
    low, high = hypergeom.ppf([0.025, 0.975], len(pool), len(first), len(second))
    agreement = spearmanr([one.effects[c] for c in pool], [other.effects[c] for c in pool]).statistic
    return Overlap(
        kind,
        (len(first), len(second)),
        len(pool),
        len(common),
        len(common) / len(set(first) | set(second)),
        Estimate(len(first) * len(second) / len(pool), float(low), float(high)),
        float(agreement) if np.isfinite(agreement) else 0.0,
        common,
    )


def parts_by_relation(probes: Sequence[Probe]) -> dict[str, list[Probe]]:
    """Probes by knowledge partition: the kind of fact; kinds with fewer than `FEWEST` probes are left out.

    Raises:
        DataError: fewer than two parts are left.
    """
    parts: dict[str, list[Probe]] = {}
    for probe in probes:
        parts.setdefault(probe.relation or "(none)", []).append(probe)
    kept = {name: part for name, part in sorted(parts.items()) if len(part) >= FEWEST}
    if len(kept) < 2:
        raise DataError(
            f"there are {len(kept)} kinds of facts with {FEWEST} probes or more: give probes of two or more"
        )
    return kept


def parts_by_size(probes: Sequence[Probe], seed: int = 0) -> dict[str, list[Probe]]:
    """Growing parts of the probes, each holding the one before: an eighth, a quarter, a half, all (11.7.7).

    Raises:
        DataError: half of the probes are too few for a circuit.
    """
    order = [probes[i] for i in np.random.default_rng(seed).permutation(len(probes))]
    sizes = [len(order) // share for share in (8, 4, 2, 1) if len(order) // share >= FEWEST]
    if len(sizes) < 2:
        raise DataError(f"{len(order)} probes are too few to compare sizes: give {2 * FEWEST} or more")
    return {f"{size} probes": order[:size] for size in sizes}


def as_found(results: Mapping[str, Any]) -> FoundCircuits:
    """The circuits in `Extraction.results()`."""
    return FoundCircuits(
        {
            entry["kind"]: tuple(Component(entry["kind"], c["layer"], c["index"]) for c in entry["components"])
            for entry in results["circuit"]
        },
        {Component(e["kind"], e["layer"], e["index"]): float(e["score"]) for e in results["effects"]},
    )
