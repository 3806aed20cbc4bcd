import json
import zlib

import numpy as np
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.fewshot_hard.layouts import layout_names, load_layout, read_dataset
from PIL import Image
from scipy.io import savemat

NAMES = (
    "aircraft", "cu_birds", "cure_or", "dtd", "fungi", "mscoco", "objectnet", "omniglot", "orbit", "quickdraw",
    "traffic_sign", "vgg_flower",
)  # fmt: skip
META_DATASET = {n for n in NAMES if n not in ("cure_or", "objectnet", "orbit")}


def picture(path, seed=0, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng((zlib.crc32(str(path).encode()), seed)).integers(0, 256, (*size[::-1], 3))
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path)
    return path


def omniglot(root):
    for alphabet in ("Angelic", "Atlantean"):
        for character in ("character01", "character02"):
            for drawer in (1, 2):
                picture(root / "images_evaluation" / alphabet / character / f"0965_0{drawer}.png", mode="1")
    picture(root / "images_background" / "Greek" / "character01" / "0394_01.png")


def aircraft(root):
    for number in ("1025794", "1340192", "0056978"):
        picture(root / "data" / "images" / f"{number}.jpg", size=(40, 30))
    data = root / "data"
    (data / "images_variant_trainval.txt").write_text("1025794 707-320\n1340192 Boeing 717\n")
    (data / "images_variant_test.txt").write_text("0056978 707-320\n9999999 707-320\n")
    (data / "images_box.txt").write_text("1025794 1 1 40 20\n1340192 3 2 12 21\n0056978 5 5 100 100\n9999999 1 1 2 2\n")


def folders(root, middle, suffix, classes, each=2):
    for kind in classes:
        for index in range(each):
            picture(root / middle / kind / f"{kind}_{index}{suffix}")


def cu_birds(root):
    folders(root, "images", ".jpg", ("001.Black_footed_Albatross", "002.Laysan_Albatross"))
    (root / "images.txt").write_text("1 001.Black_footed_Albatross/x.jpg\n")


def dtd(root):
    folders(root, "images", ".jpg", ("banded", "dotted", "zigzagged"))
    (root / "images" / "banded" / ".directory").write_text("hidden")


def quickdraw(root):
    root.mkdir(parents=True, exist_ok=True)
    for index, kind in enumerate(("cat", "The Eiffel Tower")):
        drawings = np.random.default_rng(index).integers(0, 256, (5 + index, 784), dtype=np.uint8)
        np.save(root / f"{kind}.npy", drawings)


def coco_json(images, categories, annotations):
    return json.dumps({"images": images, "categories": categories, "annotations": annotations})


def fungi(root):
    categories = [{"id": 0, "name": "Abortiporus biennis"}, {"id": 1, "name": "Agaricus altipes"}]
    for number, name in enumerate(("train", "val")):
        images = [{"id": 10 * number + i, "file_name": f"images/kind_{i}/{name}{i}.JPG"} for i in range(2)]
        for image in images:
            picture(root / image["file_name"].replace(".JPG", ".jpg")).rename(root / image["file_name"])
        annotations = [{"id": i, "image_id": image["id"], "category_id": i} for i, image in enumerate(images)]
        (root / f"{name}.json").write_text(coco_json(images, categories, annotations))


def vgg_flower(root):
    for number in range(1, 5):
        picture(root / "jpg" / f"image_{number:05d}.jpg")
    savemat(root / "imagelabels.mat", {"labels": np.array([[77, 5, 77, 5]], dtype=np.uint8)})


def traffic_sign(root):
    folders(root, "Final_Training/Images", ".ppm", ("00000", "00014"))
    (root / "Final_Training" / "Images" / "00000" / "GT-00000.csv").write_text("Filename;Width\n")


def mscoco(root):
    images = [{"id": 9, "file_name": "000000000009.jpg"}, {"id": 25, "file_name": "000000000025.jpg"}]
    for image in images:
        picture(root / "train2017" / image["file_name"], size=(100, 80))
    annotations = [
        {"id": 1, "image_id": 9, "category_id": 51, "bbox": [10.0, 20.0, 20.0, 10.0]},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [90.0, 70.0, 10.0, 10.0]},
        {"id": 3, "image_id": 25, "category_id": 3, "bbox": [0.0, 0.0, 100.0, 80.0]},
        {"id": 4, "image_id": 25, "category_id": 3, "bbox": [300.0, 300.0, 5.0, 5.0]},
        {"id": 5, "image_id": 25, "category_id": 51, "bbox": [50.5, 40.5, 2.0, 2.0]},
    ]
    (root / "annotations").mkdir()
    kinds = [{"id": 3, "name": "car"}, {"id": 51, "name": "bowl"}]
    (root / "annotations" / "instances_train2017.json").write_text(coco_json(images, kinds, annotations))


