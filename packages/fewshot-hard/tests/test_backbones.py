"""Backbones: real classes of every library with random weights, their preparation, revisions and refusals."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.fewshot_hard.backbones import Conv4, load_backbone
from safetensors.torch import load_file, save_file

GREY = [np.random.default_rng(seed).integers(0, 256, size=(8, 8)).astype(np.uint8) for seed in range(3)]
RGB = [np.random.default_rng(seed).integers(0, 256, size=(20, 24, 3)).astype(np.uint8) for seed in range(3)]


def open_clip_folder(root: Path) -> Path:
    config = {
        "model_cfg": {
            "embed_dim": 12,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
            "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    root.mkdir()
    (root / "open_clip_config.json").write_text(json.dumps(config))
    return root


def transformers_folder(root: Path, kind: str) -> Path:
    import transformers

    torch.manual_seed(3)  # not the seed of random weights
    tower: dict[str, Any] = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "intermediate_size": 24}
    tower |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "vit":
        model: Any = transformers.ViTModel(transformers.ViTConfig(**tower))
    else:
        text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        text |= {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
        model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=tower, projection_dim=6))
    model.save_pretrained(root)
    size = {"height": 16, "width": 16}
    settings: dict[str, Any] = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if kind == "clip":
        settings |= {"size": {"shortest_edge": 16}, "crop_size": size}
    maker = transformers.ViTImageProcessor if kind == "vit" else transformers.CLIPImageProcessor
    maker(**settings).save_pretrained(root)
    return root


def test_pixels_are_the_pixels() -> None:
    plain = load_backbone("pixels")
    np.testing.assert_allclose(plain(GREY), np.stack(GREY).reshape(3, 64) / 255, atol=1e-7)
    assert plain(RGB).shape == (3, 20 * 24 * 3)
    assert load_backbone("pixels:4")(GREY).shape == (3, 16)
    with pytest.raises(DataError, match=r"8x8 and 9x8 pixels: take pixels:SIZE"):
        plain([GREY[0], np.zeros((9, 8), np.uint8)])
    assert plain.revision != load_backbone("pixels:4").revision


def test_conv4_equals_its_layers_called_one_by_one() -> None:
    backbone = load_backbone("conv4:6/20")
    assert backbone.dim == 6
    held = dict(backbone.module.state_dict())
    images = backbone.prepare(RGB)
    assert images.shape == (3, 3, 20, 20)
    assert -1 <= images.min() < images.max() <= 1
    for place in range(4):
        weights = {key: held[f"blocks.{place}.{key}"] for key in ("0.weight", "0.bias", "1.weight", "1.bias")}
        images = torch.nn.functional.conv2d(images, weights["0.weight"], weights["0.bias"], padding=1)
        mean, variance = held[f"blocks.{place}.1.running_mean"], held[f"blocks.{place}.1.running_var"]
        images = (images - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        images = (images * weights["1.weight"][:, None, None] + weights["1.bias"][:, None, None]).relu()
        images = torch.nn.functional.max_pool2d(images, 2)
    np.testing.assert_allclose(backbone(RGB), images.flatten(1).numpy(), atol=1e-5)
    assert load_backbone("conv4").dim == 64 * 5 * 5


def test_a_call_leaves_the_module_as_it_was() -> None:
    backbone = load_backbone("conv4:4/16")
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    backbone.module.train()
    first = backbone(GREY)
    assert backbone.module.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.module.state_dict().items())
    # Evaluation mode: an image's embedding does not depend on its company.
    np.testing.assert_allclose(np.concatenate([backbone([image]) for image in GREY]), first, atol=1e-6)


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = load_backbone("conv4:4/16"), load_backbone("conv4:4/16", "random")
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(one(GREY), two(GREY))
    assert one.revision == two.revision
    assert one.revision.startswith("sha256:")


def test_a_revision_tells_weights_architecture_and_preparation(tmp_path: Path) -> None:
    backbone = load_backbone("conv4:4/16")
    held = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    save_file(held, tmp_path / "same.safetensors")
    held["blocks.0.0.bias"][0] += 1e-3
    save_file(held, tmp_path / "other.safetensors")
    assert load_backbone("conv4:4/16", tmp_path / "same.safetensors").revision == backbone.revision
    other = load_backbone("conv4:4/16", tmp_path / "other.safetensors")
    # The same weights for images of another size are another backbone.
    larger = load_backbone("conv4:4/32", tmp_path / "same.safetensors")
    assert len({backbone.revision, other.revision, larger.revision}) == 3
    assert not np.array_equal(other(GREY), backbone(GREY))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_timm_as_its_own_functions_say(name: str) -> None:
    import timm
    from PIL import Image

    backbone = load_backbone(f"timm:{name}", "random")
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    model.load_state_dict(backbone.module.state_dict())
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    batch = torch.stack([transform(Image.fromarray(image).convert("RGB")) for image in RGB])
    with torch.inference_mode():
        np.testing.assert_allclose(backbone(RGB), model(batch).numpy(), atol=1e-5)
    assert backbone(GREY).shape == (3, backbone.dim) == (3, model.num_features)


def test_open_clip_as_its_own_functions_say(tmp_path: Path) -> None:
    import open_clip
    from PIL import Image

    folder = open_clip_folder(tmp_path / "clip")
    backbone = load_backbone(f"open_clip:{folder}", "random")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", load_weights=False)
    model.visual.load_state_dict(backbone.module.state_dict())
    batch = torch.stack([transform(Image.fromarray(image)) for image in RGB])
    with torch.inference_mode():
        np.testing.assert_allclose(backbone(RGB), model.eval().encode_image(batch).numpy(), atol=1e-5)
    assert backbone.dim == 12
    # A whole CLIP's file will do: the image tower is taken out of it.
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    for weights in (None, folder / "open_clip_model.safetensors"):
        np.testing.assert_array_equal(load_backbone(f"open_clip:{folder}", weights)(RGB), backbone(RGB))


@pytest.mark.parametrize(("kind", "dim"), [("vit", 16), ("clip", 6)])
def test_transformers_as_its_own_classes_say(tmp_path: Path, kind: str, dim: int) -> None:
    from transformers import AutoImageProcessor, CLIPModel, ViTModel

    folder = transformers_folder(tmp_path / kind, kind)
    backbone = load_backbone(f"transformers:{folder}")
    pixels = AutoImageProcessor.from_pretrained(folder)(images=RGB, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        if kind == "vit":
            expected = ViTModel.from_pretrained(folder).eval()(pixel_values=pixels).pooler_output
        else:
            clip = CLIPModel.from_pretrained(folder).eval()
            expected = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    np.testing.assert_allclose(backbone(RGB), expected.numpy(), atol=1e-5)
    assert backbone.dim == dim
    assert load_backbone(f"transformers:{folder}", "random").revision != backbone.revision


def test_a_vit_without_pooler_weights_gives_its_class_token(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, ViTModel

    folder = transformers_folder(tmp_path / "vit", "vit")
    held = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in held.items() if "pooler" not in name}
    assert len(kept) < len(held)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    pixels = AutoImageProcessor.from_pretrained(folder)(images=RGB, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = ViTModel.from_pretrained(folder, add_pooling_layer=False)(pixel_values=pixels).last_hidden_state
    np.testing.assert_allclose(load_backbone(f"transformers:{folder}")(RGB), expected[:, 0].numpy(), atol=1e-5)
    save_file({"nothing": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="of its weights, such as"):
        load_backbone(f"transformers:{folder}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "is no backbone: give pixels, conv4, timm:NAME"),
        ("timm:", "is no backbone"),
        ("timm:no_such_net", "timm has no model 'no_such_net'"),
        ("open_clip:NoSuch", "open_clip has no architecture 'NoSuch'"),
        ("open_clip:RN50/nobody", "open_clip has no weights 'nobody' of RN50"),
        ("pixels:big", "write pixels:SIZE"),
        ("conv4:64", "conv4:WIDTH/SIZE"),
        ("conv4:64/8", "16 at least"),
    ],
)
def test_specs_that_mean_nothing(spec: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)


def test_devices_and_weights_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="device 'nowhere'"):
        load_backbone("pixels", device="nowhere")
    with pytest.raises(OptionError, match=r"give a \.safetensors file"):
        load_backbone("conv4", tmp_path / "weights.pt")
    path = tmp_path / "w.safetensors"
    with pytest.raises(ModelError, match="there is no file of weights"):
        load_backbone("conv4", path)
    path.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot read the weights"):
        load_backbone("conv4", path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="lacks 'blocks"):
        load_backbone("conv4", path)
    save_file(dict(Conv4(8).state_dict()), path)
    with pytest.raises(ModelError, match=r"of shape \(8, 3, 3, 3\), the backbone \(4, 3, 3, 3\)"):
        load_backbone("conv4:4/16", path)


@pytest.mark.parametrize(
    "spec", ["timm:resnet18", "open_clip:ViT-B-32/laion2b_s34b_b79k", "transformers:google/vit-base-patch16-224"]
)
def test_without_the_hub_one_line_names_the_mend(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> NDArray:
        raise ConnectionError("Name or service not known\nand more")

    for name in ("model_info", "snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, unreachable)
    with pytest.raises(ModelError, match=r"not reached \(Name or service not known\): connect, or give") as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)
