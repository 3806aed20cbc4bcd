"""The benchmarks run and report what they should, at a size that says nothing about speed."""

import json

import pytest
from pellucid.bench import nodes
from pellucid.bench.circuits import measure
from pellucid.core.assets import resolve_asset
from pellucid.core.cli import main
from pellucid.core.testing import tiny_decoder
from transformers import AutoTokenizer


@pytest.mark.slow
def test_both_ways_agree_and_are_timed(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(resolve_asset("zoo:smollm2"))
    tokenizer.save_pretrained(tmp_path)
    tiny_decoder("llama", vocabulary=len(tokenizer)).save_pretrained(tmp_path)
    found = measure(str(tmp_path), probes=2, threads=1)
    assert found["components"] == 3 * 4 + 3 + 3
    assert found["largest_difference"] < 1e-5
    assert found["ratio"].low <= found["ratio"].value <= found["ratio"].high


@pytest.mark.ray
def test_the_sweeps_command_reports_overheads(tmp_path):
    assert main(["bench", "sweeps", "-n", "40", "--workers", "1", "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "result.json").read_text())["results"]
    assert results["rows_equal"] is True
    assert all(results[name] > 0 for name in ("keys_ms", "inline_ms", "ray_with_start_ms"))


@pytest.mark.ray
def test_nodes_are_measured_by_what_their_cells_say(monkeypatch):
    monkeypatch.setattr(nodes, "LENGTHS", {0.2: 6})
    [row] = nodes.measure_nodes([1])
    assert (row["nodes"], row["cells"]) == (1, 6)
    assert row["seconds"] >= 6 * 0.2
    assert row["efficiency"] == pytest.approx(6 * 0.2 / row["seconds"])
    assert 0 < row["efficiency"] <= 1


@pytest.mark.parametrize("text", ["0", "1,x", ""])
def test_numbers_of_nodes_that_cannot_be(text, tmp_path, capsys):
    assert main(["bench", "sweeps", "--nodes", text, "--out", str(tmp_path / "out")]) == 2
    assert f"--nodes '{text}': " in capsys.readouterr().err
