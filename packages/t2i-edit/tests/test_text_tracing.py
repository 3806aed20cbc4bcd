import numpy as np
import pytest
import torch
from pellucid.core.conditioning import encode
from pellucid.core.errors import OptionError, SiteError
from pellucid.core.generation import generate
from pellucid.core.testing_pipelines import PIPELINES, tiny_pipeline
from pellucid.core.text_anatomy import text_anatomies
from pellucid.core.tracing import capture, find_module, patch
from pellucid.t2i_edit.corruption import corrupt_subject, corrupt_whole, noising, subject_of
from pellucid.t2i_edit.text_tracing import TextState, encode_restored, text_states, trace_text

PROMPT = "a house in the style of van gogh"


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request):
    # In double precision, so that rounding, which depends on the size of a batch, stays far below the tolerance.
    return tiny_pipeline(request.param).to(torch.float64)


def subject(pipe):
    return {anatomy.component: [2, 3] if anatomy.causal else [1] for anatomy in text_anatomies(pipe)}


def everything(pipe, embeddings=True):
    states = []
    for anatomy in text_anatomies(pipe):
        states += [TextState("embedding", 0, None, anatomy.component)] * embeddings
        for layer in range(anatomy.layers):
            states += [TextState(part, layer, None, anatomy.component) for part in ("self_attention", "mlp")]
    return states


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def rows_close(a, i, b, j):
    for name in b.arguments:
        close(a.arguments[name][i], b.arguments[name][j])


def test_all_layers_and_embeddings_restored_give_the_clean_conditioning_and_none_the_corrupted_one(pipe):
    where = subject(pipe)
    got = encode_restored(pipe, PROMPT, where, 3, [everything(pipe), [], everything(pipe, embeddings=False)])
    clean = encode(pipe, [PROMPT])
    corrupted = corrupt_subject(pipe, clean, PROMPT, where, 3)
    rows_close(got, 0, clean, 0)
    rows_close(got, 1, corrupted, 0)
    rows_close(got, 2, clean, 0)
    rows_close(got, 3, corrupted, 0)
    assert (clean.arguments["prompt_embeds"] - corrupted.arguments["prompt_embeds"]).abs().max() > 0.01
    # Without the embeddings their noise stays in the residual stream.
    embeds = got.arguments["prompt_embeds"]
    assert (embeds[4] - embeds[0]).abs().max() > 0.01


