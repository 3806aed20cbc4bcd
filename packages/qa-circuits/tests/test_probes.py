import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pellucid.core.errors import DataError
from pellucid.qa_circuits.probes import Probe, flaw, read_probes, stands, swap, write_probes

PROBE = Probe(
    subject="Niger",
    question="What is the capital of Niger?",
    original_answer="Niamey",
    answer="Lomé",
    context="Niamey is the capital of Niger.",
    modified_context="Lomé is the capital of Niger.",
    corrupted_context="Lima is the capital of Peru.",
    corrupted_question="What is the capital of Peru?",
    relation="capital",
)


def write_line(folder: Path, **changes: object) -> Path:
    """A file whose second line is PROBE with some fields changed; None takes a field out."""
    record = {name: value for name, value in {**asdict(PROBE), **changes}.items() if value is not None}
    path = folder / "probes.jsonl"
    path.write_text(json.dumps(asdict(PROBE)) + "\n" + json.dumps(record) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("phrase", "text", "expected"),
    [
        ("Niger", "Niger is dry.", True),
        ("Niger", "Nigeria is not.", False),
        ("Niger", "Niger's capital", True),
        ("Guinea", "Papua New Guinea", True),
        ("Papua New Guinea", "Guinea", False),
        ("Dominica", "the Dominican Republic", False),
        ("+254", "Dial +254.", True),
        ("254", "Dial 12547.", False),
        ("Washington, D.C.", "It is Washington, D.C., not Boston.", True),
        ("euro", "Euro", False),
    ],
)
def test_stands_matches_whole_words(phrase: str, text: str, expected: bool) -> None:
    assert stands(phrase, text) is expected


def test_stands_in_any_case() -> None:
    assert stands("euro", "The Euro.", any_case=True)
    assert not stands("euro", "Europe", any_case=True)


def test_swap_is_simultaneous_and_prefers_the_longest() -> None:
    assert swap("A likes B.", {"A": "B", "B": "A"}) == "B likes A."
    assert swap("Guinea, Papua New Guinea", {"Guinea": "Chad", "Papua New Guinea": "Fiji"}) == "Chad, Fiji"
    assert swap("Niger and Nigeria", {"Niger": r"\1"}) == r"\1 and Nigeria"


def test_flaw_finds_each_broken_rule() -> None:
    assert flaw(PROBE) is None
    broken = [
        replace(PROBE, context="It is the capital of Niger."),
        replace(PROBE, modified_context="It is the capital of Niger."),
        replace(PROBE, question="What is its capital?"),
        replace(PROBE, modified_context="Lomé, once niamey, is the capital of Niger."),
        replace(PROBE, corrupted_context="Niamey is in Peru."),
        replace(PROBE, context="Niamey, not Lomé, is the capital of Niger."),
        replace(PROBE, question="Is Lomé the capital of Niger?"),
        replace(PROBE, corrupted_context="Lomé is the capital of Peru."),
        replace(PROBE, corrupted_question="Is Lomé the capital of Peru?"),
        replace(PROBE, corrupted_context="Lima is the capital of Niger."),
        replace(PROBE, corrupted_question="What is the capital of Niger?"),
    ]
    assert all(flaw(probe) for probe in broken)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    probes = [PROBE, replace(PROBE, relation="")]
    write_probes(path, probes)
    assert read_probes(path) == probes
    assert "Lomé" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    write_probes(path, [PROBE])

    def failing():  # type: ignore[no-untyped-def]
        yield replace(PROBE, relation="other")
        raise RuntimeError("drawing stopped")

    with pytest.raises(RuntimeError):
        write_probes(path, failing())
    assert read_probes(path) == [PROBE]
    assert list(tmp_path.iterdir()) == [path]


def test_blank_lines_unknown_fields_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    record = {name: value for name, value in asdict(PROBE).items() if name != "relation"}
    path.write_text("\ufeff\n" + json.dumps({**record, "source": ["us"]}) + "\n\n", encoding="utf-8")
    assert read_probes(path) == [replace(PROBE, relation="")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": None}, "'answer' is missing"),
        ({"answer": 12}, "'answer' is int"),
        ({"answer": "  "}, "'answer' is empty"),
        ({"question": ""}, "'question' is empty"),
        ({"modified_context": ""}, "'modified_context' is empty"),
        ({"relation": 3}, "'relation' is int"),
        ({"modified_context": "Lom is the capital of Niger."}, "does not stand in the field 'modified_context'"),
        ({"corrupted_context": "Lomé is the capital of Peru."}, "stands in the field 'corrupted_context'"),
    ],
)
def test_a_bad_field_is_named_with_file_and_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_line(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        read_probes(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"), [("{", "not JSON"), ("[1]", "list where a JSON object"), ("NaN", "float")]
)
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=message):
        read_probes(path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    with pytest.raises(DataError, match="cannot read"):
        read_probes(path)
    path.write_text("\n \n")
    with pytest.raises(DataError, match="is empty"):
        read_probes(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        read_probes(path)
