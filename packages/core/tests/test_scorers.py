import importlib.metadata
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from pellucid.core.clips import load_clip
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.scorers import clip_scorer, load_scorer
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer


@cache
def parts():
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: k for k, token in enumerate(tokens)}, merges=[], model_max_length=20)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 16,
    }
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = tower | ends | {"vocab_size": len(tokens), "max_position_embeddings": 20, "pad_token_id": len(tokens) - 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = tower | {"image_size": 16, "patch_size": 4}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return model, tokenizer, processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("clip")
    for part in parts():
        part.save_pretrained(where)
    return where


def pictures(count, size=16):
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def twin(picture, caption):
    """One picture and one caption at a time, by the model's own forward pass."""
    model, tokenizer, processor = parts()
    tokens = tokenizer([caption], truncation=True, return_tensors="pt")
    shown = processor(images=Image.fromarray(picture), return_tensors="pt")
    with torch.inference_mode():
        return float(model(**tokens, **shown).logits_per_image[0, 0] / model.logit_scale.exp())


def test_clip_score_is_the_cosine(folder):
    captions = ["a dog", "a house in the style of van gogh", "a dog", "x", "", "a dog", "red"]
    found = clip_scorer(load_clip(folder))(pictures(7), captions)
    assert found.dtype == np.float64
    assert found.shape == (7,)
    expected = [twin(*pair) for pair in zip(pictures(7), captions, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.ptp(found) > 0.02


def test_other_sizes_go_through_the_image_processor(folder):
    found = clip_scorer(load_clip(folder))(pictures(2, size=40), ["a dog", "a cat"])
    expected = [twin(*pair) for pair in zip(pictures(2, size=40), ["a dog", "a cat"], strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_no_pictures(folder):
    assert clip_scorer(load_clip(folder))(np.zeros((0, 8, 8, 3), np.uint8), []).shape == (0,)


@pytest.mark.parametrize(
    ("shown", "captions", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), ["a"], "2 pictures and 1 for texts"),
        (np.zeros((2, 8, 8, 3), np.uint8), "ab", "one text for texts"),
        (np.zeros((1, 8, 8, 3)), ["a"], r"float64 of shape \(1, 8, 8, 3\): give uint8"),
        (np.zeros((1, 3, 8, 8), np.uint8), ["a"], r"uint8 of shape \(1, 3, 8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), ["a"], r"uint8 of shape \(8, 8, 3\)"),
        ([1], ["a"], "pictures are .*list"),
    ],
)
def test_bad_pictures(folder, shown, captions, message):
    with pytest.raises(DataError, match=message):
        clip_scorer(load_clip(folder))(shown, captions)


def test_loading_by_name(folder):
    score = load_scorer(f"clip:{folder}")
    np.testing.assert_array_equal(score(pictures(1), ["a"]), clip_scorer(load_clip(folder))(pictures(1), ["a"]))


def test_scorers_that_packages_offer(monkeypatch):
    made = []

    def make(rest):
        made.append(rest)
        return lambda shown, captions: np.arange(len(shown), dtype=np.float64)

    class Entry:
        name = "judge"

        def load(self):
            return make

    class Broken(Entry):
        name = "broken"

        def load(self):
            raise ImportError("no module")

    def entry_points(group):
        assert group == "pellucid.scorers"
        return [Entry(), Broken()]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert load_scorer("judge:style")(pictures(3), ["a"] * 3).tolist() == [0, 1, 2]
    load_scorer("judge")
    assert made == ["style", ""]
    with pytest.raises(OptionError, match="nothing installed offers the scorer 'x:y': choose from clip:MODEL, broken"):
        load_scorer("x:y")
    with pytest.raises(ModelError, match="behind the scorer 'broken' cannot be imported"):
        load_scorer("broken")


def test_names_of_no_model(tmp_path):
    with pytest.raises(OptionError, match="names no model: write clip:MODEL"):
        load_scorer("clip:")
    with pytest.raises(ModelError, match="no such folder"):
        load_scorer(f"clip:{tmp_path}/none")


def test_a_folder_without_an_image_processor(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "clip")
    for file in (tmp_path / "clip").glob("*processor*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded as a CLIP: ") as caught:
        load_clip(tmp_path / "clip")
    assert "\n" not in str(caught.value)


def test_another_model_s_folder(folder, tmp_path):
    model, tokenizer, processor = parts()
    model.text_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"give a CLIP|cannot be loaded as a CLIP"):
        load_clip(tmp_path)


def test_a_device_that_is_not_there(folder):
    with pytest.raises(OptionError, match="device 'abacus' cannot be used here"):
        load_clip(folder, device="abacus")


def test_broken_weights(folder, tmp_path):
    model, tokenizer, processor = parts()
    broken = CLIPModel(model.config)
    broken.load_state_dict(model.state_dict())
    broken.visual_projection.weight.data.fill_(float("nan"))
    for part in (broken, tokenizer, processor):
        part.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="embeddings that are not finite"):
        clip_scorer(load_clip(tmp_path))(pictures(1), ["a"])
