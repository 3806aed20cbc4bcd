"""Effects on the nodes of a circuit: against one forward pass a sender with everything else frozen, and by hand."""

import random
from typing import Any

import pytest
import torch
from pellucid.core.anatomy import DecoderAnatomy, decoder_anatomy
from pellucid.core.errors import OptionError
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.core.tracing import Site, capture, patch
from pellucid.qa_circuits import hierarchy
from pellucid.qa_circuits.components import Component, ComponentSet, all_components
from pellucid.qa_circuits.effects import patched_scores
from pellucid.qa_circuits.hierarchy import hierarchy_scores, upstream
from pellucid.qa_circuits.prompts import Encoded
from torch import Tensor

HEADS = (Component("head", 1, 2), Component("head", 2, 0), Component("head", 2, 3))
MIXED = (*HEADS, Component("attention", 3), Component("mlp", 1), Component("mlp", 3))
EARLY = (Component("head", 1, 1), Component("attention", 2), Component("mlp", 0), Component("mlp", 2))
SINGLES = [(c,) for c in all_components(4, 4)]


def draw(model: Any, seed: int, count: int = 3, longest: int = 12) -> list[Encoded]:
    """Probes of unequal lengths; the answers, of one to three tokens, are the model's own greedy ones."""
    rng = random.Random(seed)
    probes = []
    for _ in range(count):
        clean, corrupted = ([rng.randrange(3, 97) for _ in range(rng.randint(4, longest))] for _ in range(2))
        answer: list[int] = []
        for _ in range(rng.randint(1, 3)):
            answer.append(int(model(torch.tensor([clean + answer])).logits[0, -1].argmax()))
        probes.append(Encoded(clean, corrupted, answer))
    return probes


def outputs(anatomy: DecoderAnatomy) -> list[Site]:
    layers = range(anatomy.layers)
    return [s for i in layers for s in (anatomy.head_outputs(i), anatomy.attention(i), anatomy.mlp(i))]


def replaced(anatomy: DecoderAnatomy, clean: dict[Site, Tensor], values: dict[Component, Tensor]) -> dict[Site, Tensor]:
    """Everything frozen at its clean value, but for some components; `values` of heads are whole layers' slices."""
    frozen = dict(clean)
    for component, value in values.items():
        if component.kind == "head":
            site, own = anatomy.head_outputs(component.layer), anatomy.head(component.layer, component.index or 0)
            cut = slice(*(own.channels or (0, 0)))
            frozen[site] = frozen[site].clone()
            frozen[site][..., cut] = value[..., cut]
            frozen.pop(anatomy.attention(component.layer), None)
        else:
            frozen[getattr(anatomy, component.kind)(component.layer)] = value
    return frozen


def slow_scores(model: Any, probe: Encoded, sets: list[ComponentSet], receivers: list[ComponentSet]) -> Tensor:
    """One forward pass a set and hierarchy: all that a node puts out is frozen, and what it would put out is noted."""
    anatomy = decoder_anatomy(model)
    length, sites = len(probe.answer), outputs(anatomy)
    ids = torch.tensor([probe.clean + probe.answer[:-1]])
    with capture(model, sites) as store:
        model(ids)
    clean = {site: store[site][0] for site in sites}
    with capture(model, sites) as store:
        model(torch.tensor([probe.corrupted + probe.answer[:-1]]))

    def site_of(component: Component) -> Site:
        heads = component.kind == "head"
        return anatomy.head_outputs(component.layer) if heads else getattr(anatomy, component.kind)(component.layer)

    def computed(component: Component) -> Tensor:
        # The heads may be frozen, so that an attention block's output must be taken from what they had computed.
        if component.kind == "attention":
            project = model.get_submodule(anatomy.output_projection(component.layer))
            return project(store[anatomy.head_outputs(component.layer)][0])
        return store[site_of(component)][0]

    corrupted = {site: clean[site].clone() for site in sites}
    for site in sites:
        corrupted[site][:, -length:] = store[site][0][:, -length:]
    scores = []
    for senders in sets:
        values = {component: corrupted[site_of(component)] for component in senders}
        for nodes in reversed(receivers):
            # The capture's hooks come first: they see what is computed, not what it is replaced by.
            with capture(model, sites) as store, patch(model, replaced(anatomy, clean, values)):
                model(ids)
            values = {component: computed(component) for component in nodes}
        with patch(model, replaced(anatomy, clean, values)):
            logits = model(ids, logits_to_keep=length).logits[0]
        target = torch.tensor(probe.answer)[:, None]
        scores.append(1 - logits.log_softmax(-1).gather(-1, target).sum().exp())
    return torch.stack(scores)


