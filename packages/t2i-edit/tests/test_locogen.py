import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pellucid.core.conditioning import encode
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.errors import DataError, OptionError, SiteError
from pellucid.core.generation import generate
from pellucid.core.testing_pipelines import PIPELINES, tiny_pipeline
from pellucid.core.tracing import Site, capture, find_module, patch
from pellucid.t2i_edit.locogen import (
    LocogenImages,
    Window,
    altered_scores,
    best_window,
    locate_each,
    locogen,
    locogen_images,
    locogen_search,
    windows_of,
)
from pellucid.t2i_edit.rows import altering, pooled_site

PROMPT, TARGET = "a house in the style of van gogh", "a painting"


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request):
    # In double precision, so that rounding, which depends on the size of a batch, stays far below the tolerance.
    return tiny_pipeline(request.param).to(torch.float64)


def single_stream(pipe):
    return len(getattr(denoiser_anatomy(pipe).denoiser, "single_transformer_blocks", ())) > 0


def warned(pipe):
    return pytest.warns(UserWarning, match="single-stream") if single_stream(pipe) else contextlib.nullcontext()


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def one(pipe, prompt, seed):
    return generate(pipe, encode(pipe, [prompt]), [seed], steps=2, guidance=5.0, output="latents")[0]


def test_all_layers_altered_give_the_target_picture(pipe):
    anatomy = denoiser_anatomy(pipe)
    if single_stream(pipe):
        # Single-stream blocks have no text keys: take them out to see the rest agree.
        pipe = tiny_pipeline("flux").to(torch.float64)
        pipe.transformer.single_transformer_blocks = torch.nn.ModuleList()
        anatomy = denoiser_anatomy(pipe)
    layers = len(anatomy.cross_attentions)
    got = locogen_images(
        pipe,
        PROMPT,
        TARGET,
        5,
        [Window(0, layers), Window(0, 1), Window(layers - 1, 1)],
        steps=2,
        guidance=5.0,
        pooled=anatomy.pooled,
        chunk=3,
        output="latents",
    )
    close(got.original, one(pipe, PROMPT, 5))
    close(got.target, one(pipe, TARGET, 5))
    close(got.altered[0], got.target)
    assert (got.original - got.target).abs().max() > 0.01
    assert (got.altered[1] - got.target).abs().max() > 1e-4
    if anatomy.pooled:
        without = locogen_images(pipe, PROMPT, TARGET, 5, [Window(0, layers)], steps=2, guidance=5.0, output="latents")
        assert (without.altered[0] - got.target).abs().max() > 1e-4
    else:
        with pytest.raises(SiteError, match="no pooled text"):
            locogen_images(pipe, PROMPT, TARGET, 5, [Window(0, 1)], steps=1, pooled=True)


@pytest.mark.parametrize("pooled", [False, True])
def test_rows_of_one_batch_equal_a_run_with_the_targets_stored_inputs(pipe, pooled):
    anatomy = denoiser_anatomy(pipe)
    if pooled and not anatomy.pooled:
        pytest.skip("no pooled text")
    layers = anatomy.cross_attentions
    window = Window(1, min(2, len(layers) - 1))
    with warned(pipe):
        got = locogen_images(pipe, PROMPT, TARGET, 5, [window], steps=2, guidance=5.0, pooled=pooled, output="latents")
    sites = [Site(name, "input") for layer in window.layers for name in (layers[layer].key, layers[layer].value)]
    extra = [pooled_site(anatomy.denoiser)] if pooled else []
    masks = {}
    handles = []
    # PixArt's attention mask comes from the prompt: keep and put it too.
    for layer in window.layers:
        module = find_module(anatomy.denoiser, layers[layer].name)

        def keep(_, args, kwargs, layer=layer):
            masks[layer] = kwargs.get("attention_mask")

        handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    with capture(anatomy.denoiser, [*sites, *extra]) as stored:
        one(pipe, TARGET, 5)
    for handle in handles:
        handle.remove()

    def put(site):
        def change(value, call):
            # Unconditional rows come first and keep their own.
            kept = value.shape[0] - 1
            return torch.cat([value[:kept], stored[site][call][kept:]])

        return change

    handles = []
    for layer in window.layers:
        if masks[layer] is not None:

            def swap(_, args, kwargs, layer=layer):
                own = kwargs["attention_mask"]
                return args, kwargs | {"attention_mask": torch.cat([own[:-1], masks[layer][-1:]])}

            module = find_module(anatomy.denoiser, layers[layer].name)
            handles.append(module.register_forward_pre_hook(swap, with_kwargs=True))
    with patch(anatomy.denoiser, {site: put(site) for site in [*sites, *extra]}):
        twin = one(pipe, PROMPT, 5)
    for handle in handles:
        handle.remove()
    close(got.altered[0], twin)
    assert (got.altered[0] - got.original).abs().max() > 1e-4


def test_where_text_keys_depend_on_the_prompt_only_the_altered_model_reads_two_prompts(pipe):
    # The thesis's own definition, with no second run: the target's embedding goes straight into the window's layers.
    if type(pipe).__name__ not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        pytest.skip("only where the embedding itself is what the projections read")
    anatomy = denoiser_anatomy(pipe)
    layers = anatomy.cross_attentions
    window = Window(1, 2)
    got = locogen_images(pipe, PROMPT, TARGET, 5, [window], steps=2, guidance=5.0, output="latents")
    text = encode(pipe, [TARGET]).arguments["prompt_embeds"]
    sites = [Site(name, "input") for layer in window.layers for name in (layers[layer].key, layers[layer].value)]
    with patch(anatomy.denoiser, dict.fromkeys(sites, lambda value, _: torch.cat([value[:1], text]))):
        twin = one(pipe, PROMPT, 5)
    close(got.altered[0], twin)


