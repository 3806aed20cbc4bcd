import numpy as np
import pytest
import torch
from pellucid.core.conditioning import encode
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.errors import OptionError, SiteError
from pellucid.core.generation import generate
from pellucid.core.testing_pipelines import PIPELINES, tiny_pipeline
from pellucid.core.text_anatomy import text_anatomies
from pellucid.core.tracing import Site, capture, patch
from pellucid.t2i_edit.corruption import corrupt_subject, corrupt_whole
from pellucid.t2i_edit.rows import restoring
from pellucid.t2i_edit.unet_tracing import restored_runs, trace_unet, traced_sites

PROMPT = "a house in the style of van gogh"


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request):
    # In double precision, so that rounding, which depends on the size of a batch, stays far below the tolerance.
    return tiny_pipeline(request.param).to(torch.float64)


def subject(pipe):
    return {anatomy.component: [2, 3] if anatomy.causal else [1] for anatomy in text_anatomies(pipe)}


def conditionings(pipe, whole=False):
    clean = encode(pipe, [PROMPT])
    return clean, corrupt_whole(clean, PROMPT, 0) if whole else corrupt_subject(pipe, clean, PROMPT, subject(pipe), 0)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("whole", [False, True])
def test_all_layers_restored_give_the_clean_picture_and_none_the_corrupted_one(pipe, whole):
    anatomy = denoiser_anatomy(pipe)
    clean, corrupted = conditionings(pipe, whole)
    everything = list(traced_sites(anatomy).values())
    # The obvious twin of all layers: the denoiser's own output.
    got = restored_runs(
        pipe,
        anatomy,
        clean,
        corrupted,
        [everything, [Site("", "output")], []],
        5,
        steps=2,
        guidance=5.0,
        chunk=8,
        output="latents",
    )
    assert (got[0] - got[1]).abs().max() > 0.01
    close(got[2], got[0])
    close(got[3], got[0])
    close(got[4], got[1])
    close(got[:1], generate(pipe, clean, [5], steps=2, guidance=5.0, output="latents"))
    close(got[1:2], generate(pipe, corrupted, [5], steps=2, guidance=5.0, output="latents"))


def test_rows_of_one_batch_equal_runs_one_by_one_with_stored_activations(pipe):
    anatomy = denoiser_anatomy(pipe)
    clean, corrupted = conditionings(pipe)
    sites = traced_sites(anatomy)
    labels = list(sites)[:: max(1, len(sites) // 5)]
    trace = trace_unet(
        pipe, PROMPT, subject(pipe), 5, steps=2, guidance=5.0, layers=labels, noise=3.0, chunk=4, output="latents"
    )
    # The corruption is drawn from the picture's seed.
    corrupted = corrupt_subject(pipe, clean, PROMPT, subject(pipe), 5)
    assert trace.layers == tuple(labels)
    with capture(anatomy.denoiser, [sites[label] for label in labels]) as stored:
        close(trace.clean[None], generate(pipe, clean, [5], steps=2, guidance=5.0, output="latents"))
    moved = []
    for label, restored in zip(labels, trace.restored, strict=True):
        site = sites[label]
        with patch(anatomy.denoiser, {site: lambda _, call, site=site: stored[site][call]}):
            twin = generate(pipe, corrupted, [5], steps=2, guidance=5.0, output="latents")
        close(restored[None], twin)
        moved.append(float((restored - trace.corrupted).abs().max()))
    assert max(moved) > 1e-3


def test_windows_and_pixels():
    pipe = tiny_pipeline("sd")
    labels = list(traced_sites(denoiser_anatomy(pipe)))
    trace = trace_unet(pipe, PROMPT, [2, 3], 1, steps=1, layers=labels[:4], window=3, chunk=3)
    assert trace.layers == (f"{labels[0]}..{labels[2]}", f"{labels[1]}..{labels[3]}")
    assert trace.restored.shape == (2, *trace.clean.shape)
    assert trace.restored.dtype == trace.corrupted.dtype == np.uint8
    again = trace_unet(pipe, PROMPT, [2, 3], 1, steps=1, layers=labels[:4], window=3, chunk=16)
    assert np.abs(again.restored.astype(int) - trace.restored).max() <= 1
    whole = trace_unet(pipe, PROMPT, [2, 3], 1, steps=1, layers=labels[:1], whole=True)
    assert np.array_equal(whole.clean, trace.clean)
    assert not np.array_equal(whole.corrupted, trace.corrupted)


def test_without_guidance_the_batch_is_not_doubled():
    pipe = tiny_pipeline("sd").to(torch.float64)
    anatomy = denoiser_anatomy(pipe)
    everything = list(traced_sites(anatomy).values())
    clean, corrupted = conditionings(pipe)
    got = restored_runs(
        pipe, anatomy, clean, corrupted, [everything], 5, steps=2, guidance=1.0, chunk=4, output="latents"
    )
    close(got[2], got[0])


def test_bad_input_is_refused_in_one_line():
    pipe = tiny_pipeline("sd")
    unet = pipe.unet
    with pytest.raises(SiteError, match="has no layer 'nowhere'"):
        trace_unet(pipe, PROMPT, [2], 0, layers=["nowhere"])
    with pytest.raises(OptionError, match="window of 99"):
        trace_unet(pipe, PROMPT, [2], 0, window=99)
    with pytest.raises(OptionError, match="chunk is 2"):
        trace_unet(pipe, PROMPT, [2], 0, chunk=2)
    with pytest.raises(OptionError, match="no token positions"):
        trace_unet(pipe, PROMPT, [], 0)
    with pytest.raises(OptionError, match="no row 4"), restoring(unet, {Site("conv_in", "output"): [(0, 4)]}, 2):
        pass
    clean = encode(pipe, [PROMPT])
    with (
        pytest.raises(SiteError, match="where 5 rows"),
        restoring(unet, {Site("conv_in", "output"): [(0, 4)]}, 5),
    ):
        generate(pipe, clean, [0], steps=1)
