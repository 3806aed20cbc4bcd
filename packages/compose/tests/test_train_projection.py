import numpy as np
import pytest
import torch
from pellucid.compose.attach import attached
from pellucid.compose.captioned import CaptionedImage
from pellucid.compose.denoising import encode_captions, picture_latents
from pellucid.compose.latents import encode_dataset
from pellucid.compose.noise_schedule import noise_schedule
from pellucid.compose.projection import text_projection
from pellucid.compose.train_projection import ProjectionTraining, train_projection
from pellucid.compose.trained import Trained, load_trained
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing_pipelines import tiny_pipeline
from PIL import Image
from torch import nn

CAPTIONS = ["a red cat", "a blue dog", "a red cat", "a green car"]
QUICK = ProjectionTraining(rate=1e-2, steps=4, batch=2)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder, random, items = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for number, caption in enumerate(CAPTIONS):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        items.append(CaptionedImage(str(folder / f"{number}.png"), caption, f"p{number}"))
    return items


@pytest.fixture(scope="module")
def sd(captioned, tmp_path_factory):
    pipe = tiny_pipeline("sd")
    return pipe, encode_dataset(pipe, captioned, tmp_path_factory.mktemp("encoded"))


def state(pipe):
    models = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return {f"{name}.{key}": value.clone() for name, part in models.items() for key, value in part.state_dict().items()}


def weights(trained):
    found = dict(trained.encoders)
    return found if trained.projection is None else found | trained.projection.state_dict()


def changed(old, new):
    return {name for name in old if not torch.equal(old[name], new[name])}