def by_size(scores):
    """A function of windows from a table of scores by (size, start)."""
    return lambda windows: np.array([scores[window.size][window.start] for window in windows], dtype=float)


STYLE = {1: [[0.9, 0.8], [0.7, 0.9], [0.8, 0.6]], 2: [[0.6, 0.8], [0.3, 0.1]], 3: [[0.1, 0.1]]}


def test_the_smallest_size_that_meets_the_threshold_is_found_by_hand():
    found = locogen(by_size(STYLE), 3, "style", 0.25)
    assert found.located.window == Window(1, 2)
    assert found.located.score == pytest.approx(0.2)
    assert found.located.reached
    assert sorted(found.scores) == [1, 2]
    assert locogen(by_size(STYLE), 3, "object", 0.75).located.window == Window(2, 1)
    nowhere = locogen(by_size(STYLE), 3, "style", 0.05, largest=2)
    assert (nowhere.located.window, nowhere.located.reached) == (Window(1, 2), False)
    # Facts: the highest score of the target.
    fact = locogen(by_size(STYLE), 3, "fact", 0.84)
    assert (fact.located.window, fact.located.reached) == (Window(0, 1), True)


def test_each_prompt_has_its_own_location():
    scores = {size: np.array(table) for size, table in STYLE.items()}
    found = locate_each(scores, "style", 0.6)
    assert [location.window for location in found] == [Window(0, 2), Window(2, 1)] or [
        location.window for location in found
    ] == [Window(1, 2), Window(2, 1)]
    assert found[0].score == pytest.approx(0.3)
    assert all(location.reached for location in found)
    assert not locate_each(scores, "fact", 2.0)[0].reached


@given(st.integers(1, 8), st.integers(0, 3), st.floats(0, 1), st.sampled_from(["style", "fact"]))
def test_the_search_equals_looking_at_everything(layers, seed, threshold, kind):
    draw = np.random.default_rng([layers, seed])
    table = {size: draw.random((layers - size + 1, 2)) for size in range(1, layers + 1)}
    found = locogen(by_size(table), layers, kind, threshold)
    sign = 1 if kind == "fact" else -1
    meeting = [
        (size, -sign * mean, start)
        for size in table
        for start, mean in enumerate(table[size].mean(axis=1))
        if sign * mean >= sign * threshold
    ]
    assert found.located.reached == bool(meeting)
    if meeting:
        size, score, start = min(meeting)
        assert found.located.window == Window(start, size)
        assert found.located.score == pytest.approx(-sign * score)


def test_scores_are_of_the_original_prompt_or_of_the_target():
    asked = []

    def scorer(images, texts):
        asked.append(list(texts))
        return images.mean(axis=(1, 2, 3))

    images = LocogenImages(None, None, np.full((2, 4, 4, 3), 7, dtype=np.uint8), (Window(0, 1), Window(1, 1)))
    for kind in ("style", "object", "fact"):
        assert altered_scores(images, scorer, PROMPT, TARGET, kind).tolist() == [7.0, 7.0]
    assert asked == [[PROMPT] * 2, [PROMPT] * 2, [TARGET] * 2]


def test_the_search_in_one_process_on_a_pipeline():
    pipe = tiny_pipeline("sd")
    layers = len(denoiser_anatomy(pipe).cross_attentions)
    seen = []

    def scorer(images, texts):
        seen.append(len(images))
        return images[:, :, :, 0].mean(axis=(1, 2))

    found = locogen_search(
        pipe, [PROMPT, "a dog"], [TARGET, "a cat"], [0, 1], scorer, "style", -1.0, largest=2, steps=1
    )
    assert {size: table.shape for size, table in found.scores.items()} == {1: (layers, 2), 2: (layers - 1, 2)}
    assert not found.located.reached
    assert seen == [layers, layers, layers - 1, layers - 1]


def test_bad_input_is_refused_in_one_line():
    pipe = tiny_pipeline("sd")
    layers = denoiser_anatomy(pipe).cross_attentions
    with pytest.raises(OptionError, match="window of 4 does not fit 3"):
        windows_of(3, 4)
    with pytest.raises(SiteError, match=r"no Window\(start=99"):
        locogen_images(pipe, PROMPT, TARGET, 0, [Window(99, 1)])
    with pytest.raises(OptionError, match="chunk is 2"):
        locogen_images(pipe, PROMPT, TARGET, 0, [Window(0, 1)], chunk=2)
    with pytest.raises(OptionError, match="one of style, object, fact"):
        best_window(np.ones((1, 1)), 1, "mood", 0.5)
    with pytest.raises(DataError, match="finite"):
        best_window(np.array([[np.nan]]), 1, "style", 0.5)
    with pytest.raises(OptionError, match="largest window is 9"):
        locogen(by_size(STYLE), 3, "style", 0.5, largest=9)
    with pytest.raises(DataError, match="scores for 1 windows"):
        locogen(lambda windows: np.ones((1, 1)), 3, "style", 0.5)
    with pytest.raises(DataError, match="2 prompts, 1 targets and 2 seeds"):
        locogen_search(pipe, ["a", "b"], ["c"], [0, 1], lambda images, texts: np.ones(1), "style", 0.5)
    with pytest.raises(DataError, match="no scores"):
        locate_each({}, "style", 0.5)
    with pytest.raises(SiteError, match="no cross-attention layer 99"), altering(pipe.unet, layers, {99: [(0, 1)]}, 2):
        pass
    with pytest.raises(OptionError, match="no row 5"), altering(pipe.unet, layers, {0: [(0, 5)]}, 2):
        pass
    with pytest.raises(SiteError, match="no pooled text"), altering(pipe.unet, layers, {}, 2, pooled=[(0, 1)]):
        pass
