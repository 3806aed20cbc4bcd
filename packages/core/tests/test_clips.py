import numpy as np
import pytest
import torch
from pellucid.core.clips import load_clip
from pellucid.core.errors import ModelError, OptionError
from pellucid.core.testing_clips import KINDS, tiny_clip
from PIL import Image


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_clip_is_the_same_when_its_library_loads_it(kind, pictures, tmp_path):
    clip = tiny_clip(kind)
    with torch.no_grad():
        for weight in clip.norms().values():
            weight.add_(0.1)
    clip.save(tmp_path / "kept")
    name = str(tmp_path / "kept")
    again = load_clip(name if kind == "transformers" else f"open_clip:{name}")
    assert again.width == clip.width == 12
    assert again.revision == clip.revision
    shown, said = pictures[:2], ["a red dog", "a blue car in the city"]
    for first, second in ((clip.prepare(shown), again.prepare(shown)), (clip.tokenize(said), again.tokenize(said))):
        assert torch.equal(first, second)
    assert torch.equal(clip.image_features(clip.prepare(shown)), again.image_features(again.prepare(shown)))
    assert torch.equal(clip.text_features(clip.tokenize(said)), again.text_features(again.tokenize(said)))


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_not_normalised_and_fit_together(kind, pictures):
    clip = tiny_clip(kind)
    seen = clip.image_features(clip.prepare(pictures[:3]))
    said = clip.text_features(clip.tokenize(["a dog", "a cat"]))
    assert seen.shape == (3, 12)
    assert said.shape == (2, 12)
    assert (seen.norm(dim=1) - 1).abs().min() > 1e-3
    assert not any(weight.requires_grad for weight in clip.model.parameters())


def test_norms_are_those_of_both_encoders():
    names = set(tiny_clip("transformers").norms())
    expected = {f"{tower}.encoder.layers.{layer}.layer_norm{norm}" for tower in ("text_model", "vision_model")
                for layer in range(2) for norm in (1, 2)}  # fmt: skip
    expected |= {"text_model.final_layer_norm", "vision_model.pre_layrnorm", "vision_model.post_layernorm"}
    assert names == {f"{name}.{part}" for name in expected for part in ("weight", "bias")}


def test_a_resnets_norms_are_its_batch_norms_and_the_texts_layer_norms():
    names = set(tiny_clip("resnet").norms())
    assert "visual.bn1.weight" in names
    assert "transformer.resblocks.0.ln_1.bias" in names
    assert not any("running" in name for name in names)


def test_cocas_captioning_half_is_left_out():
    clip = tiny_clip("coca")
    assert not any(name.startswith("text_decoder") for name in [*clip.norms(), *clip.all_weights()])
    assert any(name.startswith("visual") for name in clip.norms())


def test_transformers_pads_without_changing_the_embedding():
    """A caption's embedding is the same alone, padded, and with an attention mask."""
    clip = tiny_clip("transformers")
    tokens = clip.tokenize(["a red dog"])
    end = int((tokens[0] == tokens.max()).int().argmax()) + 1
    found = clip.text_features(tokens)
    masked = clip.model.get_text_features(
        input_ids=tokens, attention_mask=(torch.arange(tokens.shape[1]) < end).long()[None]
    ).pooler_output
    torch.testing.assert_close(found, clip.text_features(tokens[:, :end]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, masked, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["", "open_clip:", "open_clip:ViT-B-16/nobody", "open_clip:NoSuch/openai"])
def test_names_that_cannot_be(name):
    with pytest.raises(OptionError):
        load_clip(name)


def test_a_folder_without_a_clip(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_clip(tmp_path)
    with pytest.raises(OptionError, match="device 'nowhere'"):
        load_clip("zoo:tinyworld-clip", device="nowhere")
