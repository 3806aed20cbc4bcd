"""Validation: random components of equal number and kind, the sweep on a tiny saved model, the summary by hand."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pellucid.core.errors import DataError, OptionError, SweepError
from pellucid.core.loading import ModelSpec, load
from pellucid.core.testing import tiny_decoder, word_tokenizer
from pellucid.qa_circuits import validate as module
from pellucid.qa_circuits.ablation import ablating, mean_writes
from pellucid.qa_circuits.asking import token_ids
from pellucid.qa_circuits.components import Component, all_components
from pellucid.qa_circuits.probes import Probe
from pellucid.qa_circuits.prompts import complete, first_line, render
from pellucid.qa_circuits.qa_data import QAExample
from pellucid.qa_circuits.validate import ValidationRow, probe_examples, random_like, validate

NAMES = ["Rex", "Tom", "Kit", "Max", "Leo"]
EXAMPLES = [
    QAExample(f"Who owns {n}?", f"Ben owns {n}. " + "Eve sings. " * (i % 3), ("Ben",), "ours")
    for i, n in enumerate(NAMES)
]
REFERENCE = [("Eve owns Eve.", "Who owns Eve?"), ("Rex barks.", "Who barks?")]
CIRCUIT = (Component("head", 0, 1), Component("head", 2, 3), Component("mlp", 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tiny")
    text = " ".join(render(None, e.context, e.question) for e in EXAMPLES)  # type: ignore[arg-type]
    word_tokenizer(text).save_pretrained(path)
    tiny_decoder("llama", max_position_embeddings=256).save_pretrained(path)
    return path


def test_random_components_match_the_circuit_in_kind_and_never_hit_it() -> None:
    for seed in range(20):
        drawn = random_like(CIRCUIT, 3, 4, seed)
        assert Counter(c.kind for c in drawn) == Counter(c.kind for c in CIRCUIT)
        assert not set(drawn) & set(CIRCUIT)
        assert random_like(CIRCUIT, 3, 4, seed) == drawn
    assert len({random_like(CIRCUIT, 3, 4, seed) for seed in range(20)}) > 5
    every = {component for seed in range(200) for component in random_like(CIRCUIT, 3, 4, [seed, 1])}
    assert every == set(all_components(3, 4, ("head", "mlp"))) - set(CIRCUIT)


def test_random_heads_keep_clear_of_random_attention_layers() -> None:
    circuit = (Component("attention", 0), Component("head", 1, 0), Component("head", 1, 2))
    for seed in range(20):
        drawn = random_like(circuit, 3, 4, seed)
        (layer,) = [c.layer for c in drawn if c.kind == "attention"]
        assert layer in (1, 2)
        assert all(c.layer != layer for c in drawn if c.kind == "head")


def test_too_large_a_circuit_leaves_nothing_to_draw() -> None:
    with pytest.raises(OptionError, match="holds 2 components of kind 'mlp' and only 1 others are left"):
        random_like((Component("mlp", 0), Component("mlp", 1)), 3, 4, 0)
    with pytest.raises(OptionError, match="the model has no mlp 7"):
        random_like((Component("mlp", 7),), 3, 4, 0)


@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_rows_are_each_arms_replies_and_a_second_call_asks_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacement: str
) -> None:
    options: Any = {"draws": 2, "replacement": replacement, "length": 5, "seed": 4, "reference": REFERENCE}
    found = validate(str(folder), CIRCUIT, [*EXAMPLES, EXAMPLES[0]], tmp_path / "ledger", **options)
    assert found.examples == tuple(EXAMPLES)
    assert found.notes == ()
    loaded = load(ModelSpec(str(folder)))
    randoms = [random_like(CIRCUIT, 3, 4, [4, draw]) for draw in range(2)]
    assert found.random == tuple(tuple(map(str, drawn)) for drawn in randoms)
    for at, components in enumerate([(), CIRCUIT, randoms[0]]):
        means = mean_writes(loaded.model, loaded.tokenizer, REFERENCE, components) if components else {}
        for example, replies in zip(EXAMPLES, found.replies, strict=True):
            ids = token_ids(loaded.tokenizer, render(loaded.tokenizer, example.context, example.question))
            with ablating(loaded.model, components, replacement, means):
                (reply,) = complete(loaded.model, loaded.tokenizer, [ids], 5)
            assert replies[at] == first_line(reply)
    monkeypatch.setattr(module, "_replies", None)
    assert validate(str(folder), CIRCUIT, EXAMPLES, tmp_path / "ledger", **options) == found


def test_the_summary_by_hand() -> None:
    def row(reply: str, exact: float, f1: float) -> ValidationRow:
        return ValidationRow(reply, exact, f1, ["mlp 0"])

    # Nothing, the circuit, and two random draws.
    table = [
        [row("a", 1, 1), row("b", 0, 0.5), row("c", 1, 1), row("d", 0, 0)],
        [row("e", 1, 1), row("f", 0, 0), row("g", 1, 1), row("h", 1, 1)],
    ]
    found = module._summary(CIRCUIT, EXAMPLES[:2], table, 0, ("noted",))
    assert found.nothing.exact.value == 1
    assert (found.with_circuit.exact.value, found.with_circuit.f1.value) == (0, 0.25)
    assert (found.with_random.exact.value, found.with_random.f1.value) == (0.75, 0.75)
    assert (found.drop.exact.value, found.drop.f1.value) == (1, 0.75)
    assert found.random_drop.exact.value == 0.25
    assert (found.difference.exact.low, found.difference.exact.value, found.difference.exact.high) == (-1, -0.75, -0.5)
    assert found.replies == (("a", "b", "c"), ("e", "f", "g"))
    results = json.loads(json.dumps(found.results()))
    assert results["circuit"] == ["head 0.1", "head 2.3", "mlp 1"]
    assert results["random"] == [["mlp 0"], ["mlp 0"]]
    assert results["difference"]["exact"] == {"value": -0.75, "low": -1.0, "high": -0.5}
    assert (results["examples"], results["notes"]) == (2, ["noted"])


def test_an_example_that_is_too_long_is_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    long = QAExample("Who owns Rex?", "Ben owns Rex. " * 60, ("Ben",), "ours")
    found = validate(str(folder), CIRCUIT, [*EXAMPLES[:2], long], tmp_path, draws=1, length=3)
    assert found.examples == tuple(EXAMPLES[:2])
    assert len(found.notes) == 1
    assert "1 examples are left out" in found.notes[0]
    assert "the model reads 256" in found.notes[0]


def test_probes_are_examples_with_their_swapped_answer() -> None:
    probe = Probe(
        "Rex", "Who owns Rex?", "Anna", "Ben", "Anna owns Rex.", "Ben owns Rex.", "Eve owns Tom.", "Who owns Tom?"
    )
    assert probe_examples([probe]) == [QAExample("Who owns Rex?", "Ben owns Rex.", ("Ben",), "probes")]


def test_what_cannot_be_is_told(folder: Path, tmp_path: Path) -> None:
    blank = QAExample("Who?", "  ", ("Ben",), "ours")
    mean: Any = {"replacement": "mean"}
    shared: Any = mean | {"reference": [(EXAMPLES[0].context, EXAMPLES[0].question)]}
    for circuit, examples, options, error, message in [
        ((), EXAMPLES, {}, OptionError, "the circuit has no components"),
        (CIRCUIT, [], {}, DataError, "there are no examples"),
        (CIRCUIT, [blank], {}, DataError, "the context is empty"),
        (CIRCUIT, EXAMPLES, {"draws": 0}, OptionError, "draws is 0"),
        (CIRCUIT, EXAMPLES, {"replacement": "half"}, OptionError, "no replacement 'half'"),
        (CIRCUIT, EXAMPLES, {"style": "loud"}, OptionError, "no prompt style 'loud'"),
        (CIRCUIT, EXAMPLES, mean, OptionError, "needs 'reference'"),
        (CIRCUIT, EXAMPLES, shared, DataError, "measured and taken means over"),
        ((Component("mlp", 9),), EXAMPLES[:1], {}, SweepError, "the model has no mlp 9"),
    ]:
        with pytest.raises(error, match=message):
            validate(str(folder), circuit, examples, tmp_path / "ledger", **options)
