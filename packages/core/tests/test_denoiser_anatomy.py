"""Layers of every family in the order in which they run; counts of full-sized models, built without weights."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pellucid.core.denoiser_anatomy import DenoiserAnatomy, denoiser_anatomy
from pellucid.core.errors import SiteError
from pellucid.core.testing_pipelines import PIPELINES, tiny_pipeline
from pellucid.core.tracing import Site, capture, find_module, patch
from torch import nn

JOINT = ("if", "sd3", "flux")
EXPECTED = {
    # cross-attention, self-attention, resnet, feed-forward
    "sd": (11, 11, 17, 11),
    "sd2": (11, 11, 17, 11),
    "sdxl": (11, 11, 11, 11),
    "if": (7, 0, 15, 0),
    "sd3": (3, 0, 0, 3),
    "pixart": (3, 3, 0, 3),
    "flux": (3, 2, 0, 5),
}


def run(pipe: Any, prompt: str = "a dog", steps: int = 1, **options: Any) -> Any:
    if type(pipe).__name__.startswith("PixArt"):
        options["use_resolution_binning"] = False
    generator = torch.Generator().manual_seed(0)
    raw = "pt" if getattr(pipe, "vae", None) is None else "latent"
    return pipe(
        prompt, num_inference_steps=steps, guidance_scale=1.0, generator=generator, output_type=raw, **options
    ).images


def counts(anatomy: DenoiserAnatomy) -> tuple[int, ...]:
    found = Counter(layer.kind for layer in anatomy.layers)
    return tuple(found[kind] for kind in ("cross_attention", "self_attention", "resnet", "feed_forward"))


def fired(denoiser: nn.Module, names: list[str], pipe: Any) -> list[str]:
    """The slow, obvious twin: the names in the order in which their forward hooks fire."""
    order: list[str] = []
    hooks = [find_module(denoiser, n).register_forward_hook(lambda *_, n=n: order.append(n)) for n in names]
    run(pipe)
    for hook in hooks:
        hook.remove()
    return order


@pytest.mark.parametrize("family", PIPELINES)
def test_layers_come_in_the_order_in_which_they_run_and_none_is_left_out(family: str) -> None:
    pipe = tiny_pipeline(family)
    anatomy = denoiser_anatomy(pipe)
    names = [layer.name for layer in anatomy.layers]
    # Hooks are registered in the order of names, which must not matter.
    assert fired(anatomy.denoiser, sorted(names), pipe) == names
    assert [layer.name for layer in anatomy.cross_attentions] == [
        layer.name for layer in anatomy.layers if layer.kind == "cross_attention"
    ]
    assert counts(anatomy) == EXPECTED[family]
    assert len({layer.label for layer in anatomy.layers}) == len(anatomy.layers)
    # What diffusers itself calls attention, resnet and feed-forward, found by class: nothing else is there.
    classes = {"Attention", "FluxAttention", "ResnetBlock2D", "FeedForward"}
    others = {"ff_context", "add_embedding"}  # they write into the text's stream, or pool the text
    by_class = {
        name
        for name, module in anatomy.denoiser.named_modules()
        if type(module).__name__ in classes and not others & set(name.split("."))
    }
    assert by_class == {name for name in names if not name.endswith("proj_mlp")}


@pytest.mark.parametrize("family", PIPELINES)
def test_keys_and_values_read_the_text_and_nothing_but_the_text(family: str) -> None:
    pipe = tiny_pipeline(family)
    anatomy = denoiser_anatomy(pipe)
    projections = [name for layer in anatomy.cross_attentions for name in (layer.key, layer.value)]
    ends = {name.rpartition(".")[2] for name in projections}
    assert ends == ({"add_k_proj", "add_v_proj"} if family in JOINT else {"to_k", "to_v"})
    assert all(isinstance(find_module(anatomy.denoiser, name), nn.Linear) for name in projections)
    seen: list[dict[str, torch.Tensor]] = []
    for prompt in ("a dog", "a cat"):
        inputs: dict[str, torch.Tensor] = {}
        hooks = [
            find_module(anatomy.denoiser, name).register_forward_pre_hook(
                lambda _, args, name=name, inputs=inputs: inputs.setdefault(name, args[0])
            )
            for name in projections
        ]
        run(pipe, prompt)
        for hook in hooks:
            hook.remove()
        seen.append(inputs)
    tokens = {value.shape[1] for value in seen[0].values()}
    assert len(tokens) == 1
    assert tokens <= {77, 120, 77 + 256, 512}  # the lengths that the families' pipelines pad text to
    assert all(not torch.equal(seen[0][name], seen[1][name]) for name in projections)


@pytest.mark.parametrize("family", PIPELINES)
def test_with_all_layers_restored_the_picture_is_restored(family: str) -> None:
    """In SD3 and Flux with the pooled text too, which scales what the layers write."""
    pipe = tiny_pipeline(family)
    anatomy = denoiser_anatomy(pipe)
    sites = [anatomy.site(layer) for layer in anatomy.layers]
    pooled = Site("time_text_embed", "output")
    with capture(anatomy.denoiser, [*sites, *([pooled] if family in ("sd3", "flux") else [])]) as clean:
        picture = run(pipe, "a dog", steps=2)
    assert (run(pipe, "a cat", steps=2) - picture).abs().max() > 1e-2
    replay = {site: (lambda _, call, site=site: clean[site][call]) for site in clean}
    with patch(anatomy.denoiser, replay):
        torch.testing.assert_close(run(pipe, "a cat", steps=2), picture, rtol=0, atol=1e-5)
    # A check of the check: it is not, with the layers from the last that reads text on left out, or the pooled text.
    last = sites.index(Site(anatomy.cross_attentions[-1].name, "output"))
    for left_out in [set(sites[last:]), *([{pooled}] if pooled in replay else [])]:
        with patch(anatomy.denoiser, {site: how for site, how in replay.items() if site not in left_out}):
            assert (run(pipe, "a cat", steps=2) - picture).abs().max() > 1e-4, left_out


@pytest.mark.parametrize("family", PIPELINES)
def test_pooled_text_goes_round_the_layers_where_it_is_said_to(family: str) -> None:
    """With the inputs of all key and value projections restored, the rest is the pooled text's doing."""
    pipe = tiny_pipeline(family)
    anatomy = denoiser_anatomy(pipe)
    assert anatomy.pooled == (family in ("sdxl", "if", "sd3", "flux"))
    sites = [Site(name, "input") for layer in anatomy.cross_attentions for name in (layer.key, layer.value)]
    with capture(anatomy.denoiser, sites) as clean:
        picture = run(pipe, "a dog")
    with patch(anatomy.denoiser, {site: (lambda _, call, site=site: clean[site][call]) for site in sites}):
        gap = (run(pipe, "a cat") - picture).abs().max()
    assert gap > 1e-4 if anatomy.pooled else gap < 1e-6


