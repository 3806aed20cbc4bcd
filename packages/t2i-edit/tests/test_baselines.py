"""The fine-tuning baselines: what they train, that they learn, and that the model stays as it was."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pellucid.core.conditioning import encode
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.generation import generate
from pellucid.core.testing_pipelines import tiny_pipeline
from pellucid.t2i_edit.baselines import concept_ablation, concept_erase
from pellucid.t2i_edit.concepts import concept_prompts
from pellucid.t2i_edit.fine_tuning import fine_tune

STYLE = concept_prompts("van gogh", "style", objects=["a dog", "a cat"])


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline("sd")


def _drawn(pipe: Any) -> np.ndarray:
    found: np.ndarray = generate(pipe, encode(pipe, STYLE.prompts), [0, 1], steps=2, guidance=3.0)
    return found


def _apart(pipe: Any, teacher: Any, erase: bool) -> float:
    """How far the UNet is from what a baseline wants it to say, on latents that are always the same."""
    chance = torch.Generator().manual_seed(5)
    latents = torch.randn(8, pipe.unet.config.in_channels, 8, 8, generator=chance)
    said = encode(pipe, [STYLE.prompts[0]] * 8).arguments
    meant = encode(pipe, [STYLE.targets[0]] * 8).arguments["prompt_embeds"]
    with torch.no_grad():
        told = pipe.unet(latents, 500, said["prompt_embeds"]).sample
        if erase:
            there, away = (teacher(latents, 500, said[name]).sample for name in _PAIR)
            wanted = away - (there - away)
        else:
            wanted = teacher(latents, 500, meant).sample
    return (told - wanted).square().mean().item()


_PAIR = ("prompt_embeds", "negative_prompt_embeds")


@pytest.mark.parametrize(("train", "ends"), [(concept_erase, ("attn2",)), (concept_ablation, ("to_k", "to_v"))])
def test_a_baseline_learns_touches_what_it_says_and_leaves_the_model(pipe: Any, train: Any, ends: Any) -> None:
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    clean, teacher, erase = _drawn(pipe), copy.deepcopy(pipe.unet), train is concept_erase
    more: dict[str, Any] = {} if erase else {"pictures": 4}
    found = train(pipe, [STYLE], steps=40, rate=1e-3, batch=4, seed=1, **more)
    assert all(any(end in name for end in ends) for name in found.weights)
    assert found.touched == sum(weight.numel() for weight in found.weights.values()) > 0
    for name, weight in pipe.unet.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert not any(part.requires_grad or part.grad is not None for part in pipe.unet.parameters())
    far = _apart(pipe, teacher, erase)
    with found.applied(pipe):
        assert _apart(pipe, teacher, erase) < 0.8 * far
        assert (_drawn(pipe) != clean).any()
    assert np.array_equal(_drawn(pipe), clean)


def test_the_same_seed_gives_the_same_training(pipe: Any) -> None:
    one, two, other = (concept_ablation(pipe, [STYLE], steps=2, batch=2, pictures=2, seed=seed) for seed in (1, 1, 2))
    assert one.losses == two.losses != other.losses


def test_what_cannot_be_trained_is_refused(pipe: Any) -> None:
    with pytest.raises(OptionError, match="not StableDiffusionXLPipeline: use locoedit"):
        concept_erase(tiny_pipeline("sdxl"), [STYLE])
    with pytest.raises(OptionError, match="give 1 or more"):
        concept_ablation(pipe, [STYLE], steps=0, pictures=2)
    name = denoiser_anatomy(pipe).cross_attentions[0].key

    def broken(step: int) -> torch.Tensor:
        return pipe.unet.get_submodule(name).weight.sum() * torch.nan

    options: dict[str, Any] = {"what": "Test", "steps": 2, "rate": 1e-3}
    with pytest.raises(DataError, match="give a lower rate"):
        fine_tune(pipe, lambda found: found.startswith(name), broken, **options)
    with pytest.raises(ModelError, match="none of the expected names"):
        fine_tune(pipe, lambda found: False, broken, **options)
    assert not any(part.requires_grad for part in pipe.unet.parameters())
