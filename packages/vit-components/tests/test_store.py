"""Pictures, contributions as a sweep, shares and ablation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.pictures import open_picture
from pellucid.vit_components.ablation import ablate_layers, classify
from pellucid.vit_components.cli import app
from pellucid.vit_components.components import Component
from pellucid.vit_components.decompose import rep_decompose
from pellucid.vit_components.encoders import VisionModel, load_vision
from pellucid.vit_components.pictures import Pictures, read_pictures
from pellucid.vit_components.shares import mean_norms, variance_shares
from pellucid.vit_components.store import Contributions, contributions
from PIL import Image
from timm.models import save_for_hf
from typer.testing import CliRunner

_SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny timm model as a folder."""
    out = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, **_SIZES)
    save_for_hf(model, str(out), {"label_names": ["ant", "bee", "cow"]}, _SIZES, safe_serialization=True)
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures in a folder a class."""
    out = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(7):
        path = out / ("ant", "bee", "cow")[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (40, 36, 3), dtype=np.uint8)).save(path)
    return out


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionModel:
    return load_vision(f"timm:{folder}")


@pytest.fixture(scope="module")
def found(model: VisionModel, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Contributions:
    return contributions(model, read_pictures(images), tmp_path_factory.mktemp("ledger"), batch=3)


def test_a_sweep_gives_what_one_picture_at_a_time_gives(model: VisionModel, found: Contributions) -> None:
    for place, path in enumerate(found.pictures.paths):
        alone = rep_decompose(model.model, model.prepare([open_picture(path)]))
        assert alone.components == found.components
        assert np.allclose(found.parts[:, place], alone.parts[:, 0].numpy(), atol=1e-5)
    assert np.allclose(found.parts.sum(0), found.representation, atol=1e-4)


def test_what_the_ledger_holds_is_not_computed_again(
    model: VisionModel, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = contributions(model, read_pictures(images), tmp_path, last_layers=1)
    monkeypatch.setattr("pellucid.vit_components.store._decompose", None)
    files = sorted(path.name for path in tmp_path.rglob("*.parquet"))
    monkeypatch.undo()
    again = contributions(model, read_pictures(images), tmp_path, last_layers=1)
    assert sorted(path.name for path in tmp_path.rglob("*.parquet")) == files
    assert (first.parts == again.parts).all()
    assert [one.kind for one in again.components] == ["mlp", "init"]


@pytest.mark.ray
@pytest.mark.slow
def test_workers_give_the_same(folder: Path, images: Path, found: Contributions, tmp_path: Path) -> None:
    spread = contributions(f"timm:{folder}", read_pictures(images), tmp_path, workers=1, batch=3)
    assert np.allclose(spread.parts, found.parts, atol=1e-5)


def test_shares_sum_to_one_and_norms_are_lengths(found: Contributions) -> None:
    assert variance_shares(found).sum() == pytest.approx(1, abs=1e-5)
    by_hand = [np.mean([np.linalg.norm(part) for part in parts]) for parts in found.parts]
    assert np.allclose(mean_norms(found), by_hand, rtol=1e-5)
    still = Contributions(found.components, found.parts[:, :1], found.representation[:1], found.pictures)
    assert (variance_shares(still) == 0).all()


def test_ablation_equals_replacing_parts_by_hand(model: VisionModel, found: Contributions) -> None:
    right = classify(model.model, found.representation)
    with torch.inference_mode():
        images = model.prepare([open_picture(path) for path in found.pictures.paths])
        assert (right == model.model(images).argmax(1).numpy()).all()
    results = ablate_layers(model.model, found, right)
    assert results[0].accuracy.value == 1
    assert [one.layers for one in results] == [0, 1, 2, 3, 4]
    assert results[1].name == "blocks.1.mlp"
    left = found.parts.copy()
    for place, one in enumerate(found.components):
        if one.layer >= 2:
            left[place] = left[place].mean(0)
    hits = classify(model.model, left.sum(0)) == right
    assert results[2].accuracy.value == pytest.approx(hits.mean())
    with pytest.raises(DataError, match="give one each"):
        ablate_layers(model.model, found, right[:2])


def test_annotations_are_read(images: Path, tmp_path: Path) -> None:
    pictures = read_pictures(images)
    assert set(pictures.labels["label"]) == {"ant", "bee", "cow"}
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(pictures.paths[0].read_bytes())
    (tmp_path / "annotations.csv").write_text("file,split,colour\na.png,train,red\nb.png,test,blue\n")
    some = read_pictures(tmp_path, "test")
    assert (some.ids, some.labels["colour"]) == (("b.png",), ("blue",))
    with pytest.raises(DataError, match="has no pictures of the split 'x'"):
        read_pictures(tmp_path, "x")
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"names a.png \(1 such\), which is not there"):
        read_pictures(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        read_pictures(tmp_path / "none")


def test_commands_write_reports(folder: Path, images: Path, tmp_path: Path) -> None:
    run = CliRunner()
    options = ["--model", f"timm:{folder}", "--images", str(images), "-n", "6"]
    done = run.invoke(app, ["decompose", *options, "--out", str(tmp_path / "d")])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "d").iterdir()} >= {"result.json", "report.html", "figures", "tables"}
    done = run.invoke(app, ["ablate", *options, "--out", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a/figures/ablation.png").is_file()


def test_bad_input_is_one_line(folder: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is no vision model"):
        load_vision("timm:")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_vision("timm:no_such_model")
    with pytest.raises(OptionError, match="device 'cuda:9'"):
        load_vision(f"timm:{folder}", "cuda:9")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        open_picture(tmp_path / "broken.png")
    broken = Pictures((tmp_path / "broken.png",), ("broken.png",))
    with pytest.raises(DataError, match=r"broken.png \(1 such\) could not be read and run"):
        contributions(f"timm:{folder}", broken, tmp_path / "ledger")
    with pytest.raises(ModelError, match="has no linear classifier"):
        classify(torch.nn.Identity(), np.zeros((1, 2), np.float32))
    assert Component("init", "init").layer == -1
