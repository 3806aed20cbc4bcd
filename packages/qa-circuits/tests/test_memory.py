"""D_memory: the answer is gone from every text that is read, and the rest is as in the true context."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from pellucid.core.errors import DataError
from pellucid.qa_circuits.facts import Fact
from pellucid.qa_circuits.memory import forgotten, gives_away, stream_memory_probes
from pellucid.qa_circuits.probes import Probe, read_probes, stands, write_probes

FACTS = [
    Fact(country, "capital", city)
    for country, city in [("Norway", "Oslo"), ("France", "Paris"), ("Peru", "Lima"), ("Kenya", "Nairobi")]
] + [Fact("Norway", "currency", "krone"), Fact("Peru", "currency", "sol"), Fact("Kenya", "currency", "shilling")]


def test_a_probe_by_hand() -> None:
    found = forgotten(FACTS[0], FACTS[1], "Norway is old. The capital of Norway is Oslo.", "What is Norway's capital?")
    assert found == Probe(
        "Norway",
        "What is Norway's capital?",
        "Oslo",
        "Oslo",
        "Norway is old. The capital of Norway is Oslo.",
        "Norway is old. The capital of Norway is —.",
        "France is old. The capital of France is —.",
        "What is France's capital?",
        "capital",
    )
    assert found.of_memory


def test_nothing_that_is_read_gives_the_answer_away() -> None:
    probes = list(stream_memory_probes(FACTS, 3))
    assert {(p.subject, p.relation) for p in probes} == {(f.subject, f.relation) for f in FACTS}
    for p in probes:
        assert stands(p.answer, p.context)
        assert stands("—", p.modified_context)
        assert not any(stands(p.answer, text) for text in (p.modified_context, p.corrupted_context, p.question))
        assert not stands(p.subject, p.corrupted_context)
    assert probes == list(stream_memory_probes(FACTS, 3))
    assert probes != list(stream_memory_probes(FACTS, 4))


def test_what_gives_the_answer_away_is_found() -> None:
    good = forgotten(FACTS[0], FACTS[1], "The capital of Norway is Oslo.", "What is Norway's capital?")
    assert not gives_away(good)
    broken = [
        replace(good, modified_context="Is it OSLO?"),
        replace(good, question="Is Oslo the capital of Norway?"),
        replace(good, corrupted_context="The capital of France is Oslo."),
        replace(good, corrupted_context="The capital of norway is —."),
        replace(good, corrupted_question="What is Norway's capital?"),
    ]
    assert all(gives_away(probe) for probe in broken)


def test_files_of_them_are_checked(tmp_path: Path) -> None:
    (probe,) = itertools.islice(stream_memory_probes(FACTS), 1)
    write_probes(tmp_path / "good.jsonl", [probe])
    assert read_probes(tmp_path / "good.jsonl") == [probe]
    text = (tmp_path / "good.jsonl").read_text("utf-8")
    (tmp_path / "bad.jsonl").write_text(text.replace("—", probe.answer), "utf-8")
    with pytest.raises(DataError, match=r"bad.jsonl, line 1: the original answer .* must not give it"):
        read_probes(tmp_path / "bad.jsonl")
