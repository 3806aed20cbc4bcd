import re

import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.t2i_edit.probes import (
    ATTRIBUTES,
    COCO_OBJECTS,
    OBJECTS,
    Probe,
    nominal_probes,
    probes,
    read_probes,
    write_probes,
)

NOMINAL = {"objects": 168, "style": 560, "colour": 560, "action": 56, "viewpoint": 96, "count": 96}
UNIQUE = {"objects": 161, "style": 560, "colour": 560, "action": 56, "viewpoint": 92, "count": 92}


def test_counts_are_the_thesis_s():
    assert {name: len(nominal_probes(name)) for name in ATTRIBUTES} == NOMINAL
    assert {name: len({probe.caption for probe in nominal_probes(name)}) for name in ATTRIBUTES} == UNIQUE
    assert {name: len(probes(name)) for name in ATTRIBUTES} == UNIQUE


def test_coco_has_its_eighty_objects_and_the_thesis_s_are_among_them():
    assert len(set(COCO_OBJECTS)) == len(COCO_OBJECTS) == 80
    assert set(OBJECTS) <= set(COCO_OBJECTS)
    assert len(OBJECTS) == 24
    assert [name for name in OBJECTS if OBJECTS.count(name) > 1] == ["tv", "tv"]


@pytest.mark.parametrize(
    ("attribute", "caption", "subject"),
    [
        ("objects", "A photo of an apple in a beach.", "apple"),
        ("objects", "A photo of a tv in a room.", "tv"),
        ("style", "An airplane in the style of van gogh", "van gogh"),
        ("colour", "A pink traffic light", "pink"),
        ("action", "An ostrich sprinting", "sprinting"),
        ("viewpoint", "A laptop from the top", "top"),
        ("count", "A photo of 6 knives in a room.", "6"),
    ],
)
def test_captions_follow_the_templates(attribute, caption, subject):
    assert Probe(caption, subject, attribute) in probes(attribute)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_articles_fit_and_each_subject_stands_once(attribute):
    for probe in probes(attribute):
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", probe.caption), probe
        assert len(re.findall(rf"\b{probe.subject}\b", probe.caption)) == 1, probe
        assert probe.attribute == attribute


def test_unknown_attribute():
    with pytest.raises(OptionError, match=r"no attribute 'smell'.*objects, style, colour"):
        probes("smell")


def test_a_subject_must_stand_in_its_caption():
    with pytest.raises(DataError, match="'dog' does not stand in the caption 'two dogs'"):
        Probe("two dogs", "dog", "objects")


def test_files(tmp_path):
    path = tmp_path / "probes.jsonl"
    own = (*probes("action"), Probe("ein blauer Würfel", "blauer", "Farbe"))
    write_probes(path, own)
    assert read_probes(path) == own


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "probes.jsonl"
    good = '{"caption": "a dog", "subject": "dog", "attribute": "objects"}'
    path.write_text(f"{good}\n{good.replace('a dog', 'a cat')}\n")
    with pytest.raises(DataError, match=re.escape(f"{path}, line 2: the subject 'dog' does not stand")):
        read_probes(path)
    path.write_text(good.replace("attribute", "kind"))
    with pytest.raises(DataError, match="line 1: the field 'attribute' is missing"):
        read_probes(path)
