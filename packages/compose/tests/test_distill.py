import copy

import pytest
import torch
from pellucid.compose.captioned import read_captions
from pellucid.compose.denoising import denoiser_of, encode_captions, picture_latents
from pellucid.compose.distill import batch_rows, distill
from pellucid.compose.distill_config import ENTRIES, DistillConfig, distill_entry
from pellucid.compose.sds import LatentMap, unet_features
from pellucid.compose.training import chance_of
from pellucid.core.clips import load_clip
from pellucid.core.errors import DataError, OptionError
from pellucid.core.pictures import open_picture
from pellucid.core.testing_pipelines import tiny_pipeline
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, normalize

FAST = {"steps": 4, "batch": 5, "rate": 1e-2}


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline("sd")


@pytest.fixture(scope="module")
def captioned(captioned_folder):
    return read_captions(captioned_folder)


def weights_of(model):
    return {name: part.clone() for name, part in model.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def plain(clip, captioned, config, teacher=None):
    """The slow twin of `distill`: algorithm 6 written out, everything encoded anew at each step."""
    names = clip.norms()
    parts = list(names.values())
    latent_map = None
    if teacher is not None:
        denoiser = denoiser_of(teacher)
        shape = denoiser.shape
        if config.method == "features":
            shape = (teacher.unet.config.block_out_channels[-1], 2, 2)
        latent_map = LatentMap(clip.width, shape, config.seed)
        parts = [*parts, *latent_map.parameters()]
    for part in parts:
        part.requires_grad_(True)
    optimiser = torch.optim.Adam(parts, config.rate)
    for step in range(config.steps):
        some = [captioned[row] for row in batch_rows(len(captioned), config.batch, step, config.seed)]
        seen = clip.image_features(clip.prepare([open_picture(item.image) for item in some]))
        said = clip.text_features(clip.tokenize([item.caption for item in some]))
        logits = clip.logit_scale.exp() * normalize(seen, dim=1) @ normalize(said, dim=1).T
        right = torch.arange(config.batch)
        loss = (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2
        if teacher is not None:
            chance = chance_of(config.seed + 1, step)
            times = torch.randint(1000, (config.batch,), generator=chance)
            noise = torch.randn(config.batch, *denoiser.shape, generator=chance)
            text = encode_captions(teacher, [item.caption for item in some])
            if config.method == "sds":
                noised = teacher.scheduler.add_noise(latent_map(seen), noise, times)
                told = teacher.unet(noised, times, text.parts["embeds"]).sample
                loss = loss + config.weight * (told - noise).square().mean()
            else:
                latents = picture_latents(teacher, [open_picture(item.image) for item in some])
                wanted = unet_features(denoiser, latents, noise, times, text)
                loss = loss + config.weight * (latent_map(seen) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimiser.step()
    return weights_of(clip.model), latent_map


@pytest.mark.parametrize("config", [
    DistillConfig(method="contrastive", **FAST),
    DistillConfig(method="sds", weight=0.0, **FAST),
    DistillConfig(method="features", weight=0.0, **FAST),
])  # fmt: skip
def test_without_a_second_term_it_is_contrastive_fine_tuning_to_the_bit(config, make_clip, captioned):
    slow, _ = plain(make_clip(), captioned, config)
    clip = make_clip()
    distill(clip, captioned, config=config)
    assert not changed(slow, weights_of(clip.model))


def test_the_contrastive_part_is_the_same_to_the_bit_beside_a_teacher(make_clip, captioned, pipe):
    """With a lambda too small to be seen in float32, a teacher that takes part changes nothing but the map."""
    clip, alone = make_clip(), make_clip()
    some = {"steps": 1, "batch": 5, "rate": 1e-2}
    distill(alone, captioned, config=DistillConfig(method="contrastive", **some))
    found = distill(clip, captioned, config=DistillConfig(weight=1e-30, **some), pipe=pipe)
    assert not changed(weights_of(alone.model), weights_of(clip.model))
    assert found.latent_map is not None


@pytest.mark.parametrize("method", ["sds", "features"])
@pytest.mark.parametrize("encode_once", [True, False])
def test_it_is_algorithm_6(method, encode_once, make_clip, captioned, pipe):
    config = DistillConfig(method=method, weight=0.5, encode_once=encode_once, **FAST)
    slow, slow_map = plain(make_clip(), captioned, config, pipe)
    clip = make_clip()
    found = distill(clip, captioned, config=config, pipe=pipe)
    after = weights_of(clip.model)
    # Adam divides by the gradient's size: where that is near zero, rounding alone moves a weight.
    for name, part in slow.items():
        torch.testing.assert_close(after[name], part, rtol=1e-3, atol=1e-3, msg=name)
    torch.testing.assert_close(found.latent_map.weight, slow_map.weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["transformers", "vit", "resnet", "coca"])
def test_only_normalisations_and_the_map_change(kind, make_clip, captioned, pipe):
    clip, start = make_clip(kind), LatentMap(12, (4, 8, 8), 0)
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    before, frozen = weights_of(clip.model), {name: weights_of(part) for name, part in parts.items()}
    config = DistillConfig(weight=1.0, **FAST)
    found = distill(clip, captioned, config=config, pipe=pipe)
    assert changed(before, weights_of(clip.model)) == set(clip.norms()) == set(found.trained)
    assert not torch.equal(found.latent_map.weight, start.weight)
    for name, part in parts.items():
        assert not changed(frozen[name], weights_of(part)), name
        assert not part.training
        assert all(weight.grad is None for weight in part.parameters())
    assert not any(weight.requires_grad or weight.grad is not None for weight in clip.model.parameters())


def test_sds_reaches_the_image_encoder_alone(make_clip, captioned, pipe):
    """Two runs that differ in lambda alone, after one step: text encoders agree to the bit, image encoders do not."""
    found = []
    for weight in (0.0, 3.0):
        clip = make_clip()
        # One small step of Adam: its direction is the gradient's sign, so a scale common to all does not show.
        config = DistillConfig(weight=weight, steps=1, batch=5, rate=1e-3)
        distill(clip, captioned, config=config, pipe=pipe)
        found.append(weights_of(clip.model))
    other = {name for name in found[0] if (found[0][name] - found[1][name]).abs().max() > 1e-4}
    assert other
    assert all(name.startswith("vision_model.") for name in other)


def test_full_fine_tuning_changes_everything(make_clip, captioned, pipe):
    clip = make_clip()
    before = weights_of(clip.model)
    distill(clip, captioned, config=DistillConfig(trains="all", weight=1.0, **FAST), pipe=pipe)
    unchanged = set(before) - changed(before, weights_of(clip.model))
    assert not {name for name in unchanged if not name.endswith("position_ids")}


@pytest.mark.parametrize("method", ["contrastive", "sds"])
def test_a_killed_run_goes_on_to_the_same_weights(method, make_clip, captioned, pipe, tmp_path, monkeypatch):
    config = DistillConfig(method=method, weight=0.1, **FAST)
    whole = make_clip()
    distill(whole, captioned, tmp_path / "whole", config, pipe, every=2)
    import pellucid.compose.distill as module

    real, calls = module.contrastive_loss, []

    def dies(*given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "contrastive_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        distill(make_clip(), captioned, tmp_path / "killed", config, pipe, every=2)
    monkeypatch.setattr(module, "contrastive_loss", real)
    again = make_clip()
    found = distill(again, captioned, tmp_path / "killed", config, pipe, every=2)
    assert len(found.losses) == 4
    assert not changed(weights_of(whole.model), weights_of(again.model))
    if method == "sds":
        maps = [load_file(tmp_path / run / "latent_map.safetensors")["weight"] for run in ("whole", "killed")]
        assert torch.equal(*maps)
    kept = load_clip(tmp_path / "whole" / "clip")
    assert not changed(weights_of(whole.model), weights_of(kept.model))
    with pytest.raises(DataError, match="another run"):
        distill(again, captioned, tmp_path / "killed", config, pipe)  # a CLIP that is trained already


def test_a_run_does_not_go_on_with_another_teacher(make_clip, captioned, tmp_path, pipe):
    config = DistillConfig(weight=0.1, **FAST)
    distill(make_clip(), captioned, tmp_path, config, pipe)
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(2)
    try:
        with pytest.raises(DataError, match="another run"):
            distill(make_clip(), captioned, tmp_path, config, pipe)
    finally:
        with torch.no_grad():
            pipe.unet.conv_in.weight.div_(2)


def test_a_loss_that_is_no_number_names_its_step_and_batch(make_clip, captioned, pipe):
    broken = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        next(broken.conv_out.parameters()).fill_(torch.nan)
    real, pipe.unet = pipe.unet, broken
    try:
        with pytest.raises(DataError, match=r"sds: the loss is nan at step 0, in the batch of \d+, \d+"):
            distill(make_clip(), captioned, config=DistillConfig(**FAST), pipe=pipe)
    finally:
        pipe.unet = real


def test_batches_go_over_all_pairs():
    rows = [batch_rows(12, 5, step, 0) for step in range(4)]
    assert len({*rows[0], *rows[1]}) == 10
    assert len({*rows[2], *rows[3]}) == 10
    assert rows[0] != rows[2]
    assert rows[3] == batch_rows(12, 5, 3, 0)


def test_bad_options_are_one_line(make_clip, captioned):
    with pytest.raises(DataError, match="a batch of 32"):
        distill(make_clip(), captioned)
    with pytest.raises(OptionError, match="needs a text-to-image model"):
        distill(make_clip(), captioned, config=DistillConfig(**FAST))
    with pytest.raises(OptionError, match="method 'sdz'"):
        DistillConfig(method="sdz")
    with pytest.raises(OptionError, match="weight is -1"):
        DistillConfig(weight=-1)
    with pytest.raises(OptionError, match="choose from vit-b-16"):
        distill_entry("vit-b-61")


def test_entries_are_the_thesiss():
    assert {entry.config.weight for entry in ENTRIES.values()} == {0.001}
    assert {entry.config.rate for entry in ENTRIES.values()} == {5e-5}
    assert {entry.config.batch for entry in ENTRIES.values()} == {32}
    models = {"vit-b-16", "vit-b-32", "vit-l-14", "vit-l-14-336", "resnet-50"}
    assert models | {f"{name}-cc3m" for name in models} | {"laion-400m", "laion-2b", "coca"} <= set(ENTRIES)
    assert distill_entry("vit-b-16").winoground["sds"] == 0.31
