"""Overlaps by hand, the chance of it by drawing, parts of probes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pellucid.core.errors import DataError
from pellucid.qa_circuits.compare import FoundCircuits, overlaps, parts_by_relation, parts_by_size, read_circuits
from pellucid.qa_circuits.components import Component
from pellucid.qa_circuits.probes import Probe

POOL = [Component("mlp", layer) for layer in range(10)]
PROBE = Probe("a", "q", "x", "y", "c", "m", "k", "l", "capital")


def circuit(*layers: int, falling: bool = False) -> FoundCircuits:
    scores = {c: float(-c.layer if falling else c.layer) for c in POOL}
    return FoundCircuits({"mlp": tuple(POOL[i] for i in layers)}, scores)


def test_an_overlap_by_hand() -> None:
    (found,) = overlaps(circuit(1, 2, 3), circuit(3, 1, 8, 9, falling=True))
    assert (found.sizes, found.pool, found.shared) == ((3, 4), 10, 2)
    assert found.jaccard == 2 / 5
    assert found.common == (POOL[1], POOL[3])
    assert found.agreement == pytest.approx(-1)
    draws = np.random.default_rng(0)
    shared = [len({0, 1, 2} & set(draws.permutation(10)[:4].tolist())) for _ in range(4000)]
    assert found.chance.value == pytest.approx(np.mean(shared), abs=0.05)
    assert (found.chance.low, found.chance.high) == tuple(np.quantile(shared, [0.025, 0.975]))


def test_circuits_of_other_models_are_not_compared() -> None:
    with pytest.raises(DataError, match="of 10 and 9 components"):
        overlaps(circuit(1), replace(circuit(1), effects=dict.fromkeys(POOL[:9], 0.0)))


def test_reading_results(tmp_path: Path) -> None:
    results = {
        "circuit": [{"kind": "mlp", "components": [{"layer": 4, "index": None}]}],
        "effects": [{"kind": "mlp", "layer": i, "index": None, "score": i / 10} for i in range(10)],
    }
    (tmp_path / "result.json").write_text(json.dumps({"results": results}), "utf-8")
    found = read_circuits(tmp_path)
    assert found.circuits == {"mlp": (POOL[4],)}
    assert found.effects[POOL[7]] == 0.7
    with pytest.raises(DataError, match="holds no circuit"):
        read_circuits(tmp_path / "none")


def test_parts() -> None:
    probes = [replace(PROBE, subject=str(i), relation="capital" if i % 3 else "currency") for i in range(40)]
    parts = parts_by_relation(probes)
    assert {name: len(part) for name, part in parts.items()} == {"capital": 26, "currency": 14}
    sizes = parts_by_size(probes)
    assert list(sizes) == ["10 probes", "20 probes", "40 probes"]
    assert set(sizes["10 probes"]) < set(sizes["20 probes"])
    with pytest.raises(DataError, match="1 kinds of facts"):
        parts_by_relation([PROBE] * 20)
    with pytest.raises(DataError, match="15 probes are too few"):
        parts_by_size([PROBE] * 15)
