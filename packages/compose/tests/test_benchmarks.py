import json

import numpy as np
import pytest
from pellucid.compose.benchmarks import MatchingCase, Shown, read_aro, read_cases, read_winoground, write_cases
from pellucid.compose.word_order import read_order, rearranged
from pellucid.core.errors import DataError


@pytest.fixture
def folder(tmp_path, pictures):
    (tmp_path / "images").mkdir()
    for number in range(4):
        pictures[number].save(tmp_path / "images" / f"ex_{number}.png")
    return tmp_path


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_winoground(folder):
    row = {"id": 5, "image_0": "ex_0", "image_1": "ex_1", "caption_0": "a dog on a cat", "caption_1": "a cat on a dog",
           "tag": "Noun", "collapsed_tag": "Object", "num_main_preds": 1}  # fmt: skip
    write_lines(folder / "examples.jsonl", [row, row | {"collapsed_tag": "Both", "num_main_preds": 2}])
    first, second = read_winoground(folder)
    assert [shown.path for shown in first.images] == [str(folder / "images" / f"ex_{side}.png") for side in (0, 1)]
    assert first.captions == ("a dog on a cat", "a cat on a dog")
    assert (first.id, first.tags) == ("5", ("object", "1 main predicate"))
    assert second.tags == ("both", "2 main predicates")
    (folder / "data").mkdir()
    (folder / "examples.jsonl").rename(folder / "data" / "examples.jsonl")
    (folder / "images").rename(folder / "data" / "images")
    assert len(read_winoground(folder)) == 2  # as the hub's repository lays it


def test_aro_cuts_the_box(folder, pictures):
    row = {"image_path": "ex_1.png", "bbox_x": 2, "bbox_y": 3, "bbox_w": 10, "bbox_h": 8, "relation_name": "on",
           "true_caption": "the dog is on the cat", "false_caption": "the cat is on the dog"}  # fmt: skip
    path = folder / "visual_genome_relation.json"
    path.write_text(json.dumps([row]))
    (case,) = read_aro(path)
    assert case.tags == ("on",)
    assert case.captions[0] == "the dog is on the cat"
    shown = case.images[0].open()
    assert shown.size == (10, 8)
    assert np.array_equal(np.asarray(shown), np.asarray(pictures[1])[3:11, 2:12])
    row = {name: value for name, value in row.items() if name != "relation_name"} | {"attributes": ["red", "old"]}
    path.write_text(json.dumps([row]))
    assert read_aro(path, folder / "images")[0].tags == ("red_old",)
    path.write_text(json.dumps([row | {"bbox_w": 0}]))
    with pytest.raises(DataError, match="is empty"):
        read_aro(path)[0].images[0].open()
    path.write_text(json.dumps([row | {"bbox_w": None}]))
    with pytest.raises(DataError, match="'bbox_w' is None"):
        read_aro(path)


def test_ones_own_records_are_read_as_written(folder):
    shown = tuple(Shown(str(folder / "images" / f"ex_{number}.png")) for number in range(2))
    cases = [
        MatchingCase("a", shown, ("one", "two"), ("colour",)),
        MatchingCase("b", shown[:1], ("one", "two", "three")),
    ]
    write_cases(folder / "cases.jsonl", cases)
    assert read_cases(folder / "cases.jsonl") == cases
    with pytest.raises(DataError, match="not below"):
        write_cases(folder / "deep" / "cases.jsonl", cases)
    write_lines(folder / "cases.jsonl", [{"images": ["images/ex_0.png"], "captions": "one"}])
    with pytest.raises(DataError, match="a list of texts"):
        read_cases(folder / "cases.jsonl")
    write_lines(folder / "cases.jsonl", [{"images": ["images/ex_9.png"], "captions": ["one", "two"]}])
    with pytest.raises(DataError, match="there is no picture"):
        read_cases(folder / "cases.jsonl")


def test_a_record_must_pair_up():
    with pytest.raises(DataError, match="2 pictures and 3 captions"):
        MatchingCase("a", (Shown("a"), Shown("b")), ("one", "two", "three"))
    with pytest.raises(DataError, match="1 pictures and 1 captions"):
        MatchingCase("a", (Shown("a"),), ("one",))


def tags(words):
    kinds = {"dog": "NN", "cats": "NNS", "brown": "JJ", "small": "JJ"}
    return [kinds.get(word, "IN") for word in words]


def test_rearrangements_are_aros():
    caption = "The brown dog, with two small cats, sits on it."
    words = ["the", "brown", "dog", "with", "two", "small", "cats", "sits", "on", "it"]
    right, content, others, within, among = rearranged(caption, np.random.default_rng(0), tags)
    assert right.split() == words
    for text in (content, others, within, among):
        assert text != right
        assert sorted(text.split()) == sorted(words)
    # Nouns take nouns' places and adjectives adjectives', and nothing else moves; and the other way round.
    for number, word in enumerate(words):
        kind = tags([word])[0]
        if kind == "IN":
            assert content.split()[number] == word
        else:
            assert others.split()[number] == word
            assert tags([content.split()[number]])[0][:2] == kind[:2]
    for start in range(0, 10, 3):
        assert sorted(within.split()[start : start + 3]) == sorted(words[start : start + 3])
    groups = {" ".join(words[start : start + 3]) for start in range(0, 10, 3)}
    assert all(group in among for group in groups)


def test_order_tasks(folder):
    rows = [
        {"image": "ex_0.png", "caption": ["a dog sits on a red mat outside", "dog"]},
        {"image": "ex_1.png", "caption": "a b c d"},
    ]
    path = folder / "coco_karpathy_test.json"
    path.write_text(json.dumps(rows))
    found = read_order(path, folder / "images")
    assert [case.id for case in found] == ["1-0", "2-0"]  # one word cannot be rearranged
    assert all(len(case.captions) == 3 for case in found)
    assert read_order(path, folder / "images") == found
    assert read_order(path, folder / "images", seed=1) != found
    tagged = read_order(path, folder / "images", tagger=lambda words: (["NN", "JJ", "IN"] * 3)[: len(words)])
    assert len(tagged[0].captions) > 3
    with pytest.raises(DataError, match="the tagger gives 1 tags"):
        read_order(path, folder / "images", tagger=lambda words: ["NN"])
    path.write_text(json.dumps([{"image": "ex_0.png", "caption": 3}]))
    with pytest.raises(DataError, match="'caption' is 3"):
        read_order(path, folder / "images")