def check(model: Any, sets: list[ComponentSet], receivers: list[ComponentSet], probes: list[Encoded]) -> Tensor:
    fast = hierarchy_scores(model, probes, sets, receivers)
    slow = torch.stack([slow_scores(model, probe, sets, receivers) for probe in probes])
    torch.testing.assert_close(fast.scores, slow, atol=1e-5, rtol=0)
    plain = patched_scores(model, probes, [])
    torch.testing.assert_close(fast.floor, plain.floor, atol=1e-6, rtol=0)
    torch.testing.assert_close(fast.corrupted, plain.corrupted, atol=1e-6, rtol=0)
    return fast.scores - fast.floor[:, None]


@pytest.mark.parametrize("family", DECODERS)
def test_every_sender_equals_a_forward_pass_of_its_own(family: str) -> None:
    model = tiny_decoder(family, layers=4)
    effects = check(model, SINGLES, [MIXED], draw(model, 1, 2))
    assert effects.std() > 0.003  # the senders do differ, so the agreement says something


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("receivers", [HEADS, MIXED[3:4], MIXED[4:]])
def test_receivers_of_one_kind(family: str, receivers: ComponentSet) -> None:
    model = tiny_decoder(family, layers=4)
    check(model, SINGLES[::2], [receivers], draw(model, 2, 2))


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_sets_of_senders_and_a_second_hierarchy(family: str) -> None:
    model = tiny_decoder(family, layers=4)
    rng = random.Random(3)
    pool = all_components(4, 4, ["head", "mlp"])
    sets: list[ComponentSet] = [tuple(rng.sample(pool, size)) for size in (2, 5, len(pool))]
    sets += [(Component("attention", 0), Component("head", 1, 1), Component("mlp", 0)), ()]
    probes = draw(model, 4, 2)
    assert torch.equal(check(model, sets, [MIXED], probes)[:, -1], torch.zeros(2))
    effects = check(model, sets + SINGLES[:16], [MIXED, EARLY], probes)
    assert effects.abs().max() > 1e-3


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_a_sliding_window_hides_what_is_far(family: str) -> None:
    model = tiny_decoder(family, layers=4, sliding_window=5)
    probes = draw(model, 5, 2, longest=16)
    check(model, SINGLES[::3], [MIXED], probes)
    wide = tiny_decoder(family, layers=4, sliding_window=100)
    sets, receivers = SINGLES[:8], [MIXED]
    narrow = hierarchy_scores(model, probes, sets, receivers).scores
    assert not torch.allclose(narrow, hierarchy_scores(wide, probes, sets, receivers).scores, atol=1e-3)


def test_a_projection_with_a_bias() -> None:
    model = tiny_decoder("llama", layers=4, attention_bias=True)
    assert model.model.layers[0].self_attn.o_proj.bias is not None
    check(model, SINGLES[::2], [MIXED], draw(model, 6, 2))


def test_what_lies_downstream_has_no_effect_and_what_lies_upstream_has() -> None:
    model = tiny_decoder(layers=4)
    receivers = [(Component("head", 2, 1), Component("mlp", 1))]
    got = hierarchy_scores(model, draw(model, 7), SINGLES, receivers)
    for (component,), scores in zip(SINGLES, got.scores.T, strict=True):
        reaches = component.layer < 2
        assert upstream(component, receivers) == reaches
        assert torch.equal(scores, got.floor) != reaches


