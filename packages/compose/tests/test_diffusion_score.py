import numpy as np
import pytest
import torch
from pellucid.compose.denoising import denoiser_of, encode_captions, picture_latents
from pellucid.compose.diffusion_score import LOOK, diffusion_scores, sample_noise, settled
from pellucid.compose.plain_diffusion_score import plain_diffusion_scores
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing_pipelines import tiny_pipeline
from PIL import Image

CAPTIONS = [["a red dog", "a blue car"], ["a photo of a beach", "a photo of a city"], ["a clock", "a pizza"]]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline("sd")


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]


def slow_scores(pipe, pictures, captions, samples, seed):
    """Eq. 9.1 as it stands: one picture, one caption, one noise at a time."""
    denoiser = denoiser_of(pipe)
    steps, noises = sample_noise(denoiser, samples, seed)
    table = np.zeros((len(pictures), len(captions[0])))
    for row, picture in enumerate(pictures):
        latents = picture_latents(pipe, [picture])
        for column, caption in enumerate(captions[row]):
            text = encode_captions(pipe, [caption]).parts["embeds"]
            for step, noise in zip(steps, noises, strict=True):
                noised = pipe.scheduler.add_noise(latents, noise[None], step[None])
                with torch.no_grad():
                    told = pipe.unet(noised, step, text).sample
                table[row, column] += float((told - noise).square().mean()) / samples
    return table


def test_scores_are_eq_9_1(pipe, pictures):
    found = diffusion_scores(pipe, pictures, CAPTIONS, samples=4, seed=2, batch=5)
    np.testing.assert_allclose(found.scores, slow_scores(pipe, pictures, CAPTIONS, 4, 2), rtol=1e-5)
    assert found.samples.tolist() == [4, 4, 4]
    assert found.matches.tolist() == found.scores.argmin(1).tolist()


@pytest.mark.parametrize("family", ["sd2", "sdxl", "if", "sd3", "pixart", "flux"])
def test_every_family_has_the_plain_loops_scores(family, pictures):
    pipe = tiny_pipeline(family)
    whole = diffusion_scores(pipe, pictures[:1], CAPTIONS[:1], samples=2, batch=4)
    plain = plain_diffusion_scores(pipe, pictures[:1], CAPTIONS[:1], samples=2)
    np.testing.assert_allclose(whole.scores, plain, rtol=1e-4)
    assert whole.scores[0, 0] != whole.scores[0, 1]


def test_a_picture_does_not_depend_on_the_others(pipe, pictures):
    alone = diffusion_scores(pipe, pictures[1:2], CAPTIONS[1:2], samples=3, seed=1)
    among = diffusion_scores(pipe, pictures, CAPTIONS, samples=3, seed=1)
    np.testing.assert_allclose(alone.scores[0], among.scores[1], rtol=1e-5)


def test_stopping_early_gives_means_of_the_first_samples(pipe, pictures):
    early = diffusion_scores(pipe, pictures, CAPTIONS, samples=30, seed=4, confidence=0.5)
    assert (early.samples % LOOK == 0).all()
    assert early.samples.min() < 30
    full = diffusion_scores(pipe, pictures, CAPTIONS, samples=30, seed=4)
    settled_rows = early.samples < 30
    assert (early.matches == full.matches)[settled_rows].all()
    np.testing.assert_allclose(early.scores[~settled_rows], full.scores[~settled_rows], rtol=1e-5)


def test_pictures_of_a_group_stop_together(pipe, pictures):
    captions = [CAPTIONS[0], CAPTIONS[0], CAPTIONS[1]]
    found = diffusion_scores(pipe, pictures, captions, samples=20, confidence=0.6, groups=[7, 7, 8])
    assert found.samples[0] == found.samples[1]


def test_what_is_settled():
    chance = np.random.default_rng(0)
    common = chance.normal(size=(20, 1, 1)) * 100  # shared by all captions: pairing takes it out
    clear = common + np.array([0.0, 1.0, 2.0]) + 0.1 * chance.normal(size=(20, 1, 3))
    assert settled(clear, 1e-4)
    assert not settled(common + 0.1 * chance.normal(size=(20, 1, 3)), 1e-4)
    # Each picture's caption is clear, but one caption's picture is not.
    same = np.concatenate([clear, clear + 0.1 * chance.normal(size=clear.shape)], axis=1)
    assert not settled(same, 1e-4)


def test_false_decisions_are_as_rare_as_asked():
    """Captions that differ by nothing: at a level of .05 a look, about that share is called settled."""
    chance = np.random.default_rng(1)
    called = np.mean([settled(chance.normal(size=(10, 1, 2)), 0.05) for _ in range(2000)])
    assert called < 0.13  # two sides of .05


def test_steps_are_spread_over_the_schedule(pipe):
    steps, noises = sample_noise(denoiser_of(pipe), 50, 0)
    assert sorted((steps // 20).tolist()) == list(range(50))
    assert steps.tolist() != sorted(steps.tolist())
    assert noises.shape == (50, 4, 8, 8)


def test_bad_input_is_one_line(pipe, pictures):
    with pytest.raises(DataError, match="equally many"):
        diffusion_scores(pipe, pictures[:2], [["a"], ["a", "b"]])
    with pytest.raises(OptionError, match="confidence is 95"):
        diffusion_scores(pipe, pictures, CAPTIONS, confidence=95)
    with pytest.raises(OptionError, match="samples is 0"):
        diffusion_scores(pipe, pictures, CAPTIONS, samples=0)
    with pytest.raises(DataError, match="different captions"):
        diffusion_scores(pipe, pictures, CAPTIONS, groups=[0, 0, 1])
    with pytest.raises(DataError, match="one after another"):
        diffusion_scores(pipe, pictures, [CAPTIONS[0]] * 3, groups=[0, 1, 0])
    with pytest.raises(OptionError, match="has one"):
        diffusion_scores(pipe, pictures, [["a"]] * 3, confidence=0.9)
