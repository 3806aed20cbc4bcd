from dataclasses import replace

import numpy as np
import pytest
import torch
from pellucid.compose.denoising import Said, denoiser_of, encode_captions
from pellucid.compose.latents import Encoded
from pellucid.compose.optimise_embedding import (
    EMBEDDING,
    EmbeddingTraining,
    load_embedding,
    optimise_embedding,
)
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing_pipelines import tiny_pipeline
from torch import nn

QUICK = EmbeddingTraining(steps=4, batch=3)


def encoded_for(pipe, pictures=5):
    captions = ("a red cat", "a blue dog")
    shape = denoiser_of(pipe).shape
    latents = torch.randn(pictures, *shape, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([row % 2 for row in range(pictures)])
    ids = tuple(f"p{row}" for row in range(pictures))
    return Encoded(latents, encode_captions(pipe, captions), rows, captions, ids, "digest")


def by_hand(pipe, encoded, training):
    """The slow twin for Stable Diffusion, on the pictures of "a blue dog"."""
    embeds = encode_captions(pipe, ["a blue dog"]).parts["embeds"].clone().requires_grad_(True)
    optimiser = torch.optim.Adam([embeds], training.rate)
    decays = [round(share * training.steps) for share in training.decays]
    rates = torch.optim.lr_scheduler.MultiStepLR(optimiser, decays)
    for step in range(training.steps):
        chance = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
        chosen = [[1, 3][place] for place in torch.randint(2, (3,), generator=chance)]
        first, second = torch.randint(1000, (2,), generator=chance).tolist()
        times = torch.tensor([first, second, 999 - first])
        noise = torch.randn(3, 4, 8, 8, generator=chance)
        noised = pipe.scheduler.add_noise(encoded.latents[chosen], noise, times)
        loss = (pipe.unet(noised, times, embeds.expand(3, -1, -1)).sample - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([embeds], 1.0)
        optimiser.step()
        rates.step()
    return embeds


def test_it_is_the_plain_loop_on_the_caption_s_pictures():
    pipe = tiny_pipeline("sd")
    encoded = encoded_for(pipe)
    found = optimise_embedding(pipe, encoded, "a blue dog", training=QUICK)
    # A tenth of one step of 0.1: Adam takes whole steps where the gradient is little more than rounding.
    torch.testing.assert_close(found.embeds, by_hand(pipe, encoded, QUICK).detach(), rtol=0, atol=1e-2)
    assert found.caption == "a blue dog"
    assert len(found.losses) == 4


def test_the_loss_goes_down_from_the_caption_s_own():
    pipe = tiny_pipeline("sd")
    encoded = encoded_for(pipe)
    found = optimise_embedding(pipe, encoded, "a red cat", training=EmbeddingTraining(steps=15, batch=4))
    denoiser, chance = denoiser_of(pipe), torch.Generator().manual_seed(9)
    rows, times = encoded.of_caption("a red cat").repeat(20), torch.randint(1000, (60,), generator=chance)
    clean = encoded.latents[rows]
    noise = torch.randn(clean.shape, generator=chance)
    with torch.no_grad():
        before, after = (
            denoiser.errors(clean, noise, times, Said({"embeds": embeds}).take([0] * 60)).mean()
            for embeds in (encoded.said.parts["embeds"][:1], found.embeds)
        )
    assert after < before


@pytest.mark.parametrize("family", ["sdxl", "sd3", "pixart", "if"])
def test_on_every_family_only_the_embedding_changes(family):
    pipe = tiny_pipeline(family)
    encoded = encoded_for(pipe)
    models = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    before = {(name, key): value.clone() for name, part in models.items() for key, value in part.state_dict().items()}
    found = optimise_embedding(pipe, encoded, "a blue dog", training=replace(QUICK, steps=2))
    assert found.embeds.shape == (1, *encoded.said.parts["embeds"].shape[1:])
    assert not torch.equal(found.embeds, encoded.said.parts["embeds"][1:])
    assert all(torch.equal(models[name].state_dict()[key], value) for (name, key), value in before.items())


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    pipe, calls = tiny_pipeline("sd"), []
    encoded = encoded_for(pipe)
    whole = optimise_embedding(pipe, encoded, "a red cat", training=QUICK)

    def dies(*args):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt

    hook = pipe.unet.register_forward_pre_hook(dies)
    with pytest.raises(KeyboardInterrupt):
        optimise_embedding(pipe, encoded, "a red cat", tmp_path, QUICK, every=2)
    hook.remove()
    rest = optimise_embedding(pipe, encoded, "a red cat", tmp_path, QUICK, every=2)
    assert rest.losses == whole.losses
    assert torch.equal(rest.embeds, whole.embeds)
    again = load_embedding(tmp_path)
    assert torch.equal(again.embeds, whole.embeds)
    assert again.caption == "a red cat"


def test_what_cannot_be_optimised_is_told(tmp_path):
    pipe = tiny_pipeline("sd")
    encoded = encoded_for(pipe)
    with pytest.raises(DataError, match="captioned 'a tree'"):
        optimise_embedding(pipe, encoded, "a tree")
    with pytest.raises(OptionError, match="batch=0"):
        EmbeddingTraining(batch=0)
    encoded.latents[[1, 3]] = float(np.nan)
    with pytest.raises(DataError, match=r"c\*: the loss is nan at step 0, in the batch of p"):
        optimise_embedding(pipe, encoded, "a blue dog", training=QUICK)
    with pytest.raises(DataError, match="there is no embedding"):
        load_embedding(tmp_path)
    (tmp_path / EMBEDDING).write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read"):
        load_embedding(tmp_path)
