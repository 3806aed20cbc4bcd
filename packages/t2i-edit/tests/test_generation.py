from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pellucid.core.conditioning import Conditioning, encode
from pellucid.core.errors import ModelError, OptionError
from pellucid.core.generation import chunks, generate
from pellucid.core.testing_pipelines import PIPELINES, tiny_pipeline

PROMPTS = ["a house in the style of van gogh", "a dog"]


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request):
    # In double precision, so that rounding, which depends on the size of a batch, stays far below the tolerance.
    return tiny_pipeline(request.param).to(torch.float64)


def test_encoded_prompts_give_the_pictures_of_the_pipeline_itself(pipe):
    extra = {"clean_caption": False} if "clean_caption" in pipe.__call__.__code__.co_varnames else {}
    extra |= {"use_resolution_binning": False} if type(pipe).__name__.startswith("PixArt") else {}
    theirs = pipe(
        PROMPTS,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        num_inference_steps=2,
        guidance_scale=5.0,
        output_type="np",
        **extra,
    ).images
    ours = generate(pipe, encode(pipe, PROMPTS), [3, 4], steps=2, guidance=5.0)
    assert ours.dtype == np.uint8
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs * 255.0).max() <= 0.51
    assert np.unique(ours).size > 2


def test_a_row_depends_on_its_own_prompt_and_seed_only(pipe):
    both = encode(pipe, PROMPTS)
    batch = generate(pipe, both.take([0, 1, 0]), [3, 4, 5], steps=2, output="latents")
    alone = generate(pipe, encode(pipe, PROMPTS[:1]), [3], steps=2, output="latents")
    cut = generate(pipe, both.take([0, 1, 0]), [3, 4, 5], steps=2, output="latents", chunk=2)
    torch.testing.assert_close(batch[:1], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batch, cut, atol=1e-5, rtol=1e-5)
    assert (batch[0] - batch[2]).abs().max() > 0.01


def test_conditionings_stack_take_and_replace(pipe):
    both = encode(pipe, PROMPTS)
    assert both.rows == 2
    swapped = Conditioning.stack([both.take([1]), both.take([0])])
    back = swapped.take([1, 0])
    for name, value in both.arguments.items():
        torch.testing.assert_close(back.arguments[name], value, atol=0, rtol=0)
    positive = encode(pipe, PROMPTS[::-1], negative=None)
    assert not any(name.startswith("negative") for name in positive.arguments)
    mixed = both.replaced(positive)
    assert mixed.arguments.keys() == both.arguments.keys()
    torch.testing.assert_close(
        mixed.arguments["prompt_embeds"], swapped.arguments["prompt_embeds"], atol=1e-5, rtol=1e-5
    )


def test_a_negative_prompt_changes_the_unconditional_half_only():
    pipe = tiny_pipeline("sd")
    plain, negative = encode(pipe, ["a dog"]), encode(pipe, ["a dog"], negative="a house")
    assert torch.equal(plain.arguments["prompt_embeds"], negative.arguments["prompt_embeds"])
    assert not torch.equal(plain.arguments["negative_prompt_embeds"], negative.arguments["negative_prompt_embeds"])
    with pytest.raises(OptionError, match="no classifier-free guidance"):
        encode(tiny_pipeline("flux"), ["a dog"], negative="a house")


def test_bad_input_is_refused_in_one_line():
    pipe = tiny_pipeline("sd")
    one = encode(pipe, ["a dog"])
    with pytest.raises(OptionError, match="at least one prompt"):
        encode(pipe, [])
    with pytest.raises(OptionError, match="2 seeds for 1 rows"):
        generate(pipe, one, [0, 1])
    with pytest.raises(OptionError, match="0 denoising steps"):
        generate(pipe, one, [0], steps=0)
    with pytest.raises(OptionError, match="chunk is 0"):
        chunks(3, 0)
    with pytest.raises(OptionError, match="no conditioning to stack"):
        Conditioning.stack([])
    with pytest.raises(OptionError, match="do not go together"):
        Conditioning.stack([one, encode(pipe, ["a dog"], negative=None)])
    with pytest.raises(ModelError, match="no encode_prompt"):
        encode(SimpleNamespace(), ["a dog"])
    broken = Conditioning({name: value * torch.nan for name, value in one.arguments.items()})
    for output in ("pixels", "latents"):
        with pytest.raises(ModelError, match="not finite"):
            generate(pipe, broken, [0], steps=1, output=output)
    scheduler, pipe.scheduler = pipe.scheduler, None
    with pytest.raises(ModelError, match="no scheduler"):
        generate(pipe, one, [0])
    pipe.scheduler = scheduler


def test_pictures_that_a_safety_checker_blanks_are_refused():
    pipe = tiny_pipeline("sd")
    one = encode(pipe, ["a dog"])
    pipe.run_safety_checker = lambda image, device, dtype: (image * 0, [True])
    with pytest.raises(ModelError, match="blanked 1 of 1"):
        generate(pipe, one, [0], steps=1)