def by_hand(pipe, captioned, training):
    """The slow twin: pictures and captions encoded at each step, the scheduler's own noise, torch's own Adam."""
    projection = text_projection(pipe, training.window)
    optimiser = torch.optim.Adam(projection.parameters(), training.rate)
    decays = [round(share * training.steps) for share in training.decays]
    rates = torch.optim.lr_scheduler.MultiStepLR(optimiser, decays)
    for step in range(training.steps):
        chance = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
        chosen = torch.randint(len(captioned), (training.batch,), generator=chance).tolist()
        times = torch.randint(1000, (training.batch,), generator=chance)
        clean = torch.cat([picture_latents(pipe, [Image.open(captioned[row].image)]) for row in chosen])
        noise = torch.randn(clean.shape, generator=chance)
        text = torch.cat([encode_captions(pipe, [captioned[row].caption]).parts["embeds"] for row in chosen])
        told = pipe.unet(pipe.scheduler.add_noise(clean, noise, times), times, projection(text)).sample
        loss = (told - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(projection.parameters(), 1.0)
        optimiser.step()
        rates.step()
    return projection


def test_precomputed_training_is_the_plain_loop(sd, captioned):
    pipe, encoded = sd
    fast = train_projection(pipe, encoded, training=QUICK).projection
    slow = by_hand(pipe, captioned, QUICK)
    for name, weight in slow.state_dict().items():
        # Adam divides by the gradient's size: rounding shows most where that is near zero.
        torch.testing.assert_close(fast.state_dict()[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["sd", "sd2", "sdxl", "sd3", "pixart", "if"])
def test_only_the_projection_learns(family, captioned, tmp_path):
    pipe = tiny_pipeline(family)
    pipe.text_encoder.requires_grad_(True)  # as diffusers itself loads it
    before = state(pipe)
    encoded = encode_dataset(pipe, captioned, tmp_path)
    trained = train_projection(pipe, encoded, training=ProjectionTraining(rate=1e-3, steps=2, batch=2, window=1))
    assert changed(before, state(pipe)) == set()
    assert trained.encoders == {}
    start = text_projection(pipe, 1).state_dict()
    assert changed(start, trained.projection.state_dict()) == start.keys()
    assert all(part.grad is None for part in pipe.text_encoder.parameters())
    assert all(part.requires_grad for part in pipe.text_encoder.parameters())
    assert len(trained.losses) == 2


def test_training_lowers_the_loss(sd):
    pipe, encoded = sd
    training = ProjectionTraining(rate=3e-3, steps=30, batch=4, decays=())
    losses = train_projection(pipe, encoded, training=training).losses
    # Noise and time-steps differ from step to step, so the same ones are compared: those of a run that learns nothing.
    still = train_projection(
        pipe, encoded, training=ProjectionTraining(rate=1e-12, steps=30, batch=4, decays=())
    ).losses
    assert losses[0] == still[0]
    assert np.mean(losses[15:]) < np.mean(still[15:])


def test_clp_is_wiclp_with_a_window_of_zero(sd):
    pipe, encoded = sd
    clp = train_projection(pipe, encoded, training=ProjectionTraining("clp", rate=1e-3, steps=2, batch=2))
    wiclp = train_projection(pipe, encoded, training=ProjectionTraining("wiclp", 0, rate=1e-3, steps=2, batch=2))
    assert clp.projection.window == 0
    assert clp.losses == wiclp.losses
    assert changed(weights(clp), weights(wiclp)) == set()


@pytest.mark.parametrize("method", ["wiclp", "last-layers+wiclp"])
def test_a_killed_run_ends_with_the_same_bits(sd, tmp_path, monkeypatch, method):
    pipe, encoded = sd
    training = ProjectionTraining(method, rate=1e-3, steps=5, batch=2)
    whole = train_projection(pipe, encoded, tmp_path / "whole", training)
    before, calls = state(pipe), []

    def dies(*args):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt

    hook = pipe.unet.register_forward_pre_hook(dies)
    with pytest.raises(KeyboardInterrupt):
        train_projection(pipe, encoded, tmp_path / "cut", training, every=2)
    hook.remove()
    assert changed(before, state(pipe)) == set()
    rest = train_projection(pipe, encoded, tmp_path / "cut", training, every=2)
    assert rest.losses == whole.losses
    assert changed(weights(whole), weights(rest)) == set()
    assert changed(weights(whole), weights(load_trained(tmp_path / "cut"))) == set()


def test_a_loss_that_is_no_number_names_step_and_pictures(sd):
    pipe, encoded = sd
    encoded.latents[3] *= float("nan")
    try:
        with pytest.raises(DataError, match=r"wiclp: the loss is nan at step \d+, in the batch of .*p3"):
            train_projection(pipe, encoded, training=ProjectionTraining(steps=20, batch=2))
    finally:
        encoded.latents[3] = encoded.latents[0]


def test_the_whole_text_encoder(sd):
    pipe, encoded = sd
    before = state(pipe)
    trained = train_projection(pipe, encoded, training=ProjectionTraining("text-encoder", rate=1e-3, steps=2, batch=2))
    assert trained.projection is None
    assert trained.encoders.keys() == {name for name in before if name.startswith("text_encoder.")}
    assert changed(before, state(pipe)) == set()
    with trained.applied(pipe):
        moved = changed(before, state(pipe))
        assert attached(pipe) is None
    assert moved <= trained.encoders.keys()
    assert {"text_encoder.encoder.layers.0.mlp.fc1.weight", "text_encoder.final_layer_norm.bias"} <= moved
    assert changed(before, state(pipe)) == set()


def test_the_last_layers_with_wiclp(sd, tmp_path):
    pipe, encoded = sd
    training = ProjectionTraining("last-layers+wiclp", rate=1e-3, steps=2, batch=2, last_layers=1)
    trained = train_projection(pipe, encoded, tmp_path, training)
    assert trained.encoders
    assert all(name.startswith("text_encoder.encoder.layers.2.") for name in trained.encoders)
    assert trained.parameters == sum(weight.numel() for weight in weights(trained).values())
    before, again = state(pipe), load_trained(tmp_path)
    assert changed(weights(trained), weights(again)) == set()
    with again.applied(pipe, 0):
        assert attached(pipe).share == 0
        # What does not bear on the output, as a key's bias, may stay where it was.
        moved = changed(before, state(pipe))
        assert moved <= again.encoders.keys()
        assert len(moved) > 10
    assert changed(before, state(pipe)) == set()


def test_t5_s_last_layers_and_a_pipeline_without_gradients(captioned, tmp_path):
    training = ProjectionTraining("last-layers+wiclp", rate=1e-3, steps=1, batch=2, last_layers=1)
    pipe = tiny_pipeline("pixart")
    trained = train_projection(pipe, encode_dataset(pipe, captioned, tmp_path / "pixart"), training=training)
    assert trained.encoders
    assert all(name.startswith("text_encoder.encoder.block.2.") for name in trained.encoders)
    pipe = tiny_pipeline("if")
    with pytest.raises(OptionError, match="IFPipeline lets no gradient through"):
        train_projection(pipe, encode_dataset(pipe, captioned, tmp_path / "if"), training=training)


def test_what_cannot_be_trained_or_used_is_told(sd, tmp_path):
    pipe, encoded = sd
    with pytest.raises(OptionError, match="method 'mlp'"):
        ProjectionTraining("mlp")
    with pytest.raises(OptionError, match="batch=0"):
        ProjectionTraining(batch=0)
    half = tiny_pipeline("sd").to(torch.bfloat16)
    with pytest.raises(OptionError, match="load the pipeline in float32"):
        train_projection(half, encoded, training=ProjectionTraining("text-encoder", steps=1))
    lost = Trained(None, {"text_encoder_9.x": torch.zeros(1)})
    with pytest.raises(OptionError, match=r"has no weight text_encoder_9\.x"), lost.applied(pipe):
        pass
    (tmp_path / "text_encoders.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read"):
        load_trained(tmp_path)
    with pytest.raises(DataError, match="holds no projection"):
        load_trained(tmp_path / "nothing")


def test_times_are_drawn_over_the_whole_schedule(sd):
    """The twin above draws from 1000 steps: so many the schedule has."""
    assert noise_schedule(sd[0].scheduler).steps == 1000