def test_rows_equal_runs_one_by_one_with_stored_activations(pipe):
    where = subject(pipe)
    states = text_states(pipe, where)
    anatomies = {anatomy.component: anatomy for anatomy in text_anatomies(pipe)}
    assert {state.encoder for state in states} == set(anatomies)
    per_token = sum((1 + 2 * a.layers) * len(where[name]) for name, a in anatomies.items())
    assert len(states) == per_token
    chosen = states[:: max(1, len(states) // 5)]
    got = encode_restored(pipe, PROMPT, where, 3, [[state] for state in chosen], chunk=3)
    clean = encode(pipe, [PROMPT])
    for row, state in enumerate(chosen, start=2):
        anatomy = anatomies[state.encoder]
        site = {
            "embedding": anatomy.embeddings,
            "self_attention": lambda a=anatomy, s=state: a.attention(s.layer),
            "mlp": lambda a=anatomy, s=state: a.mlp(s.layer),
        }[state.part]()
        with capture(anatomy.encoder, [site]) as stored:
            encode(pipe, [PROMPT], negative=None)

        def put(value, _, stored=stored, site=site, state=state):
            value = value.clone()
            value[:, state.token] = stored[site][0][:, state.token]
            return value

        with noising(pipe, PROMPT, where, 3), patch(anatomy.encoder, {site: put}):
            twin = clean.replaced(encode(pipe, [PROMPT], negative=None))
        rows_close(got, row, twin, 0)


def test_restored_pictures_come_from_the_restored_conditioning():
    pipe = tiny_pipeline("sd")
    states = text_states(pipe, [2, 3], layers=[0], tokens=[3])
    assert [state.label for state in states] == ["embedding", "self-attn-0", "mlp-0"]
    trace = trace_text(pipe, PROMPT, [2, 3], 7, steps=2, states=states, chunk=2)
    assert trace.states == states
    assert trace.restored.shape == (3, *trace.clean.shape)
    assert trace.restored.dtype == np.uint8
    assert not np.array_equal(trace.clean, trace.corrupted)
    conditioning = encode_restored(pipe, PROMPT, [2, 3], 7, [[state] for state in states])
    pictures = generate(pipe, conditioning, [7] * 5, steps=2)
    assert np.abs(pictures[2:].astype(int) - trace.restored).max() <= 1
    assert np.array_equal(trace.clean, generate(pipe, encode(pipe, [PROMPT]), [7], steps=2)[0])


def test_the_noise_is_the_subjects_and_of_the_scale_asked_for():
    pipe = tiny_pipeline("sd")
    (anatomy,) = text_anatomies(pipe)
    site = anatomy.embeddings()
    seen = {}
    for key, seed, scale in (("clean", 0, 0.0), ("a", 0, 3.0), ("b", 0, 3.0), ("other", 1, 3.0), ("double", 0, 6.0)):
        with noising(pipe, PROMPT, [2, 3], seed, noise=scale), capture(anatomy.encoder, [site]) as stored:
            encode(pipe, [PROMPT], negative=None)
        seen[key] = stored[site][0][0]
    noise = {key: value - seen["clean"] for key, value in seen.items()}
    assert torch.equal(seen["a"], seen["b"])
    assert not torch.equal(seen["a"], seen["other"])
    close(noise["double"], 2 * noise["a"], 1e-4)
    touched = noise["a"].abs().amax(dim=-1).nonzero().flatten().tolist()
    assert touched == [2, 3]
    table = find_module(anatomy.encoder, site.module).weight
    assert 0.7 < float(noise["a"][[2, 3]].std() / (3 * table.std())) < 1.3


def test_whole_corruption_leaves_the_unconditional_half_and_masks(pipe):
    clean = encode(pipe, [PROMPT])
    noisy = corrupt_whole(clean, PROMPT, 0)
    for name, value in clean.arguments.items():
        same = torch.equal(noisy.arguments[name], value)
        assert same == (name not in ("prompt_embeds", "pooled_prompt_embeds"))
    value = clean.arguments["prompt_embeds"]
    scale = float((noisy.arguments["prompt_embeds"] - value).std() / (3 * value.std()))
    assert 0.9 < scale < 1.1


def test_bad_input_is_refused_in_one_line():
    pipe = tiny_pipeline("sd")
    with pytest.raises(OptionError, match="no token positions"):
        trace_text(pipe, PROMPT, [], 0)
    with pytest.raises(OptionError, match="do not all lie in"):
        trace_text(pipe, PROMPT, [9999], 0)
    with pytest.raises(SiteError, match="no text encoder 'elsewhere'"):
        text_states(pipe, [2], encoders=["elsewhere"])
    with pytest.raises(SiteError, match="no text encoder 'elsewhere'"):
        encode_restored(pipe, PROMPT, [2], 0, [[TextState("mlp", 0, 2, "elsewhere")]])
    with pytest.raises(OptionError, match="no token 9999"):
        encode_restored(pipe, PROMPT, [2], 0, [[TextState("mlp", 0, 9999)]])
    with pytest.raises(SiteError):
        encode_restored(pipe, PROMPT, [2], 0, [[TextState("mlp", 99, 2)]])
    with pytest.raises(OptionError, match="give each its list"):
        subject_of(text_anatomies(pipe), {"text_encoder_7": [1]})
    with pytest.raises(OptionError, match="different tokens"):
        subject_of(text_anatomies(tiny_pipeline("sd3")), [1, 2])
