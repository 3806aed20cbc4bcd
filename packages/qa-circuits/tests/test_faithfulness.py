"""Who is right, context or memory: judging, the sweep on a tiny saved model, and the summary by hand."""

from pathlib import Path
from typing import Any

import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec, load
from pellucid.core.testing import tiny_decoder, word_tokenizer
from pellucid.qa_circuits import faithfulness as module
from pellucid.qa_circuits.faithfulness import Conflict, SteeringRow, conflict_of, faithfulness, judge
from pellucid.qa_circuits.probes import Probe
from pellucid.qa_circuits.prompts import render
from pellucid.qa_circuits.steering import Steering, steered_replies

NAMES = ["Rex", "Tom", "Kit", "Max", "Leo", "Ian"]
CONFLICTS = [
    Conflict(f"Ben owns {n}. " + "Eve sings. " * (i % 3), f"Who owns {n}?", "Ben", "Anna") for i, n in enumerate(NAMES)
]
REFERENCE = [Conflict("Eve owns Eve.", "Who owns Eve?", "Eve", "Anna")]
STEERING = Steering(head=(1, 0), layers=(2, 1), mlps=(1,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tiny")
    text = " ".join(render(None, c.context, c.question) for c in CONFLICTS)  # type: ignore[arg-type]
    word_tokenizer(text).save_pretrained(path)
    tiny_decoder("llama").save_pretrained(path)
    return path


def test_judging() -> None:
    conflict = Conflict("", "", "Oslo", "New York")
    for reply, context, memory in [
        ("Oslo", True, False),
        ("It is oslo.", True, False),
        ("New York", False, True),
        ("Oslo, not New York", False, False),
        ("Osloer", False, False),
        ("", False, False),
    ]:
        assert judge(reply, conflict) == SteeringRow(reply, context, memory)
    assert judge("—", Conflict("", "", "—", "Rome")).context


def test_conflicts_of_both_kinds_of_probe() -> None:
    copy = Probe(
        "Rex", "Who owns Rex?", "Anna", "Ben", "Anna owns Rex.", "Ben owns Rex.", "Eve owns Tom.", "Who owns Tom?"
    )
    assert conflict_of(copy) == Conflict("Ben owns Rex.", "Who owns Rex?", "Ben", "Anna")
    memory = Probe(
        "Rex", "Who owns Rex?", "Anna", "Anna", "Anna owns Rex.", "— owns Rex.", "Eve owns Tom.", "Who owns Tom?"
    )
    assert conflict_of(memory) == Conflict("— owns Rex.", "Who owns Rex?", "—", "Anna")
    with pytest.raises(DataError, match="'…' does not stand in the modified context of 'Who owns Rex"):
        conflict_of(memory, "…")


def test_rows_are_each_ways_replies_and_a_second_call_asks_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"steering": STEERING, "length": 5, "reference": REFERENCE}
    found = faithfulness(ModelSpec(str(folder)), CONFLICTS, tmp_path / "ledger", **options)
    assert [m.method for m in found.methods] == [
        "plain", "attributed", "upweighted", "zeroed", "mean_ablated", "context_aware",
    ]  # fmt: skip
    assert found.conflicts == tuple(CONFLICTS)
    assert found.notes == ()
    loaded = load(folder)
    for method in ("plain", "attributed", "upweighted", "zeroed", "context_aware"):
        alone = [
            steered_replies(loaded.model, loaded.tokenizer, [(c.context, c.question)], method, STEERING, length=5)[0]  # type: ignore[arg-type]
            for c in CONFLICTS
        ]
        assert [row.reply for row in found.replies[method]] == alone  # type: ignore[index]
    monkeypatch.setattr(module, "load", None)
    again = faithfulness(ModelSpec(str(folder)), CONFLICTS, tmp_path / "ledger", **options)
    assert again.results() == found.results()
    assert again.results()["methods"][0]["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_summary_by_hand() -> None:
    def rows(letters: str) -> tuple[SteeringRow, ...]:
        return tuple(SteeringRow(letter, letter == "c", letter == "m") for letter in letters)

    replies: Any = {"plain": rows("mmmcco"), "upweighted": rows("ccmcmc")}
    found = module._summary(("plain", "upweighted"), CONFLICTS, replies, 0, ())
    plain, steered = found.methods
    assert (found.from_context, found.from_memory) == (2, 3)
    assert steered.context.value == pytest.approx(4 / 6)
    assert steered.memory.value == pytest.approx(2 / 6)
    assert steered.gain.value == pytest.approx(2 / 6)
    assert steered.switched is not None
    assert steered.switched.value == pytest.approx(2 / 3)
    assert steered.kept is not None
    assert steered.kept.value == 0.5
    assert plain.kept is not None
    assert (plain.gain.value, plain.kept.value) == (0, 1)
    none = module._summary(("plain",), CONFLICTS[:1], {"plain": rows("o")}, 0, ()).methods[0]
    assert none.switched is none.kept is None


def test_cells_that_fail_are_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    long = Conflict("Ben owns Rex. " * 200, "Who owns Rex?", "Ben", "Anna")
    # Half the batch is too long for the model, and the batch fails as one; its cells are then tried one by one.
    found = faithfulness(
        str(folder), [*CONFLICTS, long], tmp_path / "ledger", steering=STEERING, methods=["plain"], length=5
    )
    assert found.conflicts == tuple(CONFLICTS)
    assert len(found.notes) == 1
    assert "1 questions are left out; plain failed: " in found.notes[0]
    assert "the model reads 512" in found.notes[0]


def test_bad_options(folder: Path, tmp_path: Path) -> None:
    for conflicts, options, error, message in [
        ([], {}, DataError, "there are no questions"),
        (CONFLICTS, {"steering": Steering()}, OptionError, "'attributed' needs 'head'"),
        (CONFLICTS, {"methods": ["mean_ablated"]}, OptionError, "needs 'reference'"),
        (CONFLICTS, {"reference": CONFLICTS[:1]}, DataError, "measured and taken means over"),
        (CONFLICTS, {"methods": ["magic"]}, OptionError, "no method 'magic'"),
    ]:
        given: dict[str, Any] = {"steering": STEERING, **options}  # type: ignore[dict-item]
        with pytest.raises(error, match=message):
            faithfulness(str(folder), conflicts, tmp_path / "ledger", **given)