ISSUES = (
    "framing_issue",
    "viewpoint_issue",
    "blur_issue",
    "occlusion_issue",
    "overexposed_issue",
    "underexposed_issue",
)


def orbit(root):
    for user, thing in (("P177", "bag"), ("P177", "keys"), ("P204", "bag")):
        for video in ("clean", "clutter"):
            stem = f"{user}--{thing}--{video}--xyz"
            frames = [f"{stem}-{number:05d}.jpg" for number in (1, 2, 3)]
            for frame in frames:
                picture(root / "test" / user / thing / video / stem / frame)
            notes = {
                frames[0]: {"object_not_present_issue": False} | dict.fromkeys(ISSUES, False) | {"blur_issue": True},
                frames[1]: {"object_not_present_issue": True} | dict.fromkeys(ISSUES),
            }
            folder = root / "annotations" / "test"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{stem}.json").write_text(json.dumps(notes))
    picture(root / "train" / "P001" / "cup" / "clean" / "v" / "v-00001.jpg")


def cure_or(root):
    for place, (orientation, thing) in enumerate(((1, 1), (3, 1), (2, 1), (5, 2), (1, 2))):
        picture(root / "01_no_challenge" / "white" / f"1_1_{orientation}_{thing:03d}_01_0.jpg", seed=place)
    picture(root / "01_no_challenge" / "cover.jpg")


def objectnet(root):
    folders(root, "images", ".png", ("air_freshener", "alarm_clock"))
    (root / "mappings").mkdir()
    names = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock"}
    (root / "mappings" / "folder_to_objectnet_label.json").write_text(json.dumps(names))


def read(name, root, **options):
    globals()[name](root)
    return read_dataset(name, root, crops=root / "crops", **options)


def test_there_is_a_layout_for_each_of_the_twelve():
    assert layout_names() == NAMES
    for name in NAMES:
        layout = load_layout(name)
        assert layout.documentation.startswith("https://")
        assert (layout.tasks == "meta-dataset") == (name in META_DATASET)


@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [
        ("omniglot", [f"{a}/character0{c}" for a in ("Angelic", "Atlantean") for c in (1, 2)], [2, 2, 2, 2]),
        ("aircraft", ["707-320", "Boeing 717"], [2, 1]),
        ("cu_birds", ["001.Black_footed_Albatross", "002.Laysan_Albatross"], [2, 2]),
        ("dtd", ["banded", "dotted", "zigzagged"], [2, 2, 2]),
        ("quickdraw", ["The Eiffel Tower", "cat"], [6, 5]),
        ("fungi", ["0000.Abortiporus biennis", "0001.Agaricus altipes"], [2, 2]),
        ("vgg_flower", ["5", "77"], [2, 2]),
        ("traffic_sign", ["00000", "00014"], [2, 2]),
        ("mscoco", ["bowl", "car"], [2, 2]),
        ("orbit", ["P177/bag", "P177/keys", "P204/bag"], [2, 2, 2]),
        ("cure_or", ["object 001", "object 002"], [3, 2]),
        ("objectnet", ["Air freshener", "Alarm clock"], [2, 2]),
    ],
)
def test_each_structure_is_read(tmp_path, name, classes, counts):
    found = read(name, tmp_path)
    assert list(found.classes) == classes
    assert np.bincount(found.labels).tolist() == counts
    assert len(set(found.ids)) == len(found.ids) == len(found.images) == sum(counts)
    assert len(found.contents) == sum(counts)
    again = read_dataset(name, tmp_path, crops=tmp_path / "crops")
    assert (list(again.ids), again.labels.tolist()) == (list(found.ids), found.labels.tolist())
    assert again.contents.tolist() == found.contents.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_data_set_names_what_was_looked_for_and_where_it_is_documented(tmp_path, name):
    with pytest.raises(DataError) as found:
        read_dataset(name, tmp_path / "none", crops=tmp_path)
    said = str(found.value)
    assert load_layout(name).documentation in said
    assert "\n" not in said
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="looked for") as found:
        read_dataset(name, tmp_path / "empty", crops=tmp_path)
    assert all(need in str(found.value) for need in load_layout(name).needs)


def opened(image):
    with Image.open(image) as held:
        return np.asarray(held.convert("RGB"))


