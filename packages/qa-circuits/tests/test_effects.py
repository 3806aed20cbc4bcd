"""Two-pass scores against the slow, obvious way, and by hand."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import OptionError
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.qa_circuits.components import Component, all_components
from pellucid.qa_circuits.effects import patched_scores
from pellucid.qa_circuits.prompts import Encoded
from pellucid.qa_circuits.reference import reference_scores


def draw(model, seed, count=3):
    """Probes of unequal lengths; the answers, of one to three tokens, are the model's own greedy ones."""
    rng = random.Random(seed)
    probes = []
    for _ in range(count):
        clean, corrupted = ([rng.randrange(3, 97) for _ in range(rng.randint(4, 12))] for _ in range(2))
        answer = []
        for _ in range(rng.randint(1, 3)):
            answer.append(model(torch.tensor([clean + answer])).logits[0, -1].argmax().item())
        probes.append(Encoded(clean, corrupted, answer))
    return probes


@pytest.mark.parametrize("definition", ["direct", "through_mlps"])
@pytest.mark.parametrize("family", DECODERS)
def test_two_passes_equal_one_forward_a_component(family, definition):
    model = tiny_decoder(family)
    probes = draw(model, 1)
    sets = [(c,) for c in all_components(3, 4)]
    fast = patched_scores(model, probes, sets, definition)
    slow = torch.stack([reference_scores(model, p, sets, definition) for p in probes])
    torch.testing.assert_close(fast.scores, slow, atol=1e-5, rtol=0)
    assert fast.scores.std() > 0.01  # the components do differ, so the agreement says something


@pytest.mark.parametrize("definition", ["direct", "through_mlps"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_sets_patched_together_equal_one_forward_a_set(family, definition):
    model = tiny_decoder(family)
    rng = random.Random(3)
    pool = all_components(3, 4, ["head", "mlp"])
    sets = [tuple(rng.sample(pool, size)) for size in (2, 5, 9, len(pool))]
    sets += [(Component("attention", 0), Component("head", 2, 1), Component("mlp", 1)), ()]
    probes = draw(model, 2)
    fast = patched_scores(model, probes, sets, definition)
    slow = torch.stack([reference_scores(model, p, sets, definition) for p in probes])
    torch.testing.assert_close(fast.scores, slow, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.scores[:, -1], fast.floor, atol=1e-6, rtol=0)


def test_floor_and_corrupted_are_the_plain_runs():
    model = tiny_decoder()
    (probe,) = draw(model, 4, count=1)

    def plain(prompt):
        logits = model(torch.tensor([prompt + probe.answer[:-1]])).logits[0, -len(probe.answer) :]
        return 1 - logits.log_softmax(-1).gather(-1, torch.tensor(probe.answer)[:, None]).sum().exp()

    got = patched_scores(model, [probe], [])
    assert got.scores.shape == (1, 0)
    torch.testing.assert_close(got.floor[0], plain(probe.clean), atol=1e-6, rtol=0)
    torch.testing.assert_close(got.corrupted[0], plain(probe.corrupted), atol=1e-6, rtol=0)


def test_patching_every_block_gives_the_corrupted_run_when_prompts_end_alike():
    """All attention and MLP outputs replaced, same last token: the final residual is the corrupted one."""
    model = tiny_decoder()
    probe = Encoded([5, 6, 7, 8], [9, 10, 8], [11])
    everything = tuple(all_components(3, 4, ["attention", "mlp"]))
    got = patched_scores(model, [probe], [everything])
    torch.testing.assert_close(got.scores[:, 0], got.corrupted, atol=1e-6, rtol=0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 5))
def test_scores_do_not_depend_on_the_batch(seed, batch):
    model = tiny_decoder("mistral")
    probes = draw(model, seed, count=5)
    sets = [(c,) for c in all_components(3, 4)]
    whole = patched_scores(model, probes, sets).scores
    parts = [patched_scores(model, probes[i : i + batch], sets).scores for i in range(0, 5, batch)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def test_chunks_of_sets_change_nothing(monkeypatch):
    model = tiny_decoder()
    sets = [(c,) for c in all_components(3, 4)]
    whole = patched_scores(model, draw(model, 5), sets).scores
    monkeypatch.setattr("pellucid.qa_circuits.effects.CHUNK_BYTES", 1)
    torch.testing.assert_close(patched_scores(model, draw(model, 5), sets).scores, whole, atol=1e-6, rtol=0)


def test_corrupting_nothing_moves_nothing():
    model = tiny_decoder("gemma2")
    probe = Encoded([5, 6, 7, 8], [5, 6, 7, 8], [11, 3])
    got = patched_scores(model, [probe], [(c,) for c in all_components(3, 4)], "through_mlps")
    torch.testing.assert_close(got.scores, got.floor[:, None].expand_as(got.scores), atol=1e-5, rtol=0)


def test_bfloat16_scores_are_near_float32_ones():
    model = tiny_decoder()
    probes, sets = draw(model, 6), [(c,) for c in all_components(3, 4)]
    exact = patched_scores(model, probes, sets).scores
    near = patched_scores(tiny_decoder().bfloat16(), probes, sets).scores
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, atol=0.05, rtol=0)


def test_bad_input_is_named():
    model = tiny_decoder()
    with pytest.raises(OptionError, match=r"no head 7.0: it has 3 layers of 4 heads"):
        patched_scores(model, draw(model, 0), [(Component("head", 7, 0),)])
    with pytest.raises(OptionError, match="no definition 'indirect'"):
        patched_scores(model, draw(model, 0), [], "indirect")
    with pytest.raises(OptionError, match="training mode"):
        patched_scores(tiny_decoder().train(), draw(model, 0), [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("definition", ["direct", "through_mlps"])
def test_a_gpu_gives_the_same_scores(definition):
    model = tiny_decoder("gemma2")
    probes, sets = draw(model, 1), [(c,) for c in all_components(3, 4)]
    here = patched_scores(model, probes, sets, definition)
    there = patched_scores(tiny_decoder("gemma2").cuda(), probes, sets, definition)
    torch.testing.assert_close(there.scores, here.scores, atol=1e-4, rtol=0)
