"""The thesis's models are built without weights from their configs: their sizes are the published ones."""

import dataclasses

import pytest
from pellucid.core.errors import OptionError
from pellucid.reproduce.dry_run import check, models_of
from pellucid.reproduce.entries import ENTRIES, find
from pellucid.reproduce.paper_models import parts_of

# As the models' own cards and files say.
_PUBLISHED = {
    "lmsys/vicuna-7b-v1.5": {"model": 6_738_415_616},
    "meta-llama/Meta-Llama-3-8B-Instruct": {"model": 8_030_261_248},
    "meta-llama/Meta-Llama-3-70B-Instruct": {"model": 70_553_706_496},
    "microsoft/Phi-3-mini-4k-instruct": {"model": 3_821_079_552},
    "llava-hf/llava-1.5-7b-hf": {"model": 7_063_427_072},
    "CompVis/stable-diffusion-v1-4": {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863},
    "stabilityai/stable-diffusion-2-1": {"unet": 865_910_724, "text_encoder": 340_387_840, "vae": 83_653_863},
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "vae": 83_653_863,
    },
    "sentence-transformers/all-mpnet-base-v2": {"model": 109_486_464},
    "timm:deit_base_patch16_224.fb_in1k": {"model": 86_567_656},
    "open_clip:ViT-B-16/openai": {"model": 149_620_737},
}  # fmt: skip


@pytest.mark.parametrize("name", _PUBLISHED)
def test_a_config_has_as_many_parameters_as_the_published_model(name) -> None:
    parts = parts_of(name)
    assert {part: sum(p.numel() for p in model.parameters()) for part, model in parts.items()} == _PUBLISHED[name]
    assert all(p.is_meta for model in parts.values() for p in model.parameters())


def test_every_model_of_every_entry_resolves_and_fits_on_its_hardware() -> None:
    for entry in ENTRIES:
        assert entry.paper is not None
        if not entry.paper.models.startswith("none"):
            assert models_of(entry.paper), entry.id
        for name in models_of(entry.paper):
            found = check(name, entry.paper)
            assert found.fits, (entry.id, str(found))


def test_what_does_not_fit_is_told() -> None:
    paper = find("figure-11.10").paper
    assert paper is not None
    (name,) = models_of(paper)
    small = dataclasses.replace(paper, hardware="1 GPU of 80 GB")
    found = check(name, small)
    assert not found.fits
    assert "80 layers of 64 heads" in str(found)
    assert "GB on the CPU of 1 x 80 GB (does not fit" in str(found)


def test_an_unknown_model_is_one_line() -> None:
    with pytest.raises(OptionError, match="the config of nobody/nothing is not known here"):
        parts_of("nobody/nothing")
