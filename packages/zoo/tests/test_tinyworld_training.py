"""Tinyworld's trainings: cut short they go on to the same bits, and write what the real libraries read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from pellucid.core.errors import DataError, OptionError
from pellucid.zoo.tinyworld import checkpoints, recipes
from pellucid.zoo.tinyworld.autoencoder import AutoencoderRecipe, build_autoencoder, encoded, train_autoencoder
from pellucid.zoo.tinyworld.clip import ClipRecipe, build_clip, matching_loss, train_clip, trimmed
from pellucid.zoo.tinyworld.data import Pool, pool, tokenised
from pellucid.zoo.tinyworld.diffusion import DiffusionRecipe, build_unet, read, train_diffusion
from pellucid.zoo.tinyworld.refining import RefiningRecipe, energy, refine_autoencoder
from transformers import CLIPModel

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return pool(tmp_path_factory.mktemp("renders"), 24)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


class CutError(Exception):
    """The machine went down."""


def _cut_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next training stop dead after so many steps, with a checkpoint at every second one."""
    true = checkpoints.fit

    def fit(task: checkpoints.Task) -> float:
        def after(step: int) -> None:
            task.after(step)
            if step + 1 == steps:
                raise CutError

        return true(replace(task, after=after, keeping=checkpoints.Keeping(steps=2)))

    for module in ("autoencoder", "clip", "diffusion"):
        monkeypatch.setattr(f"pellucid.zoo.tinyworld.{module}.fit", fit)


def _trainer(name: str, renders: Pool) -> Any:
    if name == "autoencoder":
        return lambda out, **more: train_autoencoder(out, renders, AutoencoderRecipe(steps=5, batch=4), **more)
    if name == "clip":
        return lambda out, **more: train_clip(out, renders, ClipRecipe(steps=5, batch=8), **more)
    with checkpoints.seeded(5):
        clip, net = build_clip(), build_autoencoder()
    recipe = DiffusionRecipe(steps=5, batch=4)
    return lambda out, **more: train_diffusion(out, renders, clip.text_model, net, recipe, **more)


