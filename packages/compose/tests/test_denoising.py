import numpy as np
import pytest
import torch
from pellucid.compose.denoising import Said, denoiser_of, encode_captions, picture_latents
from pellucid.compose.noise_schedule import noise_schedule
from pellucid.core.errors import ModelError, OptionError
from pellucid.core.testing_pipelines import PIPELINES, tiny_pipeline
from PIL import Image
from torch.nn.functional import mse_loss

CAPTIONS = ["a red dog", "a photo of a blue car in the city"]


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request):
    return tiny_pipeline(request.param)


def pictures(count, size=16):
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


def test_the_prediction_is_what_the_pipeline_itself_computes(pipe):
    """One sampling step of the pipeline, without guidance, gives its denoiser the same input and the same answer."""
    denoiser, said = denoiser_of(pipe), encode_captions(pipe, CAPTIONS[:1])
    seen = []
    hook = denoiser.network.register_forward_hook(
        lambda module, given, options, told: seen.append((given, options, told)), with_kwargs=True
    )
    options = {"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {}
    try:
        pipe(CAPTIONS[0], num_inference_steps=2, guidance_scale=1.0, output_type="latent" if "IF" not in
             type(pipe).__name__ else "pt", generator=torch.Generator().manual_seed(0), **options)  # fmt: skip
        given, kwargs, told = seen[0]
        kind = type(pipe).__name__
        latents = kwargs.get("hidden_states", given[0] if given else None)
        time = kwargs.get("timestep", given[1] if len(given) > 1 else None)
        wanted = told[0] if isinstance(told, tuple) else told.sample
        times = denoiser.schedule.times
        spoken = time.reshape(-1)[0] * (denoiser.schedule.steps if "Flux" in kind else 1)
        step = (times - spoken).abs().argmin().reshape(1)
        assert abs(float(times[step] - spoken)) < 1e-3
        if "Flux" in kind:
            latents, wanted = (pipe._unpack_latents(part, 16, 16, 2) for part in (latents, wanted))
        found = denoiser(latents, step, said)
        torch.testing.assert_close(found, wanted[:, : found.shape[1]], rtol=1e-5, atol=1e-5)
    finally:
        hook.remove()


def test_rows_do_not_depend_on_each_other(pipe):
    denoiser, said = denoiser_of(pipe), encode_captions(pipe, CAPTIONS)
    chance = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(2, 2, *denoiser.shape, generator=chance)
    steps = torch.tensor([100, 900])
    together = denoiser.errors(latents, noise, steps, said)
    alone = [denoiser.errors(latents[[row]], noise[[row]], steps[[row]], said.take([row])).item() for row in range(2)]
    torch.testing.assert_close(together, torch.tensor(alone), rtol=1e-4, atol=1e-6)
    swapped = denoiser.errors(latents, noise, steps, said.take([1, 0]))
    assert (swapped - together).abs().min() > 1e-6  # captions matter


def test_pictures_become_latents_of_the_models_size(pipe):
    denoiser, found = denoiser_of(pipe), picture_latents(pipe, pictures(3, size=20), batch=2)
    assert found.shape == (3, *denoiser.shape)
    torch.testing.assert_close(found[2:], picture_latents(pipe, pictures(3, size=20)[2:]), rtol=1e-4, atol=1e-5)


def test_latents_decode_as_the_pipeline_decodes():
    """Encoding what a sharp autoencoder drew is not exact, but its scale must be: checked by the pipeline's formula."""
    pipe = tiny_pipeline("sd3")
    shown = pictures(1)[0]
    pixels = torch.from_numpy(np.asarray(shown).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    raw = pipe.vae.encode(pixels).latent_dist.mean
    found = picture_latents(pipe, [shown])
    torch.testing.assert_close(found / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor, raw)


@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
def test_noise_is_the_schedulers(predicted):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(prediction_type=predicted)
    table = noise_schedule(scheduler)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([0, 500, 999])
    torch.testing.assert_close(table.noised(latents, noise, steps), scheduler.add_noise(latents, noise, steps))
    wanted = noise if predicted == "epsilon" else scheduler.get_velocity(latents, noise, steps)
    torch.testing.assert_close(table.target(latents, noise, steps), wanted)


def test_flow_matching_is_the_schedulers():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    table = noise_schedule(scheduler)
    torch.testing.assert_close(table.noise.flip(0), scheduler.sigmas)
    torch.testing.assert_close(table.times.flip(0), scheduler.timesteps)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([10, 700])
    wanted = scheduler.scale_noise(latents, scheduler.timesteps.flip(0)[steps], noise)
    torch.testing.assert_close(table.noised(latents, noise, steps), wanted)
    torch.testing.assert_close(table.target(latents, noise, steps), noise - latents)


def test_euler_is_told_what_ddim_is():
    from diffusers import DDIMScheduler, EulerDiscreteScheduler

    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    first, second = (noise_schedule(kind(**options)) for kind in (DDIMScheduler, EulerDiscreteScheduler))
    torch.testing.assert_close(first.signal, second.signal)


def test_what_cannot_work_is_said_in_one_line():
    pipe = tiny_pipeline("sd")
    with pytest.raises(OptionError, match="at least one caption"):
        encode_captions(pipe, [])
    with pytest.raises(ModelError, match="no scheduler"):
        noise_schedule(None)
    pipe.scheduler.register_to_config(prediction_type="colour")
    with pytest.raises(ModelError, match="'colour'"):
        denoiser_of(pipe)


def test_errors_are_the_training_loss():
    """The slow twin: diffusers' own training step, one row at a time."""
    pipe = tiny_pipeline("sd")
    denoiser, said = denoiser_of(pipe), encode_captions(pipe, CAPTIONS)
    chance = torch.Generator().manual_seed(5)
    latents, noise = torch.randn(2, 2, *denoiser.shape, generator=chance)
    steps = torch.tensor([3, 640])
    slow = []
    for row, caption in enumerate(CAPTIONS):
        tokens = pipe.tokenizer(caption, padding="max_length", max_length=77, return_tensors="pt").input_ids
        text = pipe.text_encoder(tokens)[0]
        noised = pipe.scheduler.add_noise(latents[[row]], noise[[row]], steps[[row]])
        slow.append(mse_loss(pipe.unet(noised, steps[row], text).sample, noise[[row]]).item())
    torch.testing.assert_close(denoiser.errors(latents, noise, steps, said), torch.tensor(slow), rtol=1e-5, atol=1e-6)
    assert len(Said.stack([said, said])) == 4
