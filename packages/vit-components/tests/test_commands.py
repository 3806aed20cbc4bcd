"""The commands from alignment to debiasing, on tiny models of the real classes."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.testing_pipelines import clip_tokenizer
from pellucid.vit_components.cli import app
from pellucid.vit_components.clip import load_clip
from pellucid.vit_components.features import read_features
from PIL import Image
from timm.models import save_for_hf
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel
from typer.testing import CliRunner

_SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
_TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_FEATURES = {"colour": {"red": ["a red ant", "a red bee"], "blue": ["a blue ant"]}, "animal": ["ant", "bee", "cow"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier, a CLIP, annotated pictures, masks and features."""
    out = tmp_path_factory.mktemp("home")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, **_SIZES)
        tokenizer = clip_tokenizer()
        vision = {**_TOWER, "image_size": 32, "patch_size": 8}
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        text = {**_TOWER, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    save_for_hf(model, str(out / "vit"), {"label_names": ["ant", "bee", "cow"]}, _SIZES, safe_serialization=True)
    clip.save_pretrained(out / "clip")
    tokenizer.save_pretrained(out / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(out / "clip")
    random = np.random.default_rng(0)
    (out / "pictures").mkdir()
    (out / "masks").mkdir()
    with (out / "pictures/annotations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "animal", "colour", "group"])
        for number in range(24):
            animal, colour = ("ant", "bee", "cow")[number % 3], ("red", "blue")[number // 3 % 2]
            Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(out / f"pictures/{number}.png")
            mask = np.zeros((40, 40), np.uint8)
            mask[5:20, 5:30] = 255
            Image.fromarray(mask).save(out / f"masks/{number}.png")
            writer.writerow([f"{number}.png", animal, colour, f"{animal} {colour}"])
    (out / "features.json").write_text(json.dumps(_FEATURES))
    return out


def _run(home: Path, out: Path, command: str, *options: str, code: int = 0, model: str | None = None) -> str:
    model = model or f"timm:{home / 'vit'}"
    given = [command, "--model", model, "--images", str(home / "pictures"), "--out", str(out), *options]
    done = CliRunner().invoke(app, given)
    if code == 0:
        assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
        assert (out / "report.html").is_file()
    else:
        assert isinstance(done.exception, OptionError | DataError | ModelError)
        return str(done.exception)
    return done.output


def _result(out: Path) -> Any:
    return json.loads((out / "result.json").read_text())["results"]


@pytest.fixture(scope="module")
def aligned(home: Path) -> list[str]:
    """The options of every command after `align`."""
    out = home / "aligned"
    store = ["--store", str(home / "store")]
    _run(home, out, "align", "--clip", str(home / "clip"), "--last-layers", "0", "--steps", "5", "--ablations", *store)
    found = _result(out)
    assert set(found) == {"compalign", "free", "one", "alignment", "components"}
    assert 0 <= found["one"]["match_rate"]["value"] <= 1
    return ["--alignment", str(out / "alignment.safetensors"), "--features", str(home / "features.json"), *store]


def test_describing_and_scoring(home: Path, aligned: list[str], tmp_path: Path) -> None:
    _run(home, tmp_path / "d", "describe", *aligned, "--count", "2")
    found = _result(tmp_path / "d")["components"]
    assert len(found) == 10
    assert all(len(one["texts"]) == 2 for one in found)
    (tmp_path / "texts.txt").write_text("an ant\n\na cow\n")
    _run(home, tmp_path / "t", "describe", *aligned, "--texts", str(tmp_path / "texts.txt"))
    assert set(_result(tmp_path / "t")["components"][0]["texts"]) <= {"an ant", "a cow"}
    _run(home, tmp_path / "s", "score", *aligned)
    scored = _result(tmp_path / "s")
    assert {row["feature"] for row in scored["truth"]} == {"colour", "animal"}
    assert -1 <= scored["component_ordering"]["value"] <= 1


def test_a_clip_needs_no_alignment(home: Path, tmp_path: Path) -> None:
    features = ["--features", str(home / "features.json")]
    _run(home, tmp_path / "s", "score", *features, model=str(home / "clip"))
    assert len(_result(tmp_path / "s")["scores"]) == 6
    assert "is no CLIP: give --alignment" in _run(home, tmp_path / "n", "score", *features, code=2)


def test_retrieving(home: Path, aligned: list[str], tmp_path: Path) -> None:
    _run(home, tmp_path / "t", "retrieve", *aligned, "--feature", "colour", "--text", "red", "--top", "2")
    assert len(_result(tmp_path / "t")["retrieved"]) == 4 * 6
    like = str(home / "pictures/3.png")
    _run(home, tmp_path / "l", "retrieve", *aligned, "--like", like, "--top", "2")
    found = _result(tmp_path / "l")["retrieved"]
    assert len(found) == 2 * 5
    assert "3.png" not in {row["picture"] for row in found}
    assert "give --text with --feature" in _run(home, tmp_path / "n", "retrieve", *aligned, code=2)
    assert "--text needs --feature" in _run(home, tmp_path / "m", "retrieve", *aligned, "--text", "red", code=2)


def test_heat_maps_and_segmentation(home: Path, aligned: list[str], tmp_path: Path) -> None:
    picture = ["--picture", str(home / "pictures/0.png"), "--picture", str(home / "pictures/1.png")]
    _run(home, tmp_path / "h", "heatmap", *aligned, "--feature", "colour", "--text", "red", *picture, "--top", "2")
    assert len(_result(tmp_path / "h")["maps"]) == 4
    _run(
        home, tmp_path / "s", "segment", *aligned, "--feature", "animal", "--masks", str(home / "masks"), "--batch", "7"
    )
    assert 0 < _result(tmp_path / "s")["segmentation"]["mean_iou"]["value"] < 1
    wrong = _run(home, tmp_path / "w", "segment", *aligned, "--feature", "animal", "--masks", str(tmp_path), code=2)
    assert "has no mask 0.png" in wrong


def test_debiasing(home: Path, aligned: list[str], tmp_path: Path) -> None:
    named = ["--remove", "colour", "--keep", "animal", "--label", "animal"]
    _run(home, tmp_path / "d", "debias", *aligned, *named, "--top", "3")
    found = _result(tmp_path / "d")
    assert len(found["removed"]) == 3
    assert len(found["before"]["groups"]) == 6
    assert "there is no feature 'place'" in _run(
        home, tmp_path / "n", "debias", *aligned, "--remove", "place", "--keep", "animal", code=2
    )
    assert "no annotation 'label'" in _run(home, tmp_path / "m", "debias", *aligned, *named[:4], code=2)


def test_bad_input_is_one_line(home: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has no text encoder"):
        load_clip("timm:vit_tiny_patch16_224")
    clip = load_clip(str(home / "clip"))
    with pytest.raises(DataError, match="empty text"):
        clip.texts(["", "a"])
    assert np.allclose(np.linalg.norm(clip.texts(["an ant", "a bee"]), axis=1), 1)
    assert len(read_features(None, clip)) == 7
    for said, message in (("[]", "no object of features"), ('{"a": ["b"]}', "two instantiations"), ("x", "as JSON")):
        (tmp_path / "f.json").write_text(said)
        with pytest.raises(DataError, match=message):
            read_features(tmp_path / "f.json", clip)