@pytest.mark.parametrize("name", ["autoencoder", "clip", "diffusion"])
def test_a_training_cut_short_ends_with_the_same_bits(
    name: str, renders: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = _trainer(name, renders)
    train(tmp_path / "whole")
    with monkeypatch.context() as patched:
        _cut_after(3, patched)
        with pytest.raises(CutError):
            train(tmp_path / "cut")
    assert json.loads((tmp_path / "cut/checkpoint/run.json").read_text())["done"] == 2
    train(tmp_path / "cut")
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert whole == cut
    for folder in ("whole", "cut"):
        checkpoints.forget(tmp_path / folder)
        assert not [path for path in (tmp_path / folder).rglob("*") if path.suffix in (".pt", ".bin", ".pkl")]


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(renders: Pool, tmp_path: Path) -> None:
    train_clip(tmp_path, renders, ClipRecipe(steps=2, batch=8))
    with pytest.raises(DataError, match=r"steps=2, not 3.*resume=False"):
        train_clip(tmp_path, renders, ClipRecipe(steps=3, batch=8))
    (tmp_path / "checkpoint/clip.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="remove it, or resume=False"):
        train_clip(tmp_path, renders, ClipRecipe(steps=2, batch=8))
    train_clip(tmp_path, renders, ClipRecipe(steps=2, batch=8), resume=False)


def test_a_loss_that_is_no_number_is_refused(renders: Pool, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lower the recipe's rate"):
        train_autoencoder(tmp_path, renders, AutoencoderRecipe(steps=4, batch=2, rate=1e30))
    with pytest.raises(OptionError, match="give 1 or more"):
        train_autoencoder(tmp_path / "none", renders, AutoencoderRecipe(steps=0))


def test_the_trained_pipeline_loads_and_draws(renders: Pool, tmp_path: Path) -> None:
    _trainer("diffusion", renders)(tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red circle", num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)
    assert sum(name.endswith("attn2") for name, _ in build_unet().named_modules()) == 10
    assert (pipe.vae.config.latent_channels, pipe.unet.config.sample_size) == (4, 8)


def test_the_scaling_factor_gives_latents_of_unit_spread(renders: Pool, tmp_path: Path) -> None:
    train_autoencoder(tmp_path, renders, AutoencoderRecipe(steps=2, batch=4))
    net = AutoencoderKL.from_pretrained(tmp_path)
    latents = encoded(net, renders.pictures) * net.config.scaling_factor
    assert latents.shape == (24, 4, 8, 8)
    assert latents.std().item() == pytest.approx(1, abs=1e-4)


def test_captions_are_encoded_as_the_pipeline_encodes_them(renders: Pool, tmp_path: Path) -> None:
    train_clip(tmp_path, renders, ClipRecipe(steps=1, batch=4))
    encoder = CLIPModel.from_pretrained(tmp_path).text_model.eval()
    texts = ["a red circle", "two blue stars on the beach"]
    with torch.inference_mode():
        whole = encoder(torch.from_numpy(tokenised(texts)).long()).last_hidden_state
    assert torch.allclose(read(encoder, torch.from_numpy(tokenised(texts))).float(), whole, atol=5e-3)


def test_pairs_that_say_the_same_are_not_told_apart() -> None:
    logits = torch.tensor([[2.0, 1.0, 5.0], [0.0, 3.0, 1.0], [5.0, 1.0, 2.0]])
    same = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    rows = [torch.tensor([2.0, 1.0]), torch.tensor([3.0, 0.0, 1.0]), torch.tensor([2.0, 1.0])]
    columns = [torch.tensor([2.0, 0.0]), torch.tensor([3.0, 1.0, 1.0]), torch.tensor([2.0, 1.0])]
    by_hand = sum(-part.log_softmax(0)[0] for part in rows + columns) / 6
    assert matching_loss(logits, same).item() == pytest.approx(float(by_hand), abs=1e-6)


def test_trimming_keeps_each_first_end() -> None:
    tokens = torch.tensor([[7, 1, 9, 9, 9, 9], [7, 1, 2, 3, 9, 9]])
    assert trimmed(tokens, 9).tolist() == [[7, 1, 9, 9, 9], [7, 1, 2, 3, 9]]


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="it trains judge, tinyworld-clip, tinyworld-sd, tinyworld-llava"):
        recipes.train("nothing", tmp_path)
    with pytest.raises(OptionError, match="leave it out"):
        recipes.train("tinyworld-clip", tmp_path, clip=tmp_path)


def test_training_on_leaves_the_text_half_as_it_is(renders: Pool, tmp_path: Path) -> None:
    train_clip(tmp_path / "first", renders, ClipRecipe(steps=2, batch=8))
    before = CLIPModel.from_pretrained(tmp_path / "first").state_dict()
    train_clip(
        tmp_path, renders, ClipRecipe(steps=2, batch=8, seed=1), begun=CLIPModel.from_pretrained(tmp_path / "first")
    )
    after = CLIPModel.from_pretrained(tmp_path).state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith(("text_model", "text_projection"))]


def test_refining_keeps_on_from_a_trained_autoencoder(renders: Pool, tmp_path: Path) -> None:
    train_autoencoder(tmp_path / "first", renders, AutoencoderRecipe(steps=2, batch=4))
    with checkpoints.seeded(5):
        vision = build_clip().vision_model
    before = {name: weight.clone() for name, weight in vision.state_dict().items()}
    for name in ("one", "two"):
        net = AutoencoderKL.from_pretrained(tmp_path / "first")
        refine_autoencoder(tmp_path / name, renders, net, vision, RefiningRecipe(steps=2, batch=4))
    assert _weights(tmp_path / "one") == _weights(tmp_path / "two")
    assert all(torch.equal(weight, before[name]) for name, weight in vision.state_dict().items())


def test_a_unet_is_trained_on_from_another(renders: Pool, tmp_path: Path) -> None:
    with checkpoints.seeded(5):
        encoder, net, begun = build_clip().text_model, build_autoencoder(), build_unet()
    before = {name: weight.clone() for name, weight in begun.state_dict().items()}
    recipe = DiffusionRecipe(steps=1, batch=2, rate=1e-9)
    train_diffusion(tmp_path, renders, encoder, net, recipe, begun=begun)
    for name, weight in StableDiffusionPipeline.from_pretrained(tmp_path).unet.state_dict().items():
        assert torch.allclose(weight, before[name], atol=1e-6)


def test_energy_tells_fine_detail_from_none_wherever_it_is() -> None:
    flat, dots = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    dots[..., ::2, ::2] = 1
    moved = dots.roll(1, -1)
    assert (energy(dots) > 5 * energy(flat)).all()
    inside = (..., slice(1, -1), slice(1, -1))
    assert (energy(dots) - energy(moved))[inside].abs().max() < 1e-5
