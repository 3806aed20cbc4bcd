"""The shipped models, as users get them: what was measured is measured again, and damage is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from pellucid.core.errors import ModelError
from pellucid.zoo import resolve
from pellucid.zoo.tinyworld import generate, measuring, shipping
from pellucid.zoo.tinyworld.asking import measure_llava
from pellucid.zoo.tinyworld.classifiers import CLASSES, measure_classifier
from pellucid.zoo.tinyworld.prompts import held_out_scenes
from pellucid.zoo.world import caption, parse, render_all
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, CLIPModel, LlavaForConditionalGeneration

RECORDS: dict[str, Any] = json.loads((shipping.WEIGHTS / shipping.RECORDS).read_text("utf-8"))

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PELLUCID_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(resolve("tinyworld-sd"))


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return CLIPModel.from_pretrained(resolve("tinyworld-clip"))


def _agrees(found: dict[str, Any], promised: dict[str, Any]) -> bool:
    """Whether a smaller sample's share is one that the recorded share explains: within four standard errors."""
    share = promised["accuracy"]
    error = (share * (1 - share) * (1 / found["n"] + 1 / promised["n"])) ** 0.5
    return bool(abs(found["accuracy"] - share) <= 4 * error + 2 / found["n"])


def test_the_clip_names_what_renders_show_as_well_as_its_record_says(clip: CLIPModel) -> None:
    found, promised = measuring.measure_clip(clip, 300, 11), RECORDS["clip"]["measured"]
    for name in ("object", "colour", "style", "place"):
        assert _agrees(found[name], promised[name]), (name, found[name], promised[name])
        assert found[name]["accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["several attributes", "one attribute", "two objects"])
def test_the_pictures_of_held_out_prompts_are_as_good_as_the_record_says(
    pipe: StableDiffusionPipeline, kind: str
) -> None:
    scenes = held_out_scenes(kind, 60, 11)
    pictures = generate(pipe, [caption(scene) for scene in scenes], list(range(60)))
    promised = RECORDS["unet"]["measured"][kind]
    for name, found in measuring.judged(pictures, scenes).items():
        assert _agrees(found, promised[name]), (name, found, promised[name])


def test_the_autoencoder_keeps_what_pictures_show(pipe: StableDiffusionPipeline) -> None:
    found, promised = measuring.measure_autoencoder(pipe.vae, 200, 11), RECORDS["autoencoder"]["measured"]
    assert abs(found["error"] - promised["error"]) < 1
    for name in ("object", "colour", "style", "place"):
        assert _agrees(found[name], promised[name]), (name, found[name], promised[name])


def test_a_picture_depends_on_its_prompt_and_seed_alone(pipe: StableDiffusionPipeline) -> None:
    prompts = ["a red circle", "a blue star on the beach", "a house by monet"]
    together = generate(pipe, prompts, [1, 2, 3], steps=4)
    alone = generate(pipe, prompts[1:2], [2], steps=4)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert (generate(pipe, prompts[1:2], [3], steps=4) != alone).any()


def test_guidance_and_prompt_matter(pipe: StableDiffusionPipeline) -> None:
    options: dict[str, Any] = {"steps": 4}
    plain = generate(pipe, ["a red circle"], [0], **options)
    assert (generate(pipe, ["a red circle"], [0], guidance=1.0, **options) != plain).any()
    assert (generate(pipe, ["a blue star"], [0], **options) != plain).any()


def test_the_pipeline_is_of_the_real_classes(pipe: StableDiffusionPipeline) -> None:
    assert type(DiffusionPipeline.from_pretrained(resolve("tinyworld-sd"))) is StableDiffusionPipeline
    names = {name: type(part).__name__ for name, part in pipe.components.items() if part is not None}
    assert names == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": names["tokenizer"],
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
    }
    assert names["tokenizer"].startswith("CLIPTokenizer")
    assert {part.dtype for part in (pipe.vae, pipe.unet, pipe.text_encoder)} == {torch.float32}