def test_aircraft_are_cut_to_their_boxes(tmp_path):
    found = read("aircraft", tmp_path)
    sizes = {each: opened(image).shape[:2] for each, image in zip(found.ids, found.images, strict=True)}
    assert sizes == {
        "data/images/0056978.jpg": (26, 36),
        "data/images/1025794.jpg": (20, 40),
        "data/images/1340192.jpg": (20, 10),
    }
    whole = opened(tmp_path / "data" / "images" / "1340192.jpg")
    cut = opened(found.images[list(found.ids).index("data/images/1340192.jpg")])
    np.testing.assert_array_equal(cut, whole[1:21, 2:12])
    assert len(found.skipped) == 1
    assert "9999999.jpg: it is listed and not there" in found.skipped[0]


def test_coco_boxes_are_widened_and_clipped_and_useless_ones_named(tmp_path):
    found = read("mscoco", tmp_path)
    sizes = {each: opened(image).shape[:2] for each, image in zip(found.ids, found.images, strict=True)}
    assert sizes == {
        "train2017/000000000009.jpg#1": (12, 24),
        "train2017/000000000009.jpg#2": (11, 11),
        "train2017/000000000025.jpg#3": (80, 100),
        "train2017/000000000025.jpg#5": (3, 3),
    }
    assert any("#4" in each and "lies outside" in each for each in found.skipped)
    whole = opened(tmp_path / "train2017" / "000000000009.jpg")
    np.testing.assert_array_equal(opened(found.images[list(found.ids).index("train2017/000000000009.jpg#1")]),
                                  whole[19:31, 8:32])  # fmt: skip


def test_cut_pictures_are_kept_and_others_added(tmp_path):
    found = read("objectnet", tmp_path)
    assert all(opened(image).shape[:2] == (6, 8) for image in found.images)
    first, second, *_ = sorted((tmp_path / "crops").iterdir())
    second.unlink()
    times = first.stat().st_mtime_ns
    again = read_dataset("objectnet", tmp_path, crops=tmp_path / "crops")
    assert first.stat().st_mtime_ns == times
    assert second.is_file()
    assert again.contents.tolist() == found.contents.tolist()
    with pytest.raises(OptionError, match="give a folder for them"):
        read_dataset("objectnet", tmp_path)


def test_drawings_come_as_arrays(tmp_path):
    found = read("quickdraw", tmp_path)
    assert found.images.shape == (11, 28, 28)
    cat = np.load(tmp_path / "cat.npy")
    np.testing.assert_array_equal(found.images[list(found.ids).index("cat/3")], cat[3].reshape(28, 28))
    np.save(tmp_path / "dog.npy", np.zeros((3, 100), np.uint8))
    with pytest.raises(DataError, match=r"dog.npy holds uint8 of shape \(3, 100\)"):
        read_dataset("quickdraw", tmp_path)
    (tmp_path / "dog.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot read .*dog.npy"):
        read_dataset("quickdraw", tmp_path)


def test_orbits_issues_are_annotations_and_frames_without_are_named(tmp_path):
    found = read("orbit", tmp_path)
    assert set(found.annotations) == {"object_not_present_issue", *ISSUES}
    assert found.annotations["blur_issue"].tolist() == [True, False] * 3
    assert found.annotations["object_not_present_issue"].tolist() == [False, True] * 3
    assert sum("00003.jpg: it is not annotated" in each for each in found.skipped) == 3


def test_orbit_without_its_annotations_is_read_without(tmp_path):
    orbit(tmp_path)
    for path in (tmp_path / "annotations" / "test").iterdir():
        path.unlink()
    (tmp_path / "annotations" / "test").rmdir()
    found = read_dataset("orbit", tmp_path)
    assert not found.annotations
    assert len(found.ids) == 9


def test_viewpoints_come_from_file_names(tmp_path):
    found = read("cure_or", tmp_path)
    views = {each: [n for n, v in found.annotations.items() if v[i]] for i, each in enumerate(found.ids)}
    assert views["01_no_challenge/white/1_1_1_001_01_0.jpg"] == ["front", "front_or_back"]
    assert views["01_no_challenge/white/1_1_2_001_01_0.jpg"] == ["left", "side"]
    assert views["01_no_challenge/white/1_1_5_002_01_0.jpg"] == ["top"]
    assert any("cover.jpg: its name is not" in each for each in found.skipped)


