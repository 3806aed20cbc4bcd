"""The extraction of higher hierarchies, on a tiny saved model that is taken to answer every probe."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pellucid.core.errors import OptionError
from pellucid.core.loading import load
from pellucid.core.testing import tiny_decoder
from pellucid.qa_circuits import jobs
from pellucid.qa_circuits.components import Component, all_components
from pellucid.qa_circuits.extract import Extraction, extract_circuit, split_by_subject
from pellucid.qa_circuits.hierarchy import hierarchy_scores, upstream
from pellucid.qa_circuits.memory import STAND_IN
from pellucid.qa_circuits.probes import Probe
from pellucid.qa_circuits.prompts import encode
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

NAMES = ["Rex", "Tom", "Kit", "Max", "Leo", "Ian"]
RECEIVERS = (Component("head", 2, 1), Component("mlp", 1))


def probe(number: int, of_memory: bool) -> Probe:
    subject, other = NAMES[number], NAMES[(number + 1) % 6]
    given, answer, theirs = (STAND_IN, "Anna", STAND_IN) if of_memory else ("Ben", "Ben", "Eve")
    return Probe(
        subject, f"Who owns {subject} ?", "Anna", answer, f"Anna owns {subject} .", f"{given} owns {subject} .",
        f"{theirs} owns {other} .", f"Who owns {other} ?",
    )  # fmt: skip


PROBES = {kind: [probe(i, kind == "memory") for i in range(6)] for kind in ("copy", "memory")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tiny")
    words = ["<unk>", "<s>", "</s>", "Context", "Question", "Answer", ":", ".", "?", "Who", "owns", STAND_IN, *NAMES]
    words += ["Anna", "Ben", "Eve"]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>").save_pretrained(path)
    model = tiny_decoder("llama", vocabulary=len(words))
    model.lm_head.weight.mul_(0.3)  # so that no token is certain, and every effect shows
    model.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def answers_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(model: Any, tokenizer: Any, cells: list[Probe], **_: Any) -> list[tuple[bool, str]]:
        return [(True, cell.answer) for cell in cells]

    monkeypatch.setattr(jobs, "keeps_to_context", kept)


def extract(folder: Path, out: Path, probes: list[Probe], **options: Any) -> Extraction:
    return extract_circuit(str(folder), probes, out, **options)


@pytest.mark.parametrize("kind", ["copy", "memory"])
def test_effects_are_those_on_the_receivers_of_all_upstream(folder: Path, tmp_path: Path, kind: str) -> None:
    found = extract(folder, tmp_path, PROBES[kind], receivers=[RECEIVERS])
    assert found.components == [c for c in all_components(3, 4) if upstream(c, [RECEIVERS])]
    assert (found.offered, found.kept, found.ranked_on, found.held_out) == (6, 6, 3, 3)
    loaded = load(str(folder))
    _, held_out = split_by_subject(PROBES[kind], 0)
    sets = [(c,) for c in found.components]
    scores = hierarchy_scores(loaded.model, encode(loaded.tokenizer, held_out), sets, [RECEIVERS])
    np.testing.assert_allclose(found.effects.value, scores.scores.mean(0).numpy(), rtol=0, atol=1e-6)
    assert found.floor.value == pytest.approx(float(scores.floor.mean()), abs=1e-6)
    assert kind == "memory" or float(np.ptp(found.effects.value)) > 3e-4  # else the agreement would say nothing
    for circuit in found.circuits:
        members = {*circuit.components, *circuit.random_components}
        assert members <= set(found.components)
        assert len(circuit.components) == len(circuit.random_components) > 0
    assert found.results()["receivers"] == [
        [{"kind": "head", "layer": 2, "index": 1}, {"kind": "mlp", "layer": 1, "index": None}]
    ]


def test_hierarchies_share_a_folder_and_do_not_mix(folder: Path, tmp_path: Path) -> None:
    zero = extract(folder, tmp_path, PROBES["copy"], kinds=("head",))
    first = extract(folder, tmp_path, PROBES["copy"], kinds=("head",), receivers=[RECEIVERS])
    again = extract(folder, tmp_path, PROBES["copy"], kinds=("head",))
    assert len(zero.components) == 12
    assert len(first.components) == 8
    assert (zero.receivers, first.receivers) == ((), (RECEIVERS,))
    np.testing.assert_array_equal(again.effects.value, zero.effects.value)
    assert first.floor.value == pytest.approx(zero.floor.value, abs=1e-5)


def test_a_second_hierarchy_and_kinds_that_are_nowhere_upstream(folder: Path, tmp_path: Path) -> None:
    found = extract(folder, tmp_path, PROBES["copy"], receivers=[RECEIVERS, (Component("mlp", 0),)])
    assert {c.kind for c in found.components} == {"head", "attention"}
    assert {c.layer for c in found.components} == {0}
    assert [c.kind for c in found.circuits] == ["head", "attention"]


def test_bad_receivers(folder: Path, tmp_path: Path) -> None:
    for receivers in ([()], [RECEIVERS, ()]):
        with pytest.raises(OptionError, match="there are no receivers"):
            extract(folder, tmp_path, PROBES["copy"], receivers=receivers)
    with pytest.raises(OptionError, match="'through_mlps' is of hierarchy 0 only"):
        extract(folder, tmp_path, PROBES["copy"], receivers=[RECEIVERS], definition="through_mlps")
    with pytest.raises(OptionError, match="no head or mlp writes into the receivers"):
        extract(folder, tmp_path, PROBES["copy"], receivers=[(Component("head", 0, 1),)], kinds=("head", "mlp"))