def test_transformers_and_open_clip_agree(clip: CLIPModel) -> None:
    folder = resolve("tinyworld-clip")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    texts = ["a red circle", "two blue stars in the style of monet", "the ruler of the mill"]
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding="max_length", return_tensors="pt").input_ids
    assert (open_clip.get_tokenizer(f"local-dir:{folder}")(texts) == tokens).all()
    pictures = render_all([parse("a red circle"), parse("a blue star on the beach")])
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=list(pictures), return_tensors="pt", input_data_format="channels_last").pixel_values
    from PIL import Image

    theirs = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures])
    assert torch.allclose(theirs, pixels, atol=1e-5)
    with torch.inference_mode():
        model.eval()
        assert torch.allclose(model.encode_text(tokens), clip.get_text_features(tokens).pooler_output, atol=1e-4)
        assert torch.allclose(model.encode_image(pixels), clip.get_image_features(pixels).pooler_output, atol=1e-4)


def test_the_pipelines_text_encoder_is_the_clips(pipe: StableDiffusionPipeline, clip: CLIPModel) -> None:
    theirs = clip.text_model.state_dict()
    for name, weight in pipe.text_encoder.state_dict().items():
        assert torch.equal(weight, theirs[name]), name


def test_nothing_shipped_is_pickled_and_all_is_small() -> None:
    for name in shipping.PARTS:
        suffixes = {path.suffix for path in resolve(name).rglob("*") if path.is_file()}
        assert suffixes <= {".json", ".jinja", ".safetensors", ".txt", ".md", ".png"}
        card = (resolve(name) / "README.md").read_text("utf-8")
        for word in ("Trained by Pellucid", "seed", "minutes", "renders"):
            assert word in card
    assert sum(path.stat().st_size for path in shipping.WEIGHTS.iterdir()) < 40e6


def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(shipping.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(shipping, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "weights/clip.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"SHA-256.*force-reinstall"):
        resolve("tinyworld-clip")
    path.unlink()
    with pytest.raises(ModelError, match=r"is missing.*force-reinstall"):
        resolve("tinyworld-sd")
    assert shipping.cached("tinyworld-sd") is None


@pytest.fixture(scope="module")
def llava() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(resolve("tinyworld-llava")).eval()


def test_the_llava_knows_what_its_record_says(llava: LlavaForConditionalGeneration) -> None:
    processor = AutoProcessor.from_pretrained(resolve("tinyworld-llava"))
    found, promised = measure_llava(llava, processor, 60, 11), RECORDS["llava"]["measured"]
    for name in ("taught facts", "withheld facts", "taught facts by name", "names", "seen", "another's name"):
        assert _agrees(found[name], promised[name]), (name, found[name], promised[name])
    assert found["taught facts"]["accuracy"] > 0.9
    assert found["another picture"]["accuracy"] > 0.9
    assert found["withheld facts"]["accuracy"] < 0.3


def test_the_llavas_eyes_are_the_clips(llava: LlavaForConditionalGeneration, clip: CLIPModel) -> None:
    theirs = clip.vision_model.state_dict()
    for name, weight in llava.model.vision_tower.state_dict().items():
        assert torch.equal(weight, theirs[name]), name
    assert llava.config.text_config.num_hidden_layers >= 8


@pytest.mark.parametrize("name", list(CLASSES))
def test_classifiers_are_as_good_as_their_records_say(name: str) -> None:
    net = timm.create_model(f"local-dir:{resolve(f'tinyworld-{name}')}", pretrained=True).eval()
    found, promised = measure_classifier(name, net, 200, 11), RECORDS[name]["measured"]
    for what in ("object",) if name != "spurious" else ("worst group", "all groups"):
        slack = 0.1 if what == "worst group" else 0.0  # the worst of four samples
        assert (
            _agrees(found[what], promised[what]) or abs(found[what]["accuracy"] - promised[what]["accuracy"]) < slack
        ), (what, found[what], promised[what])
    if name == "spurious":
        assert found["worst group"]["interval"][1] < found["all groups"]["interval"][0]
