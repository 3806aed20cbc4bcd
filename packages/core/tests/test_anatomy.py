import pytest
import torch
from pellucid.core.anatomy import decoder_anatomy
from pellucid.core.errors import SiteError
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.core.tracing import capture
from torch import nn

IDS = torch.tensor([[3, 14, 15, 9, 26, 5]])


@pytest.mark.parametrize("family", DECODERS)
def test_the_parts_sum_to_the_final_residual(family):
    """Embedding plus every attention and MLP write is what enters the final norm."""
    model = tiny_decoder(family)
    anatomy = decoder_anatomy(model)
    layers = range(anatomy.layers)
    start = anatomy.residual_before_mlp(0)
    sites = [start, anatomy.final_residual()]
    sites += [anatomy.attention(i) for i in layers] + [anatomy.mlp(i) for i in layers]
    with capture(model, sites) as store:
        model(IDS)
    total = store[start][0].clone()
    for i in layers:
        if i > 0:
            total += anatomy.attention_write(i, store[anatomy.attention(i)][0])
        total += anatomy.mlp_write(i, store[anatomy.mlp(i)][0])
    torch.testing.assert_close(total, store[anatomy.final_residual()][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("bias", [False, True])
def test_heads_sum_to_the_attention_output(family, bias):
    model = tiny_decoder(family)
    anatomy = decoder_anatomy(model)
    if bias:
        projection = model.get_submodule(anatomy.output_projection(1))
        projection.bias = nn.Parameter(torch.randn(32))
    with capture(model, [anatomy.head_outputs(1), anatomy.attention(1)]) as store:
        model(IDS)
    heads = store[anatomy.head_outputs(1)][0].unflatten(-1, (anatomy.heads, anatomy.head_dim))
    writes = anatomy.project_heads(1, heads)
    assert writes.shape == (4, 1, 6, 32)
    expected = store[anatomy.attention(1)][0] - (projection.bias if bias else 0)
    torch.testing.assert_close(writes.sum(0), expected, atol=1e-5, rtol=1e-5)
    weight = model.get_submodule(anatomy.output_projection(1)).weight
    torch.testing.assert_close(writes[2], heads[..., 2, :] @ weight[:, 16:24].T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_run_mlp_is_the_models_own(family):
    model = tiny_decoder(family)
    anatomy = decoder_anatomy(model)
    with capture(model, [anatomy.residual_before_mlp(2), anatomy.mlp(2)]) as store:
        model(IDS)
    again = anatomy.run_mlp(2, store[anatomy.residual_before_mlp(2)][0])
    torch.testing.assert_close(again, store[anatomy.mlp(2)][0])


def test_unknown_families_layers_and_heads_are_named():
    with pytest.raises(SiteError, match=r"family 'Linear' is not known here; known are .*llama"):
        decoder_anatomy(nn.Linear(2, 2))
    anatomy = decoder_anatomy(tiny_decoder())
    with pytest.raises(SiteError, match="no layer 3: it has 3"):
        anatomy.head(3, 0)
    with pytest.raises(SiteError, match="no head 4: it has 4"):
        anatomy.head(0, 4)