def test_labels_tell_block_kind_and_number() -> None:
    labels = {layer.label: layer.name for layer in denoiser_anatomy(tiny_pipeline("sdxl")).layers}
    assert labels["down-1-resnet-0"] == "down_blocks.1.resnets.0"
    assert labels["mid-cross-attn-1"] == "mid_block.attentions.0.transformer_blocks.1.attn2"
    assert labels["up-0-cross-attn-3"] == "up_blocks.0.attentions.1.transformer_blocks.1.attn2"
    assert list(labels)[:3] == ["down-0-resnet-0", "down-1-resnet-0", "down-1-self-attn-0"]
    assert list(labels)[-1] == "up-2-resnet-1"
    flux = {layer.label: layer.name for layer in denoiser_anatomy(tiny_pipeline("flux")).layers}
    assert flux["block-2-cross-attn-0"] == "transformer_blocks.2.attn"
    assert flux["single-1-self-attn-0"] == "single_transformer_blocks.1.attn"


# Full-sized models, without weights


def holding(component: str, kind: str, **config: Any) -> Any:
    """A stand-in for a pipeline that holds one denoiser on the meta device."""
    import diffusers

    with torch.device("meta"):
        return SimpleNamespace(**{component: getattr(diffusers, kind)(**config)})


def unet(**config: Any) -> Any:
    return holding("unet", "UNet2DConditionModel", **config)


