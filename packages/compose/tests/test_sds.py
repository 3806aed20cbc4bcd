import numpy as np
import pytest
import torch
from pellucid.compose.denoising import denoiser_of, encode_captions
from pellucid.compose.sds import LatentMap, contrastive_loss, feature_loss, feature_shape, sds_loss, unet_features
from pellucid.core.errors import OptionError
from pellucid.core.testing_pipelines import tiny_pipeline
from torch.nn.functional import normalize

CAPTIONS = ["a red dog", "a blue car", "a clock"]


def drawn(denoiser, seed=0):
    chance = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, *denoiser.shape, generator=chance)
    return noise, torch.tensor([10, 400, 950])


def test_the_map_has_the_thesiss_size():
    found = LatentMap(512, (4, 64, 64))
    assert sum(weight.numel() for weight in found.parameters()) == 8_388_608  # "approximately 8M"
    assert found(torch.ones(2, 512)).shape == (2, 4, 64, 64)


def test_the_map_is_drawn_from_its_seed_alone():
    before = torch.random.get_rng_state()
    first, second, other = LatentMap(8, (4, 2, 2), 1), LatentMap(8, (4, 2, 2), 1), LatentMap(8, (4, 2, 2), 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)


@pytest.mark.parametrize("family", ["sd", "sd2", "sd3"])
def test_sds_is_eq_9_3(family):
    """The slow twin, a row at a time: the noise that the answer implies against the noise that was drawn."""
    pipe = tiny_pipeline(family)
    denoiser, said = denoiser_of(pipe), encode_captions(pipe, CAPTIONS)
    noise, steps = drawn(denoiser)
    latents = LatentMap(5, denoiser.shape)(torch.ones(3, 5) * torch.tensor([[1.0], [2.0], [-1.0]]))
    found = sds_loss(denoiser, latents, noise, steps, said)
    table, slow = denoiser.schedule, []
    for row, step in enumerate(steps):
        noised = table.signal[step] * latents[[row]] + table.noise[step] * noise[[row]]
        told = denoiser(noised, steps[[row]], said.take([row]))
        implied = {
            "sd": told,
            "sd2": table.signal[step] * told + table.noise[step] * noised,  # from velocity
            "sd3": noised + (1 - table.noise[step]) * told,  # from flow
        }
        error = implied[family] - noise[[row]]
        slow.append(error.square().mean().item())
    assert found.item() == pytest.approx(np.mean(slow), rel=1e-4)


def test_gradients_go_through_the_denoiser_and_not_into_it():
    pipe = tiny_pipeline("sd")
    denoiser, said = denoiser_of(pipe), encode_captions(pipe, CAPTIONS)
    noise, steps = drawn(denoiser)
    embeddings = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
    latent_map = LatentMap(5, denoiser.shape)
    sds_loss(denoiser, latent_map(embeddings), noise, steps, said).backward()
    assert embeddings.grad.abs().min() > 0
    assert latent_map.weight.grad.abs().max() > 0
    assert all(weight.grad is None for part in (pipe.unet, pipe.text_encoder, pipe.vae) for weight in part.parameters())
    # Against a difference quotient in one direction: the denoiser's Jacobian is kept.
    direction = torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
    size = 1e-2
    with torch.no_grad():
        up, down = (
            sds_loss(denoiser, latent_map(embeddings + sign * size * direction), noise, steps, said).item()
            for sign in (1, -1)
        )
    assert (embeddings.grad * direction).sum().item() == pytest.approx((up - down) / (2 * size), rel=0.02)


def test_the_contrastive_loss_is_clips_own(make_clip, pictures):
    clip = make_clip("transformers")
    pixels, tokens = clip.prepare(pictures[:4]), clip.tokenize(["a dog", "a cat", "a car", "a tree"])
    wanted = clip.model(input_ids=tokens, pixel_values=pixels, return_loss=True).loss
    found = contrastive_loss(clip.image_features(pixels), clip.text_features(tokens), clip.logit_scale)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_logit_scale_is_bounded_as_clips():
    images, texts = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    hot = contrastive_loss(images, texts, torch.tensor(9.0))
    logits = 100 * normalize(images, dim=1) @ normalize(texts, dim=1).T
    slow = -(logits.log_softmax(0).diag() + logits.log_softmax(1).diag()).mean() / 2
    torch.testing.assert_close(hot, slow, rtol=1e-5, atol=1e-5)


def test_features_are_the_unets_middle():
    pipe = tiny_pipeline("sd")
    denoiser, said = denoiser_of(pipe), encode_captions(pipe, CAPTIONS)
    noise, steps = drawn(denoiser)
    latents, _ = drawn(denoiser, seed=1)
    shape = feature_shape(denoiser, said)
    found = unet_features(denoiser, latents, noise, steps, said)
    assert found.shape == (3, *shape)
    assert shape[0] == pipe.unet.config.block_out_channels[-1]
    seen = []
    hook = pipe.unet.mid_block.register_forward_hook(lambda module, given, told: seen.append(told))
    pipe.unet(pipe.scheduler.add_noise(latents, noise, steps), steps, said.parts["embeds"])
    hook.remove()
    torch.testing.assert_close(found, seen[0], rtol=1e-4, atol=1e-4)
    assert feature_loss(found, found).item() == 0


def test_a_transformer_has_no_middle():
    pipe = tiny_pipeline("pixart")
    with pytest.raises(OptionError, match="PixArtTransformer2DModel has none"):
        feature_shape(denoiser_of(pipe), encode_captions(pipe, CAPTIONS[:1]))
