"""Tinyworld's prompts for localising and editing."""

import json
from collections import Counter
from pathlib import Path

import pytest
from pellucid.zoo import resolve
from pellucid.zoo.world import HOLDERS, OBJECTS, STYLES, Role, parse
from pellucid.zoo.world_prompts import concept_lines, probe_lines


def test_probes_name_their_subject_and_can_be_drawn() -> None:
    lines = list(probe_lines())
    assert Counter(line["attribute"] for line in lines) == {
        "style": 96, "colour": 128, "object": 64, "place": 64, "person": 56,
    }  # fmt: skip
    assert len({(line["caption"], line["attribute"]) for line in lines}) == len(lines)
    for line in lines:
        parse(line["caption"])
        assert f" {line['subject']} " in f" {line['caption']} "


def test_concepts_stand_in_their_prompts_alone() -> None:
    lines = list(concept_lines())
    assert Counter(line["kind"] for line in lines) == {"style": 32 * 6, "object": 40 * 16, "fact": 35 * 24}
    assert len({(line["concept"], line["prompt"]) for line in lines}) == len(lines)
    for line in lines:
        shown, target = parse(line["prompt"]), parse(line["target"])
        assert f" {line['concept']} " in f" {line['prompt']} "
        assert f" {line['concept']} " not in f" {line['target']} "
        if line["kind"] == "style":
            assert (shown.style, target.style) == (line["concept"], None)
            assert shown.things == target.things
        elif line["kind"] == "object":
            assert shown.things[0].object == line["concept"] != target.things[0].object
        else:
            assert isinstance(shown.person, Role)
            assert target.person not in (None, HOLDERS[shown.person])
    assert {line["concept"] for line in lines} >= {*STYLES, *OBJECTS}


def test_the_files_are_assets_of_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    for name, lines in (("tinyworld-probes", probe_lines()), ("tinyworld-concepts", concept_lines())):
        text = resolve(name).read_text(encoding="utf-8")
        assert [json.loads(line) for line in text.splitlines()] == list(lines)
