import pytest
import torch
from pellucid.core.anatomy import decoder_anatomy
from pellucid.core.errors import SiteError
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.core.tracing import Site, capture, patch
from torch import nn

IDS = torch.tensor([[3, 14, 15, 9, 26, 5]])


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", DECODERS)
def test_capture_leaves_logits_untouched_to_the_bit(family):
    model = tiny_decoder(family)
    anatomy = decoder_anatomy(model)
    plain = model(IDS).logits
    sites = [anatomy.head(1, 2), anatomy.attention(0), anatomy.mlp(2), anatomy.final_residual()]
    with capture(model, sites) as store:
        seen = model(IDS).logits
    assert torch.equal(plain, seen)
    assert hooks(model) == 0
    assert [store[site][0].shape[-1] for site in sites] == [8, 32, 32, 32]
    assert torch.equal(anatomy.unembed(store[sites[3]][0]), plain)


def test_capture_keeps_every_call_and_only_the_positions_asked_for():
    model = tiny_decoder()
    site = Site("model.layers.1.mlp", "output")
    with capture(model, [site], positions=slice(-2, None)) as some, capture(model, [site]) as everything:
        model(IDS)
        model(IDS + 1)
    assert [t.shape for t in some[site]] == [(1, 2, 32)] * 2
    for few, full in zip(some[site], everything[site], strict=True):
        assert torch.equal(few, full[:, -2:])


def test_captured_copies_do_not_change_with_the_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
    with capture(model, [Site("0", "output")]) as store:
        model(torch.tensor([[-1.0, -1.0]]))
        value = store[Site("0", "output")][0]
    expected = model[0](torch.tensor([[-1.0, -1.0]]))
    torch.testing.assert_close(value, expected.detach())


def test_patch_by_hand():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        model[1].weight.copy_(torch.tensor([[10.0, 1.0]]))
    x = torch.tensor([[1.0, 1.0]])  # hidden (3, 7) -> 37
    with patch(model, {Site("0", "output", (0, 1)): torch.tensor([[5.0]])}):
        assert model(x).item() == 57
    with patch(model, {Site("1", "input"): lambda value, call: value * (call + 2)}):
        assert model(x).item() == 74
        assert model(x).item() == 111
    with patch(model, {Site("0", "input"): torch.zeros(1, 2)}):
        assert model(x).item() == 0
    assert model(x).item() == 37
    assert hooks(model) == 0


def test_patching_every_head_equals_patching_the_layer():
    model = tiny_decoder()
    anatomy = decoder_anatomy(model)
    with capture(model, [anatomy.head_outputs(1)]) as other:
        model(IDS + 7)
    value = other[anatomy.head_outputs(1)][0]
    heads = {anatomy.head(1, i): value[..., 8 * i : 8 * (i + 1)] for i in range(4)}
    with patch(model, heads):
        by_head = model(IDS).logits
    with patch(model, {anatomy.head_outputs(1): value}):
        whole = model(IDS).logits
    assert torch.equal(by_head, whole)
    assert not torch.equal(whole, model(IDS).logits)


def test_patch_reaches_keyword_inputs_and_tuple_outputs():
    model = tiny_decoder()
    block = Site("model.layers.0.self_attn", "output")
    with patch(model, {block: lambda v, _: torch.zeros_like(v)}):
        by_output = model(IDS).logits
    with patch(model, {Site("model.layers.0.self_attn.o_proj", "output"): lambda v, _: torch.zeros_like(v)}):
        by_module = model(IDS).logits
    assert torch.equal(by_output, by_module)
    entry = Site("model.layers.0.self_attn", "input")
    with capture(model, [entry]) as store, patch(model, {entry: lambda v, _: v * 2}):
        model(IDS)
    assert store[entry][0].shape == (1, 6, 32)


@pytest.mark.parametrize("block", [capture, patch])
def test_no_hook_is_left_when_an_exception_flies(block):
    model = tiny_decoder()
    site = Site("model.layers.0.mlp", "output")
    sites = [site] if block is capture else {site: lambda v, _: v}

    def fail():
        with block(model, sites):
            model(IDS)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    with (
        pytest.raises(SiteError),
        block(model, {site: torch.zeros(1), Site("model.layers.9", "input"): torch.zeros(1)}),
    ):
        pass
    assert hooks(model) == 0


def test_errors_name_what_is_wrong_and_what_is_near():
    model = tiny_decoder()
    with (
        pytest.raises(SiteError, match=r"no module 'model.layer.0.mlp'; the nearest are .*model.layers.0.mlp"),
        capture(model, [Site("model.layer.0.mlp", "output")]),
    ):
        pass
    with (
        pytest.raises(SiteError, match=r"channels 30:40 do not lie in the 32"),
        capture(model, [Site("model.layers.0.mlp", "output", (30, 40))]),
    ):
        model(IDS)
    with (
        pytest.raises(SiteError, match=r"shape \(1, 6, 32\), its replacement \(2, 3\)"),
        patch(model, {Site("model.layers.0.mlp", "output"): torch.zeros(2, 3)}),
    ):
        model(IDS)
    with (
        pytest.raises(SiteError, match="never computed"),
        patch(model, {Site("model.layers.0.mlp", "output"): lambda v, _: v}),
    ):
        pass
