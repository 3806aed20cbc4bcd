import json

import pytest
from pellucid.compose.prompts_data import (
    parse_two_objects,
    read_coco_prompts,
    read_prompts,
    read_t2i_compbench,
    templated,
)
from pellucid.core.errors import DataError, OptionError


@pytest.mark.parametrize(
    ("prompt", "attributes", "objects"),
    [
        ("a red book and a yellow vase", ("red", "yellow"), ("book", "vase")),
        ("A Green bench and the Blue bowl.", ("Green", "Blue"), ("bench", "bowl")),
        ("a metallic desk lamp and a fluffy teddy bear", ("metallic", "fluffy"), ("desk lamp", "teddy bear")),
        ("rubber sole shoes and fluffy clouds", ("rubber", "fluffy"), ("sole shoes", "clouds")),
        ("an oval sink and a rectangular mirror. ", ("oval", "rectangular"), ("sink", "mirror")),
        ("a round bagel and a square piece of toast", ("round", "square"), ("bagel", "piece of toast")),
    ],
)
def test_reads_the_template(prompt, attributes, objects):
    found = parse_two_objects(prompt)
    assert found is not None
    assert (found.attribute_words, found.object_words) == (attributes, objects)
    for span, word in zip((*found.attributes, *found.objects), (*attributes, *objects), strict=True):
        assert prompt[slice(*span)] == word


@pytest.mark.parametrize(
    "prompt",
    [
        "a canary and a yellow bluebird",
        "a red book",
        "a red book and a blue cup and a green tree",
        "The oval mirror and the rectangular frame were mounted on the wall.",
        "A bathroom with white tile and a beige toilet.",
        "The black chair was on the left of the white table and the lamp",
        "",
    ],
)
def test_other_forms_are_none(prompt):
    assert parse_two_objects(prompt) is None


def test_benchmark_files(tmp_path):
    folder = tmp_path / "examples" / "dataset"
    folder.mkdir(parents=True)
    (folder / "color_train.txt").write_bytes("a red book and a  yellow vase\r\n\r\na cat\n".encode("utf-8-sig"))
    (folder / "color_val.txt").write_text("a blue cup and a red orange\n")
    read = read_t2i_compbench(tmp_path, "color", "train")
    assert [(found.text, found.category, found.split) for found in read] == [
        ("a red book and a yellow vase", "color", "train"),
        ("a cat", "color", "train"),
    ]
    assert read_t2i_compbench(folder, "color", "train") == read
    assert [len(read_t2i_compbench(folder / "color_train.txt", "color", split)) for split in ("train", "all")] == [2, 2]
    everything = read_t2i_compbench(tmp_path, "color", "all")
    assert [found.split for found in everything] == ["train", "train", "val"]
    assert len(templated([found.text for found in everything])) == 2
    with pytest.raises(OptionError, match="colour"):
        read_t2i_compbench(tmp_path, "colour")
    with pytest.raises(DataError, match=r"texture_val\.txt"):
        read_t2i_compbench(tmp_path, "texture")


def test_own_prompts(tmp_path):
    (tmp_path / "own.txt").write_text("a red book\n\n a cup \n")
    assert read_prompts(tmp_path / "own.txt") == ["a red book", "a cup"]
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "a cup"}) + "\n")
    assert read_prompts(tmp_path / "own.jsonl") == ["a cup"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="empty"):
        read_prompts(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_prompts(tmp_path / "latin.txt")


def test_coco_prompts_are_one_a_picture(tmp_path):
    entries = [(7, 3, "second"), (7, 1, " first "), (2, 9, "other"), (5, 4, "third")]
    content = {"annotations": [{"image_id": image, "id": number, "caption": text} for image, number, text in entries]}
    path = tmp_path / "captions_val.json"
    path.write_text(json.dumps(content))
    assert read_coco_prompts(path) == ["other", "third", "first"]
    drawn = read_coco_prompts(path, 2, seed=1)
    assert len(set(drawn)) == 2
    content["annotations"].reverse()
    path.write_text(json.dumps(content))
    assert read_coco_prompts(path, 2, seed=1) == drawn
    with pytest.raises(DataError, match="3 pictures"):
        read_coco_prompts(path, 4)
    path.write_text(json.dumps({"annotations": [{"image_id": 1}]}))
    with pytest.raises(DataError, match="COCO"):
        read_coco_prompts(path)
