"""Tinyworld's vision transformers: timm reads what the trainings write."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pellucid.zoo.tinyworld import checkpoints, classifiers
from pellucid.zoo.tinyworld.classifiers import (
    CLASSES,
    ClassifierRecipe,
    build_classifier,
    classified_scenes,
    measure_classifier,
    objects_only,
    predicted,
    train_classifier,
)

RECIPE = ClassifierRecipe(pictures=12, steps=3, batch=4)


@pytest.mark.parametrize("name", list(CLASSES))
def test_a_trained_folder_is_read_by_timm(name: str, tmp_path: Path) -> None:
    recipe = RECIPE if name != "spurious" else replace(RECIPE, besides=0.0)
    train_classifier(name, tmp_path, recipe)
    net = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert net.num_classes == len(CLASSES[name])
    config = timm.data.resolve_model_data_config(net)
    assert (config["input_size"], config["crop_pct"], tuple(config["mean"])) == ((3, 64, 64), 1.0, (0.5, 0.5, 0.5))
    assert net.pretrained_cfg["label_names"] == list(CLASSES[name])
    found = measure_classifier(name, net, count=8, seed=3)
    assert found["worst group" if name == "spurious" else "object"]["n"] > 0
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pkl", ".pt")]


def test_a_training_cut_short_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_classifier("swin", tmp_path / "whole", RECIPE)
    true = checkpoints.fit

    class CutError(Exception):
        pass

    def fit(task: checkpoints.Task) -> float:
        def after(step: int) -> None:
            if step == 1:
                raise CutError

        return true(replace(task, after=after, keeping=checkpoints.Keeping(steps=1)))

    with monkeypatch.context() as patched:
        patched.setattr(classifiers, "fit", fit)
        with pytest.raises(CutError):
            train_classifier("swin", tmp_path / "cut", RECIPE)
    train_classifier("swin", tmp_path / "cut", RECIPE)
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_the_shipped_head_is_the_first_of_the_trained_one() -> None:
    with checkpoints.seeded(1):
        net = build_classifier("maxvit", 40).eval()
    alone = objects_only("maxvit", net)
    pictures = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(alone(pictures), net(pictures)[:, :16])


def test_scenes_depend_on_their_seed_alone() -> None:
    assert classified_scenes("vit", 20, 5) == classified_scenes("swin", 30, 5)[:20]
    assert classified_scenes("vit", 20, 5) != classified_scenes("vit", 20, 6)
    net = build_classifier("spurious").eval()
    pictures = np.zeros((5, 64, 64, 3), np.uint8)
    assert (predicted(net, pictures, 2) == predicted(net, pictures)).all()
