"""Heat maps, segmentation, debiasing, and published layouts."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.vit_components.debiasing import group_accuracies, mean_ablated
from pellucid.vit_components.decompose import rep_decompose
from pellucid.vit_components.heatmaps import grid_of, heat_maps, spread
from pellucid.vit_components.layouts import unpack_segmentation
from pellucid.vit_components.pictures import read_pictures
from pellucid.vit_components.segmentation import average_precision, measure, segment
from pellucid.vit_components.store import Contributions
from PIL import Image


@pytest.mark.parametrize(
    ("tokens", "size", "grid"), [(65, (64, 64), (8, 8)), (64, (32, 32), (8, 8)), (5 + 8, (32, 64), (2, 4))]
)
def test_grids_leave_class_tokens_and_registers_out(tokens: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert grid_of(tokens, size) == grid
    values = np.arange(tokens, dtype=float)[:, None]
    drawn = spread(values, grid)
    assert np.allclose(drawn[0], values[tokens - grid[0] * grid[1] :].reshape(grid))


def test_tokens_that_are_no_grid_are_refused() -> None:
    with pytest.raises(OptionError, match="no grid over"):
        grid_of(1, (7, 5))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_heat_maps_are_token_parts_along_a_text(name: str) -> None:
    options = {"img_size": 64, "num_classes": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, **options).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    head = [one.name for one in rep_decompose(model, images).components if one.kind == "head"][-1]
    direction = np.random.default_rng(0).standard_normal(5)
    tokens = rep_decompose(model, images, tokens=[head]).tokens[head].double().numpy()
    maps = np.random.default_rng(1).standard_normal((tokens.shape[2], 5))
    drawn = heat_maps(model, images, [head], [maps], direction)
    assert drawn.shape == (1, 2, 64, 64)
    rows, columns = grid_of(len(tokens), (64, 64))
    own = np.array([[(token @ maps) @ direction for token in tokens[-rows * columns :, sample]] for sample in range(2)])
    # Bilinear growth by a whole factor keeps the mean of the inner cells; the plain mean is near it.
    grown = torch.nn.functional.interpolate(
        torch.from_numpy(own.reshape(2, 1, rows, columns)), (64, 64), mode="bilinear"
    )
    assert np.allclose(drawn[0], grown[:, 0].numpy(), rtol=1e-4, atol=1e-6 * np.abs(own).max())


def test_segmentation_is_measured_as_by_hand() -> None:
    random = np.random.default_rng(0)
    maps, masks = random.standard_normal((3, 5, 6)), random.random((3, 5, 6)) > 0.6
    found = measure(maps, masks, 0)
    told = segment(maps)
    accuracy, ious = [], []
    for one, mask, scores in zip(told, masks, maps, strict=True):
        assert (one == (scores > scores.mean())).all()
        accuracy.append(np.mean([a == b for a, b in zip(one.ravel(), mask.ravel(), strict=True)]))
        both = [
            np.sum((one == kind) & (mask == kind)) / np.sum((one == kind) | (mask == kind)) for kind in (True, False)
        ]
        ious.append(np.mean(both))
    assert found.pixel_accuracy.value == pytest.approx(np.mean(accuracy))
    assert found.mean_iou.value == pytest.approx(np.mean(ious))
    with pytest.raises(DataError, match="differ in shape"):
        measure(maps, masks[:2], 0)
    masks[1] = True
    with pytest.raises(DataError, match=r"mask 1 \(1 such\) is all thing"):
        measure(maps, masks, 0)


def test_average_precision_is_the_sum_over_thresholds() -> None:
    random = np.random.default_rng(1)
    scores, truth = random.integers(0, 6, 40).astype(float), random.random(40) > 0.5
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        told = scores >= threshold
        recall = (told & truth).sum() / truth.sum()
        area += (told & truth).sum() / told.sum() * (recall - before)
        before = recall
    assert average_precision(scores, truth) == pytest.approx(area)


def test_components_at_their_mean_say_the_same_of_all(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    parts = random.standard_normal((3, 8, 4)).astype(np.float32)
    found = Contributions((), parts, parts.sum(0), None)  # type: ignore[arg-type]  # only the numbers are read
    left = mean_ablated(found, np.array([0, 2]))
    by_hand = parts[1] + parts[0].mean(0) + parts[2].mean(0)
    assert np.allclose(left, by_hand, atol=1e-6)
    assert np.allclose(mean_ablated(found, np.array([], int)), found.representation)


def test_groups_are_counted_apart_and_weigh_the_same() -> None:
    hits = np.array([1, 1, 0, 1, 0, 0, 0, 1.0])
    groups = ("a", "a", "a", "a", "b", "b", "c", "c")
    found = group_accuracies(hits, groups, 0)
    assert {name: one.value for name, one in found.groups.items()} == {"a": 0.75, "b": 0.0, "c": 0.5}
    assert (found.worst, found.average.value) == ("b", pytest.approx((0.75 + 0 + 0.5) / 3))
    with pytest.raises(DataError, match="one group"):
        group_accuracies(hits, ("a",) * 8, 0)
    with pytest.raises(DataError, match="give one each"):
        group_accuracies(hits, groups[:3], 0)


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_waterbirds_as_it_lies_on_disk(tmp_path: Path) -> None:
    for number in range(3):
        _picture(tmp_path / f"bird/{number}.jpg")
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    lines += [f"{n},bird/{n}.jpg,{y},{s},{p},x" for n, (y, s, p) in enumerate([(0, 0, 1), (1, 2, 0), (1, 2, 1)])]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    found = read_pictures(tmp_path, "test")
    assert found.labels["group"] == ("waterbird on land", "waterbird on water")
    assert read_pictures(tmp_path).labels["label"] == ("landbird", "waterbird", "waterbird")
    (tmp_path / "metadata.csv").write_text("\n".join([lines[0], "0,bird/0.jpg,7,0,0,x"]))
    with pytest.raises(DataError, match="line 2: not Waterbirds'"):
        read_pictures(tmp_path)


def test_imagenet_as_it_lies_on_disk(tmp_path: Path) -> None:
    for synset in ("n01440764", "n01443537"):
        _picture(tmp_path / f"val/{synset}/a.JPEG")
    (tmp_path / "LOC_synset_mapping.txt").write_text(
        "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"
    )
    found = read_pictures(tmp_path / "val")
    assert found.labels == {"label": ("n01440764", "n01443537"), "name": ("tench", "goldfish")}
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764\n")
    with pytest.raises(DataError, match="line 1: no synset"):
        read_pictures(tmp_path / "val")


def test_imagenet_segmentation_is_unpacked(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (5, 7, 3), dtype=np.uint8), random.integers(0, 255, (6, 4, 3), dtype=np.uint8)]
    masks = [random.integers(0, 2, one.shape[:2], dtype=np.uint8) for one in pictures]
    with h5py.File(tmp_path / "gtsegs_ijcv.mat", "w") as file:
        for name in ("img", "gt"):
            file.create_dataset(f"value/{name}", (2, 1), dtype=h5py.ref_dtype)
        for place, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
            file["value/img"][place, 0] = file.create_dataset(f"refs/i{place}", data=picture.transpose(2, 1, 0)).ref
            file.create_dataset(f"refs/m{place}", data=mask.T)
            cell = file.create_dataset(f"refs/c{place}", (1, 1), dtype=h5py.ref_dtype)
            cell[0, 0] = file[f"refs/m{place}"].ref
            file["value/gt"][place, 0] = cell.ref
    assert unpack_segmentation(tmp_path / "gtsegs_ijcv.mat", tmp_path / "out") == 2
    for place in range(2):
        assert (np.asarray(Image.open(tmp_path / f"out/images/0000{place}.png")) == pictures[place]).all()
        assert (np.asarray(Image.open(tmp_path / f"out/masks/0000{place}.png")) == 255 * masks[place]).all()
    (tmp_path / "other.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(DataError, match=r"is not gtsegs_ijcv.mat"):
        unpack_segmentation(tmp_path / "other.mat", tmp_path / "out")
