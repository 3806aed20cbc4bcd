import json

import pytest
from pellucid.compose.captioned import CaptionedImage, one_caption_each, read_captions
from pellucid.core.errors import DataError
from pellucid.core.pictures import open_picture


@pytest.fixture
def folder(tmp_path, pictures):
    for name in ("a.png", "b.png"):
        pictures[0].save(tmp_path / name)
    return tmp_path


def test_tables_in_a_folder(folder):
    lines = [{"image": "b.png", "caption": "two"}, {"image": "a.png", "caption": "one", "id": "x"}]
    (folder / "captions.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    assert read_captions(folder) == [
        CaptionedImage(str(folder / "b.png"), "two", "0"),
        CaptionedImage(str(folder / "a.png"), "one", "x"),
    ]


def test_other_names_and_tables_mean_the_same(folder):
    from pyarrow import Table, parquet

    wanted = [CaptionedImage(str(folder / "a.png"), "one", "0")]
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "one"}))
    (folder / "pairs.csv").write_text("file,caption\na.png,one\n")
    parquet.write_table(Table.from_pylist([{"file": "a.png", "caption": "one"}]), folder / "pairs.parquet")
    for place in (folder, folder / "pairs.csv", folder / "pairs.parquet"):
        assert read_captions(place) == wanted


def test_texts_beside_pictures(folder):
    (folder / "a.txt").write_text(" a dog \n")
    assert read_captions(folder) == [CaptionedImage(str(folder / "a.png"), "a dog", "a")]


def test_cocos_own_layout(tmp_path, pictures):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    pictures[0].save(tmp_path / "val2017" / "7.jpg")
    content = {
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [{"id": 1, "image_id": 7, "caption": "A dog.\n"}, {"id": 2, "image_id": 7, "caption": "A cat."}],
    }
    path = tmp_path / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps(content))
    picture = str(tmp_path / "val2017" / "7.jpg")
    assert read_captions(path) == [CaptionedImage(picture, "A dog.", "1"), CaptionedImage(picture, "A cat.", "2")]
    assert read_captions(path, tmp_path / "val2017") == read_captions(path)
    assert one_caption_each(read_captions(path)) == [CaptionedImage(picture, "A dog.", "1")]
    path.write_text(json.dumps({"images": [], "annotations": [{"id": 1, "image_id": 7}]}))
    with pytest.raises(DataError, match="no captions file of COCO"):
        read_captions(path)


def test_what_is_wrong_is_said_in_one_line(folder):
    table = folder / "captions.jsonl"
    with pytest.raises(DataError, match="no captioned pictures"):
        read_captions(folder)
    with pytest.raises(DataError, match="there is no"):
        read_captions(folder / "nowhere")
    table.write_text('{"image": "c.png", "caption": "three"}')
    with pytest.raises(DataError, match=r"c.png \(1 of 1 missing\)"):
        read_captions(folder)
    table.write_text('{"image": "a.png"}')
    with pytest.raises(DataError, match="row 1: there is no field 'caption'"):
        read_captions(folder)
    table.write_text('{"image": "a.png", "caption": 3}')
    with pytest.raises(DataError, match="is 3: a text is wanted"):
        read_captions(folder)
    table.write_text("{")
    with pytest.raises(DataError, match="cannot be read as jsonl"):
        read_captions(folder)
    (folder / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        open_picture(folder / "bad.png")
