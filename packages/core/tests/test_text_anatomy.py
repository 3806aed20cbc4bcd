"""Text encoders of every family: their parts are where the anatomy says, by arithmetic and by intervention."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pellucid.core.errors import SiteError
from pellucid.core.testing_pipelines import PIPELINES, tiny_pipeline
from pellucid.core.text_anatomy import TextAnatomy, text_anatomies
from pellucid.core.tracing import Site, capture, find_module, patch

ENCODERS = {
    # component: causal
    "sd": {"text_encoder": True},
    "sd2": {"text_encoder": True},
    "sdxl": {"text_encoder": True, "text_encoder_2": True},
    "if": {"text_encoder": False},
    "sd3": {"text_encoder": True, "text_encoder_2": True, "text_encoder_3": False},
    "pixart": {"text_encoder": False},
    "flux": {"text_encoder": True, "text_encoder_2": False},
}
IDS = torch.tensor([[3, 4, 5, 6, 7]])


def hidden(anatomy: TextAnatomy) -> torch.Tensor:
    with capture(anatomy.encoder, [anatomy.final_norm()]) as seen:
        anatomy.encoder(IDS)
    return seen[anatomy.final_norm()][0]


@pytest.fixture(params=PIPELINES, scope="module")
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, tiny_pipeline(request.param)


def test_each_encoder_is_found_and_whether_it_looks_ahead(family: tuple[str, Any]) -> None:
    name, pipe = family
    found = text_anatomies(pipe)
    assert {anatomy.component: anatomy.causal for anatomy in found} == ENCODERS[name]
    for anatomy in found:
        assert anatomy.encoder is getattr(pipe, anatomy.component)
        assert anatomy.layers == 3
        # A later token changes an earlier one exactly where attention is not causal.
        sites = [anatomy.final_norm()]
        changed = IDS.clone()
        changed[0, -1] = 9
        with capture(anatomy.encoder, sites) as seen:
            anatomy.encoder(IDS)
            anatomy.encoder(changed)
        first, second = seen[sites[0]]
        gap = (first[0, :-1] - second[0, :-1]).abs().max()
        assert gap < 1e-5 if anatomy.causal else gap > 1e-3


def test_the_final_norm_reads_the_sum_of_all_writes(family: tuple[str, Any]) -> None:
    """Embeddings, self-attentions and MLPs sum to the residual stream at the end (in CLIP: and the positions)."""
    for anatomy in text_anatomies(family[1]):
        end = Site(anatomy.final_norm().module, "input")
        parts = [anatomy.attention(i) for i in range(3)] + [anatomy.mlp(i) for i in range(3)]
        with capture(anatomy.encoder, [end, anatomy.embeddings(), *parts]) as seen:
            anatomy.encoder(IDS)
        total = sum(seen[site][0] for site in (*parts, anatomy.embeddings()))
        if anatomy.causal:
            name = anatomy.embeddings().module.replace("token_embedding", "position_embedding")
            total = total + find_module(anatomy.encoder, name).weight[: IDS.shape[1]]
        torch.testing.assert_close(total, seen[end][0], rtol=1e-5, atol=1e-4)


def test_the_embeddings_are_the_words(family: tuple[str, Any]) -> None:
    for anatomy in text_anatomies(family[1]):
        site = anatomy.embeddings()
        with capture(anatomy.encoder, [site]) as seen:
            anatomy.encoder(IDS)
        torch.testing.assert_close(seen[site][0], anatomy.encoder.get_input_embeddings().weight[IDS], rtol=0, atol=0)
        changed = IDS.clone()
        changed[0, 2] = 9
        with capture(anatomy.encoder, [site]) as other:
            anatomy.encoder(changed)
        expected = hidden_for(anatomy, changed)
        with patch(anatomy.encoder, {site: other[site][0]}):
            torch.testing.assert_close(hidden(anatomy), expected, rtol=0, atol=1e-6)


def hidden_for(anatomy: TextAnatomy, ids: torch.Tensor) -> torch.Tensor:
    with capture(anatomy.encoder, [anatomy.final_norm()]) as seen:
        anatomy.encoder(ids)
    return seen[anatomy.final_norm()][0]


def test_the_out_projection_gives_the_attention_s_output(family: tuple[str, Any]) -> None:
    for anatomy in text_anatomies(family[1]):
        for layer in range(anatomy.layers):
            name = anatomy.out_projection(layer)
            assert isinstance(find_module(anatomy.encoder, name), torch.nn.Linear)
            sites = (Site(name, "output"), anatomy.attention(layer))
            with capture(anatomy.encoder, sites) as seen:
                anatomy.encoder(IDS)
            torch.testing.assert_close(seen[sites[0]][0], seen[sites[1]][0], rtol=0, atol=0)


def test_bad_input() -> None:
    pipe = tiny_pipeline("sd")
    (anatomy,) = text_anatomies(pipe)
    for layer in (-1, 3):
        with pytest.raises(SiteError, match=f"the text_encoder has no layer {layer}: it has 3"):
            anatomy.attention(layer)
    with pytest.raises(SiteError, match="holds no text encoder"):
        text_anatomies(SimpleNamespace(text_encoder=None))  # type: ignore[arg-type]
    with pytest.raises(SiteError, match=r"the text_encoder is a Linear, .* known are CLIPTextModel, "):
        text_anatomies(SimpleNamespace(text_encoder=torch.nn.Linear(2, 2)))  # type: ignore[arg-type]


def test_an_encoder_that_was_left_out_is_skipped() -> None:
    pipe = tiny_pipeline("sd3")
    pipe.text_encoder_3 = None
    assert [anatomy.component for anatomy in text_anatomies(pipe)] == ["text_encoder", "text_encoder_2"]
