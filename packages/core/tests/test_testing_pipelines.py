"""Tiny pipelines: every family samples, depends on its text and its seed, and comes back from a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pellucid.core.testing_pipelines import PIPELINES, WORDS, clip_tokenizer, t5_tokenizer, tiny_pipeline

PROMPTS = ["a dog in the style of van gogh", "a cat in the style of van gogh"]


def sample(pipe: Any, prompts: list[str], seed: int = 0) -> np.ndarray:
    options = {"use_resolution_binning": False} if type(pipe).__name__.startswith("PixArt") else {}
    return pipe(
        prompts,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for _ in prompts],
        output_type="np",
        **options,
    ).images


def test_the_families_are_those_agreed_on() -> None:
    assert PIPELINES == ("sd", "sd2", "sdxl", "if", "sd3", "pixart", "flux")


@pytest.mark.parametrize("family", PIPELINES)
def test_pictures_depend_on_the_text_and_on_the_seed_and_are_not_flat(family: str) -> None:
    pipe = tiny_pipeline(family)
    dog, cat = sample(pipe, PROMPTS)
    assert dog.shape == (16, 16, 3)
    assert np.isfinite(dog).all()
    assert dog.std() > 0.1
    assert ((dog > 0) & (dog < 1)).mean() > 0.5
    assert np.abs(dog - cat).mean() > 0.01
    assert np.abs(dog - sample(pipe, PROMPTS[:1], seed=1)[0]).mean() > 0.05
    np.testing.assert_array_equal(sample(pipe, PROMPTS[:1]), sample(tiny_pipeline(family), PROMPTS[:1]))


@pytest.mark.parametrize("family", PIPELINES)
def test_the_models_are_ready_to_be_looked_into_and_the_seed_draws_the_weights(family: str) -> None:
    random = torch.get_rng_state()
    pipe, other = tiny_pipeline(family), tiny_pipeline(family, seed=1)
    assert torch.equal(random, torch.get_rng_state())
    models = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert "text_encoder" in models
    for name, model in models.items():
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        for key, value in model.named_parameters():
            assert value.std() > 1e-3 if value.numel() > 1 else True, (name, key)
            assert not torch.equal(value, other.components[name].get_parameter(key)), (name, key)


@pytest.mark.parametrize("family", PIPELINES)
def test_a_saved_pipeline_comes_back_the_same(family: str, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    pipe = tiny_pipeline(family)
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    again = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    again.set_progress_bar_config(disable=True)
    if family == "flux":
        again.default_sample_size = 8
    assert type(again) is type(pipe)
    np.testing.assert_array_equal(sample(again, PROMPTS), sample(pipe, PROMPTS))


def test_clip_tokens_are_words_or_letters_and_padded_to_77() -> None:
    tokenizer = clip_tokenizer()
    tokens = tokenizer.tokenize("A Dog by Klimt")
    assert tokens == ["a</w>", "dog</w>", "by</w>", "k", "l", "i", "m", "t</w>"]
    assert all(len(tokenizer.tokenize(word)) == 1 for word in WORDS)
    ids = tokenizer("a dog", padding="max_length", truncation=True).input_ids
    assert len(ids) == 77
    assert ids[0] == tokenizer.bos_token_id
    assert set(ids[3:]) == {tokenizer.eos_token_id}
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert clip_tokenizer(pad="!")("a dog", padding="max_length").input_ids[4:] == [0] * 73


def test_t5_tokens_are_words_or_letters_with_offsets() -> None:
    tokenizer = t5_tokenizer()
    found = tokenizer("a dog by Xu", return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(found.input_ids)
    assert tokens == ["▁a", "▁dog", "▁by", "▁", "X", "u", "</s>"]
    assert found.offset_mapping[4:6] == [(9, 10), (10, 11)]
    assert all(len(tokenizer.tokenize(word)) == 1 for word in WORDS)