def test_one_receiver_by_hand() -> None:
    """A sender's edge into the last MLP: that MLP on a moved stream, in plain torch."""
    model = tiny_decoder(layers=2)
    anatomy = decoder_anatomy(model)
    probe = Encoded([5, 6, 7], [9, 10, 8, 4], [11])
    sites = [anatomy.mlp(0), anatomy.mlp(1), anatomy.residual_before_mlp(1), anatomy.final_residual()]
    with capture(model, sites, positions=slice(-1, None)) as clean:
        model(torch.tensor([probe.clean]))
    with capture(model, sites, positions=slice(-1, None)) as corrupted:
        model(torch.tensor([probe.corrupted]))
    last = model.model.layers[1]
    stream = clean[sites[2]][0] + corrupted[sites[0]][0] - clean[sites[0]][0]
    new = last.mlp(last.post_attention_layernorm(stream))
    logits = model.lm_head(model.model.norm(clean[sites[3]][0] + new - clean[sites[1]][0]))
    got = hierarchy_scores(model, [probe], [(Component("mlp", 0),)], [(Component("mlp", 1),)])
    torch.testing.assert_close(got.scores[0, 0], 1 - logits[0, 0].softmax(-1)[11], atol=1e-6, rtol=0)


def test_batches_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_decoder("qwen2", layers=4)
    probes = draw(model, 8, 4)
    whole = hierarchy_scores(model, probes, SINGLES, [MIXED]).scores
    single = torch.cat([hierarchy_scores(model, [p], SINGLES, [MIXED]).scores for p in probes])
    torch.testing.assert_close(single, whole, atol=1e-5, rtol=0)
    monkeypatch.setattr(hierarchy, "CHUNK_BYTES", 1)
    torch.testing.assert_close(hierarchy_scores(model, probes, SINGLES, [MIXED]).scores, whole, atol=1e-5, rtol=0)


def test_corrupting_nothing_moves_nothing() -> None:
    model = tiny_decoder("gemma2", layers=4)
    probe = Encoded([5, 6, 7, 8], [5, 6, 7, 8], [11, 3])
    got = hierarchy_scores(model, [probe], SINGLES, [MIXED])
    torch.testing.assert_close(got.scores, got.floor[:, None].expand_as(got.scores), atol=1e-5, rtol=0)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_decoder(layers=4)
    before, ids = model.config._attn_implementation, torch.tensor([[5, 9, 13]])
    plain = model(ids).logits
    hierarchy_scores(model, draw(model, 9), SINGLES[:2], [MIXED])
    assert model.config._attn_implementation == before
    assert torch.equal(model(ids).logits, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_bfloat16_scores_are_near_float32_ones() -> None:
    model = tiny_decoder(layers=4)
    probes = draw(model, 6)
    exact = hierarchy_scores(model, probes, SINGLES, [MIXED]).scores
    near = hierarchy_scores(tiny_decoder(layers=4).bfloat16(), probes, SINGLES, [MIXED]).scores
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, atol=0.05, rtol=0)


def test_bad_input_is_named() -> None:
    model = tiny_decoder(layers=4)
    probes = draw(model, 0)
    for receivers in ([], [()], [MIXED, ()]):
        with pytest.raises(OptionError, match="there are no receivers"):
            hierarchy_scores(model, probes, SINGLES[:1], receivers)
    with pytest.raises(OptionError, match=r"no head 7.0: it has 4 layers"):
        hierarchy_scores(model, probes, SINGLES[:1], [(Component("head", 7, 0),)])
    with pytest.raises(OptionError, match="training mode"):
        hierarchy_scores(tiny_decoder().train(), probes, [], [HEADS[:1]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_scores() -> None:
    model = tiny_decoder("gemma2", layers=4)
    probes = draw(model, 1)
    here = hierarchy_scores(model, probes, SINGLES, [MIXED])
    there = hierarchy_scores(tiny_decoder("gemma2", layers=4).cuda(), probes, SINGLES, [MIXED])
    torch.testing.assert_close(there.scores, here.scores, atol=1e-4, rtol=0)
