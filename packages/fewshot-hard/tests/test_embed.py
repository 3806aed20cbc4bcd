"""Embedding as a sweep: equal to a direct call inline and on Ray, computed once, and blamed on the right image."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError
from pellucid.fewshot_hard.backbones import Backbone, load_backbone
from pellucid.fewshot_hard.embed import embed
from pellucid.fewshot_hard.images import ImageSet, load_images
from PIL import Image

CONV = "conv4:4/16"


def images(count: int = 11) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, 12, 10, 3)).astype(np.uint8)
    marks = {"odd": np.arange(count) % 2 == 1}
    return ImageSet(pixels, np.arange(count) % 2, ("a", "b"), tuple(f"i{row}" for row in range(count)), marks)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through a backbone in each call."""
    real, sizes = Backbone.__call__, list[int]()

    def counted(self: Backbone, batch: Any) -> Any:
        sizes.append(len(batch))
        return real(self, batch)

    monkeypatch.setattr(Backbone, "__call__", counted)
    return sizes


@pytest.mark.parametrize(("spec", "weights"), [("pixels", None), (CONV, None), ("timm:test_vit", "random")])
def test_inline_equals_a_direct_call(tmp_path: Path, spec: str, weights: str | None) -> None:
    given = images()
    pool = embed(given, spec, tmp_path, weights=weights, batch=4)
    direct = load_backbone(spec, weights)(list(given.read(range(len(given)))))
    np.testing.assert_allclose(pool.embeddings, direct, atol=1e-5)
    assert pool.embeddings.dtype == np.float32
    assert (pool.labels.tolist(), pool.classes, list(pool.ids)) == (
        given.labels.tolist(),
        given.classes,
        list(given.ids),
    )
    assert pool.annotations["odd"].tolist() == given.annotations["odd"].tolist()
    assert pool.contents is not None
    assert pool.contents.tolist() == given.contents.tolist()


@pytest.mark.ray
def test_workers_do_not_matter(tmp_path: Path) -> None:
    from pellucid.core.sweeps.cluster import connected

    logging.getLogger("ray").setLevel(logging.ERROR)
    inline = embed(images(), CONV, tmp_path / "inline", batch=3)
    with connected(None, 2):
        remote = embed(images(), CONV, tmp_path / "ray", workers=2, batch=3)
    np.testing.assert_allclose(remote.embeddings, inline.embeddings, atol=1e-5)
    assert remote.digest == inline.digest


def test_nothing_is_computed_twice(tmp_path: Path, calls: list[int]) -> None:
    given = images()
    first = embed(given, CONV, tmp_path, batch=4)
    assert sum(calls) == 11
    again = embed(given, CONV, tmp_path, batch=4)
    assert sum(calls) == 11
    np.testing.assert_array_equal(again.embeddings, first.embeddings)
    # In another order, and without some: known by content, so still nothing to do, and each row keeps its own.
    part = embed(given.subset([9, 2, 5]), CONV, tmp_path, batch=4)
    assert sum(calls) == 11
    np.testing.assert_array_equal(part.embeddings, first.embeddings[[9, 2, 5]])
    # Other weights are another backbone.
    embed(given, "conv4:4/32", tmp_path, batch=4)
    assert sum(calls) == 22


def test_an_image_that_is_there_twice_is_computed_once(tmp_path: Path, calls: list[int]) -> None:
    given = images(6)
    assert isinstance(given.images, np.ndarray)
    twice = ImageSet(given.images[[0, 1, 0, 2, 1, 0]], np.array([0, 1, 0, 1, 0, 1]), ("a", "b"), tuple("uvwxyz"))
    pool = embed(twice, CONV, tmp_path)
    assert sum(calls) == 3
    np.testing.assert_array_equal(pool.embeddings[[0, 0, 1]], pool.embeddings[[2, 5, 4]])
    direct = load_backbone(CONV)(list(twice.read(range(6))))
    np.testing.assert_allclose(pool.embeddings, direct, atol=1e-5)


def test_a_killed_run_goes_on_where_it_stopped(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, counted = images(), Backbone.__call__

    def killed(self: Backbone, batch: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counted(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(given, CONV, tmp_path / "ledger", batch=3)
    resumed = embed(given, CONV, tmp_path / "ledger", batch=3)
    assert calls == [3, 3, 3, 2]
    whole = embed(given, CONV, tmp_path / "whole", batch=3)
    np.testing.assert_array_equal(resumed.embeddings, whole.embeddings)


def test_an_embedding_that_is_not_finite_names_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, real = images(), Backbone.__call__
    assert isinstance(given.images, np.ndarray)
    bad = given.images[7]

    def spoilt(self: Backbone, batch: Any) -> Any:
        found = real(self, batch)
        found[[np.array_equal(image, bad) for image in batch]] = np.nan
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "__call__", spoilt)
        with pytest.raises(DataError, match="cannot embed the image 'i7': its embedding is not finite") as caught:
            embed(given, CONV, tmp_path, batch=4)
    assert "\n" not in str(caught.value)
    # Mended, what had failed is tried again.
    assert np.isfinite(embed(given, CONV, tmp_path, batch=4).embeddings).all()


def test_a_folder_by_its_path_and_a_file_that_has_gone(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for row in range(6):
        path = root / "ab"[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images().images[row]).save(path)
    pool = embed(root, CONV, tmp_path / "ledger")
    assert list(pool.ids) == ["a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/3.png", "b/5.png"]
    direct = load_backbone(CONV)([images().images[row] for row in (0, 2, 4, 1, 3, 5)])
    np.testing.assert_allclose(pool.embeddings, direct, atol=1e-5)
    known = load_images(root)
    (root / "a/2.png").unlink()
    with pytest.raises(DataError, match=r"cannot embed the image 'a/2\.png'"):
        embed(known, CONV, tmp_path / "other")


def test_importing_the_package_stays_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys, pellucid.fewshot_hard, pellucid.fewshot_hard.images, pellucid.fewshot_hard.pools;"
        "print([name for name in ('torch', 'timm', 'open_clip', 'ray', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_threads_are_left_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    embed(images(), CONV, tmp_path)
    assert torch.get_num_threads() == before