def test_classes_can_be_named_or_listed(tmp_path):
    cu_birds(tmp_path)
    assert read_dataset("cu_birds", tmp_path, classes=["002.Laysan_Albatross"]).classes == ("002.Laysan_Albatross",)
    assert read_dataset("cu_birds", tmp_path, classes=["2"]).classes == ("002.Laysan_Albatross",)
    listed = tmp_path / "some.txt"
    listed.write_text("001.Black_footed_Albatross\n\n")
    assert read_dataset("cu_birds", tmp_path, classes=listed).classes == ("001.Black_footed_Albatross",)
    split = {"train": ["001.Black_footed_Albatross"], "valid": [], "test": ["002.Laysan_Albatross"]}
    (tmp_path / "cu_birds_splits.json").write_text(json.dumps(split))
    assert read_dataset("cu_birds", tmp_path).classes == ("002.Laysan_Albatross",)
    with pytest.raises(
        DataError, match=r"has no class '003.Sooty' \(1 of 1 are missing\): its classes are called like"
    ):
        read_dataset("cu_birds", tmp_path, classes=["003.Sooty"])
    (tmp_path / "cu_birds_splits.json").write_text("{")
    with pytest.raises(DataError, match="cannot read the classes of"):
        read_dataset("cu_birds", tmp_path)
    vgg_flower(tmp_path / "flowers")
    (tmp_path / "flowers" / "vgg_flower_splits.json").write_text(json.dumps({"test": [77]}))
    assert read_dataset("vgg_flower", tmp_path / "flowers").classes == ("77",)


def test_so_many_a_class_are_drawn_by_the_seed_whatever_other_classes_there_are(tmp_path):
    folders(tmp_path, "images", ".jpg", ("banded", "dotted"), each=9)
    found = read_dataset("dtd", tmp_path, per_class=4, seed=1)
    assert np.bincount(found.labels).tolist() == [4, 4]
    alone = read_dataset("dtd", tmp_path, per_class=4, seed=1, classes=["dotted"])
    assert list(alone.ids) == [each for each in found.ids if "dotted" in each]
    assert list(read_dataset("dtd", tmp_path, per_class=4, seed=2).ids) != list(found.ids)
    assert len(read_dataset("dtd", tmp_path, per_class=99).ids) == 18
    with pytest.raises(OptionError, match="per_class is 0"):
        read_dataset("dtd", tmp_path, per_class=0)
    quickdraw(tmp_path / "draw")
    assert np.bincount(read_dataset("quickdraw", tmp_path / "draw", per_class=3).labels).tolist() == [3, 3]


def test_unreadable_images_are_named_and_left_out(tmp_path):
    dtd(tmp_path)
    (tmp_path / "images" / "dotted" / "dotted_0.jpg").write_bytes(b"no picture")
    found = read_dataset("dtd", tmp_path)
    assert np.bincount(found.labels).tolist() == [2, 1, 2]
    assert sum("images/dotted/dotted_0.jpg" in each for each in found.skipped) == 1


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("fungi", "train.json", "{}"),
        ("fungi", "train.json", "no json"),
        ("aircraft", "data/images_box.txt", "1025794 1 1\n"),
        ("vgg_flower", "imagelabels.mat", "no matlab"),
        ("objectnet", "mappings/folder_to_objectnet_label.json", "{"),
    ],
)
def test_damaged_lists_are_refused_in_one_line(tmp_path, name, file, content):
    globals()[name](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError) as found:
        read_dataset(name, tmp_path, crops=tmp_path / "crops")
    assert file.split("/")[-1] in str(found.value)
    assert "\n" not in str(found.value)


def test_a_layout_of_ones_own(tmp_path):
    picture(tmp_path / "data" / "scan_7_oak.png")
    picture(tmp_path / "data" / "scan_8_elm.png")
    own = tmp_path / "trees.toml"
    own.write_text(
        'title = "Trees"\ndocumentation = "https://example.org"\nkind = "files"\nneeds = ["."]\ntasks = "fixed"\n'
        'glob = "*.png"\nmatch = \'scan_(?P<n>\\d)_(?P<tree>\\w+)\\.png\'\nclass = "{tree}"\n'
    )
    assert read_dataset(own, tmp_path / "data").classes == ("elm", "oak")
    for change, match in (
        (('kind = "files"', 'kind = "tar"'), "has the kind 'tar'"),
        (("glob =", "globe ="), "has the key 'globe'"),
        (('title = "Trees"\n', ""), "is not a whole layout"),
        (('glob = "*.png"\n', ""), "of the kind 'files' and has no 'glob'"),
        (("(?P<n>", "(?P<n"), "is not a whole layout"),
        (("title =", "title"), "cannot read the layout"),
    ):
        bad = tmp_path / "bad.toml"
        bad.write_text(own.read_text().replace(*change))
        with pytest.raises(DataError, match=match):
            read_dataset(bad, tmp_path / "data")
    with pytest.raises(OptionError, match="no layout 'imagenet': give one of aircraft, cu_birds"):
        read_dataset("imagenet", tmp_path)
