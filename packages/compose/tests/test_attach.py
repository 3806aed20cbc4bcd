import diffusers
import numpy as np
import pytest
import torch
from pellucid.compose.attach import attach, attached, switch_off_share
from pellucid.compose.projection import TextProjection, text_projection
from pellucid.core.errors import ModelError, OptionError, SiteError
from pellucid.core.testing_pipelines import tiny_pipeline

FAMILIES = ("sd", "sd2", "sdxl", "sd3", "pixart", "if")
SCHEDULERS = {
    "DDIM": (diffusers.DDIMScheduler, {}),
    "DDIM, trailing": (diffusers.DDIMScheduler, {"timestep_spacing": "trailing"}),
    "DDPM": (diffusers.DDPMScheduler, {}),
    "PNDM": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "Euler": (diffusers.EulerDiscreteScheduler, {}),
    "Euler, Karras": (diffusers.EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "DPM-Solver": (diffusers.DPMSolverMultistepScheduler, {}),
    "UniPC": (diffusers.UniPCMultistepScheduler, {}),
}
PROMPTS = ["a red cat and a blue dog", "a green car"]


def call(pipe, guidance=4.0, steps=3, seed=0, **more):
    fixed = {"use_resolution_binning": False, "clean_caption": False} if "PixArt" in type(pipe).__name__ else {}
    fixed = {"clean_caption": False} if type(pipe).__name__ == "IFPipeline" else fixed
    more = more or {"prompt": PROMPTS}
    generator = [torch.Generator().manual_seed(seed + row) for row in range(2)]
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "np"}
    return pipe(generator=generator, **options, **fixed, **more).images


def drawn(pipe, window=1):
    projection = text_projection(pipe, window)
    chance = torch.Generator().manual_seed(1)
    for weight in projection.parameters():
        weight.data = torch.randn(weight.shape, generator=chance) * 0.1
    return projection


def by_hand(pipe, projection, guidance=4.0):
    """The slow twin of a projection that is always on: prompts are encoded, projected, and given as embeddings."""
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": guidance > 1}
    if type(pipe).__name__.startswith("StableDiffusion3"):
        found = pipe.encode_prompt(PROMPTS, None, None, **options)
    elif hasattr(pipe, "text_encoder_2"):
        found = pipe.encode_prompt(PROMPTS, None, **options)
    else:
        found = pipe.encode_prompt(PROMPTS, **options)
    names = ["prompt_embeds", "negative_prompt_embeds"]
    if "PixArt" in type(pipe).__name__:
        names = ["prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"]
    elif len(found) == 4:
        names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    arguments = {name: value for name, value in zip(names, found, strict=True) if value is not None}
    arguments["prompt_embeds"] = projection(arguments["prompt_embeds"]).detach()
    if type(pipe).__name__ in ("IFPipeline", "PixArtAlphaPipeline"):
        arguments["negative_prompt"] = None
    return call(pipe, guidance, **arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_every_family(family):
    pipe = tiny_pipeline(family)
    base = call(pipe)
    with attach(pipe, text_projection(pipe), 0):
        assert np.array_equal(call(pipe), base)  # at zero nothing changes, to the bit
    projection = drawn(pipe)
    with attach(pipe, projection, 1.0):
        assert np.array_equal(call(pipe), base)  # never
    with attach(pipe, projection, 0):
        always = call(pipe)
    assert not np.array_equal(always, base)
    assert np.array_equal(always, by_hand(pipe, projection))
    with attach(pipe, projection, 0.6):
        between = call(pipe)
    assert not np.array_equal(between, base)
    assert not np.array_equal(between, always)
    assert np.array_equal(call(pipe), base)  # detaching restores
    assert "encode_prompt" not in vars(pipe)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_two_ends_of_switch_off_are_never_and_always_on_every_scheduler(name):
    pipe = tiny_pipeline("sd")
    kind, options = SCHEDULERS[name]
    pipe.scheduler = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **options)
    projection, base = drawn(pipe), call(pipe)
    for never in (1.0, 1000):
        with attach(pipe, projection, never):
            assert np.array_equal(call(pipe), base)
    with attach(pipe, projection, 0):
        always = call(pipe)
    assert np.array_equal(always, by_hand(pipe, projection))


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_the_projection_is_on_at_times_of_at_least_tau(family):
    pipe, seen = tiny_pipeline(family), []
    network = pipe.transformer if family == "sd3" else pipe.unet
    projection = drawn(pipe)

    def note(_, args, options):
        time = options["timestep"] if family == "sd3" else args[1]
        seen.append((float(time.flatten()[0]), options["encoder_hidden_states"].clone()))

    hook = network.register_forward_pre_hook(note, with_kwargs=True)
    call(pipe, steps=5)
    plain, seen[:] = seen[0][1], []
    hook.remove()
    times = pipe.scheduler.timesteps.tolist()
    tau = times[2] / 1000  # the third step is at tau itself
    with attach(pipe, projection, tau):
        hook = network.register_forward_pre_hook(note, with_kwargs=True)
        call(pipe, steps=5)
    hook.remove()
    assert [time for time, _ in seen] == pytest.approx(times)
    changed = [not torch.equal(text, plain) for _, text in seen]
    assert changed == [True, True, True, False, False]
    for _, text in seen:
        assert torch.equal(text[:2], plain[:2])  # the unconditional half


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_only_rows_with_a_prompt_are_projected(guidance):
    pipe, seen = tiny_pipeline("sd"), []
    projection = drawn(pipe)
    hook = pipe.unet.register_forward_pre_hook(
        lambda m, a, k: seen.append(k["encoder_hidden_states"]), with_kwargs=True
    )
    call(pipe, guidance, steps=1)
    hook.remove()
    with attach(pipe, projection, 0):
        hook = pipe.unet.register_forward_pre_hook(
            lambda m, a, k: seen.append(k["encoder_hidden_states"]), with_kwargs=True
        )
        call(pipe, guidance, steps=1)
        hook.remove()
    before, after = seen
    assert len(before) == (4 if guidance > 1 else 2)
    assert torch.equal(before[:-2], after[:-2])
    torch.testing.assert_close(after[-2:], projection(before[-2:]))