def test_stable_diffusion_1_has_the_70_layers_of_the_thesis() -> None:
    anatomy = denoiser_anatomy(unet(cross_attention_dim=768, attention_head_dim=8))
    assert anatomy.component == "unet"
    assert not anatomy.pooled
    assert counts(anatomy) == (16, 16, 22, 16)
    assert len(anatomy.layers) == 70
    order = [layer.name.split(".")[0] for layer in anatomy.cross_attentions]
    assert order == ["down_blocks"] * 6 + ["mid_block"] + ["up_blocks"] * 9
    # `named_modules()` would have put the mid block last.
    naive = [name for name, _ in anatomy.denoiser.named_modules() if name.endswith("attn2")]
    assert sorted(naive) == sorted(layer.name for layer in anatomy.cross_attentions)
    assert naive[-1].startswith("mid_block")
    assert "down-1-resnet-1" in {layer.label for layer in anatomy.layers}


def test_sdxl_has_70_cross_attention_layers() -> None:
    anatomy = denoiser_anatomy(
        unet(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    )
    assert counts(anatomy) == (70, 70, 17, 70)
    assert anatomy.pooled
    blocks = Counter(layer.label.rsplit("-", 3)[0] for layer in anatomy.layers if layer.kind == "cross_attention")
    assert blocks == {"down-1": 4, "down-2": 20, "mid": 10, "up-0": 30, "up-1": 6}


def test_transformers_of_full_depth() -> None:
    small = {"attention_head_dim": 16, "num_attention_heads": 2}
    sd3 = holding("transformer", "SD3Transformer2DModel", caption_projection_dim=32, **small)
    assert counts(denoiser_anatomy(sd3)) == (24 - 6, 0, 0, 18)
    dual = holding(
        "transformer", "SD3Transformer2DModel", caption_projection_dim=32, dual_attention_layers=(0, 1), **small
    )
    assert counts(denoiser_anatomy(dual)) == (18, 2, 0, 18)
    assert denoiser_anatomy(dual).layers[1].name == "transformer_blocks.0.attn2"
    pixart = holding("transformer", "PixArtTransformer2DModel", cross_attention_dim=32, caption_channels=8, **small)
    assert counts(denoiser_anatomy(pixart)) == (28, 28, 0, 28)
    flux = holding("transformer", "FluxTransformer2DModel", axes_dims_rope=(4, 4, 8), **small)
    assert counts(denoiser_anatomy(flux)) == (19, 38, 0, 19 + 38)
    assert len(denoiser_anatomy(flux).cross_attentions) == 19


# Bad input


def error_of(pipe: Any) -> str:
    with pytest.raises(SiteError) as caught:
        denoiser_anatomy(pipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_denoiser_that_reads_no_text_is_an_error() -> None:
    small: dict[str, Any] = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    textless = unet(
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type=None, **small
    )
    assert "no cross-attention" in error_of(textless)


def test_unknown_denoisers_and_blocks_are_named() -> None:
    assert "neither a unet nor a transformer" in error_of(SimpleNamespace())
    message = error_of(SimpleNamespace(unet=nn.Linear(2, 2)))
    assert "Linear" in message
    assert "UNet2DConditionModel" in message
    odd = unet(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("AttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    assert "down_blocks.0 is a AttnDownBlock2D" in error_of(odd)