def test_several_pictures_a_prompt_and_sd3_s_guidance_by_skipped_layers():
    pipe = tiny_pipeline("sd3")
    projection = drawn(pipe)
    options = {
        "num_inference_steps": 3,
        "guidance_scale": 4.0,
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 1.0,
        "output_type": "np",
    }

    def make():
        return pipe("a red cat", generator=torch.Generator().manual_seed(0), num_images_per_prompt=2, **options).images

    base = make()
    with attach(pipe, projection, 0):
        assert not np.array_equal(make(), base)
    assert np.array_equal(make(), base)


def test_rows_at_different_times_are_told_apart():
    pipe = tiny_pipeline("sd")
    projection = drawn(pipe)
    text, latents = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 4, 8, 8)
    times = torch.tensor([900, 100])
    with torch.no_grad(), attach(pipe, projection, 800):
        found = pipe.unet(latents, times, text).sample
    with torch.no_grad():
        expected = pipe.unet(latents, times, torch.stack([projection(text)[0], text[1]])).sample
    torch.testing.assert_close(found, expected)


def test_chosen_tokens_reach_their_rows():
    pipe, seen = tiny_pipeline("sd"), []
    projection = drawn(pipe)
    tokens = torch.zeros(2, 77, dtype=torch.bool)
    tokens[0, 2], tokens[1, 5] = True, True
    with attach(pipe, projection, 0, tokens):
        hook = pipe.unet.register_forward_pre_hook(
            lambda m, a, k: seen.append(k["encoder_hidden_states"]), with_kwargs=True
        )
        call(pipe, steps=1)
        hook.remove()
    plain = torch.cat(pipe.encode_prompt(PROMPTS, "cpu", 1, True)[::-1])
    changed = (seen[0] != plain).any(-1)
    assert changed.nonzero().tolist() == [[2, 2], [3, 5]]
    with attach(pipe, projection, 0, tokens[[0, 1, 0]]), pytest.raises(OptionError, match="3 rows, and 2 prompts"):
        call(pipe, steps=1)


def test_one_projection_at_a_time_and_detaching_twice():
    pipe = tiny_pipeline("sd")
    handle = attach(pipe, text_projection(pipe))
    assert attached(pipe) is handle
    assert handle.share == 0.8
    with pytest.raises(OptionError, match="detach it first"):
        attach(pipe, text_projection(pipe))
    handle.detach()
    second = attach(pipe, text_projection(pipe))
    handle.detach()
    assert attached(pipe) is second
    second.detach()
    assert attached(pipe) is None


def test_an_encode_prompt_of_the_pipeline_s_own_comes_back():
    pipe, calls = tiny_pipeline("sd"), []
    theirs = pipe.encode_prompt

    def mine(*args, **options):
        calls.append(0)
        return theirs(*args, **options)

    pipe.encode_prompt = mine
    with attach(pipe, drawn(pipe), 0):
        call(pipe, steps=1)
    assert calls
    assert pipe.encode_prompt is mine


def test_what_does_not_fit_is_told():
    pipe = tiny_pipeline("sd")
    with pytest.raises(OptionError, match="encoders of 32 and 32 channels, and StableDiffusionPipeline has 32"):
        attach(pipe, TextProjection(text_projection(tiny_pipeline("sdxl")).parts))
    for wrong in (-0.1, 1001, float("nan")):
        with pytest.raises(OptionError, match="switch_off is"):
            attach(pipe, text_projection(pipe), wrong)
    assert attached(pipe) is None
    with attach(pipe, drawn(pipe), 0):
        call(pipe, steps=1)
        with pytest.raises(SiteError, match="3 rows where 2 prompts"):
            pipe.unet(torch.zeros(3, 4, 8, 8), 900, torch.zeros(3, 77, 32))
    pipe.scheduler = None
    with pytest.raises(ModelError, match="no scheduler"):
        switch_off_share(pipe, 800)


def test_a_time_step_is_its_share():
    pipe = tiny_pipeline("sd3")
    assert switch_off_share(pipe, 800) == switch_off_share(pipe, 0.8) == 0.8
