"""RepDecompose on the stock classes of timm, transformers and open_clip: the parts sum to the representation."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from pellucid.core.errors import ModelError, OptionError
from pellucid.vit_components.decompose import components_of, rep_decompose
from pellucid.vit_components.reference import head_parts
from pellucid.vit_components.representations import default_layers
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

_PLAIN: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
}
_WINDOWS: dict[str, Any] = {
    "img_size": 32, "window_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "num_classes": 5,
}  # fmt: skip
_HYBRID: dict[str, Any] = {"img_size": 64, "embed_dim": [16, 32], "depths": [1, 1], "transformer_dim_head": 8}
_MAXVIT = _HYBRID | {
    "block_type": ["M", "M"], "transformer_window_size": [4, 4], "transformer_grid_size": [4, 4],
}  # fmt: skip
_HF: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def _timm(name: str, **sizes: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, **sizes)


def _hf(name: str, **more: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        model_class = getattr(transformers, name)
        model: nn.Module = model_class(model_class.config_class(**(more or _HF)))
        return model

    return build


def _open_clip(**more: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import open_clip

        vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8} | more
        text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 4, "layers": 1}
        model: nn.Module = open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
        return model

    return build


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "timm vit": (_timm("vit_tiny_patch16_224", **_PLAIN), 8),
    "timm vit, averaged": (_timm("vit_tiny_patch16_224", **_PLAIN, global_pool="avg"), 8),
    "timm vit, attention pooling": (_timm("vit_tiny_patch16_224", **_PLAIN, global_pool="map", class_token=False), 8),
    "timm deit3, LayerScale": (_timm("deit3_small_patch16_224", **_PLAIN), 8),
    "timm dinov2, registers": (_timm("vit_small_patch14_reg4_dinov2", **_PLAIN, init_values=0.3), 8),
    "timm swin": (_timm("swin_tiny_patch4_window7_224", **_WINDOWS), 12),
    "timm swin v2": (_timm("swinv2_tiny_window8_256", **_WINDOWS), 12),
    "timm maxvit": (_timm("maxvit_pico_rw_256", **_MAXVIT, stem_width=[8, 16]), 12),
    "timm maxvit, hidden head": (_timm("maxvit_tiny_tf_224", **_MAXVIT, stem_width=16), 12),
    "timm coatnet": (
        _timm(
            "coatnet_nano_rw_224",
            **_HYBRID | {"embed_dim": [16, 32, 32, 32], "depths": [1, 1, 1, 1]},
            stem_width=[8, 16],
        ),
        8,
    ),
    "timm eva02, RoPE": (
        _timm("eva02_tiny_patch14_224", img_size=32, patch_size=8, embed_dim=36, depth=2, num_heads=3),
        6,
    ),
    "transformers clip": (_hf("CLIPVisionModelWithProjection", **_HF, projection_dim=16), 8),
    "transformers siglip": (_hf("SiglipVisionModel"), 8),
    "transformers vit": (_hf("ViTModel"), 8),
    "transformers deit": (_hf("DeiTModel"), 8),
    "transformers dinov2": (_hf("Dinov2Model"), 8),
    "transformers swin": (
        _hf("SwinModel", image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4),
        12,
    ),
    "open_clip vit": (_open_clip(), 8),
    "open_clip coca's pooler": (_open_clip(attentional_pool=True, attn_pooler_heads=4, attn_pooler_queries=1), 8),
}


def _model(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name][0]().to(dtype).eval()
        side = 64 if "maxvit" in name or "coatnet" in name else 32
        return model, torch.randn(3, 3, side, side, dtype=dtype)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_parts_sum_to_the_representation(name: str) -> None:
    """To 1e-5 in float32 and 1e-10 in float64, for all layers and for the last two alone."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        model, images = _model(name, dtype)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        found = rep_decompose(model, images)
        assert found.error <= tolerance
        assert (found.parts.sum(0) - found.representation).abs().max() <= tolerance * found.representation.abs().max()
        assert sum(component.kind == "head" for component in found.components) == MODELS[name][1]
        assert len({component.name for component in found.components}) == len(found.components)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    last = rep_decompose(model, images, last_layers=2)
    assert last.components[-1].name == "init"
    names = [component.name for component in found.components]
    for component, part in zip(last.components[:-1], last.parts, strict=False):
        assert torch.allclose(part, found.parts[names.index(component.name)], atol=1e-12)


@pytest.mark.parametrize("name", list(MODELS))
def test_tokens_sum_to_their_head(name: str) -> None:
    model, images = _model(name)
    heads = [component.name for component in components_of(model, images) if component.kind == "head"]
    found = rep_decompose(model, images, tokens=[heads[0], heads[-1]])
    names = [component.name for component in found.components]
    for head, tokens in found.tokens.items():
        assert tokens.shape[1:] == found.representation.shape
        assert torch.allclose(tokens.sum(0), found.parts[names.index(head)], atol=1e-10)


def test_each_images_parts_are_its_own() -> None:
    for name in ("timm vit", "timm swin", "timm maxvit"):
        model, images = _model(name)
        together = rep_decompose(model, images).parts
        for place in range(3):
            alone = rep_decompose(model, images[place : place + 1]).parts
            assert torch.allclose(alone[:, 0], together[:, place], atol=1e-10)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_parts_equal_the_hand_written_formula_of_a_plain_vit(pool: str) -> None:
    model, images = _model("timm vit" if pool == "token" else "timm vit, averaged")
    found = rep_decompose(model, images)
    by_hand = head_parts(model, images)
    assert by_hand
    for component, part in zip(found.components, found.parts, strict=True):
        if component.name in by_hand:
            assert torch.allclose(part, by_hand[component.name], atol=1e-10)
    kinds = {component.kind for component in found.components if component.name not in by_hand}
    assert kinds == {"embedding", "bias"}


def test_bfloat16_is_followed_to_a_few_hundredths() -> None:
    model, images = _model("timm vit", torch.bfloat16)
    found = rep_decompose(model, images)
    assert found.parts.dtype == torch.float32
    assert found.error < 5e-2
    exact = rep_decompose(model.float(), images.float())
    for component, part, other in zip(found.components, found.parts, exact.parts, strict=True):
        if component.kind == "head":
            assert torch.nn.functional.cosine_similarity(part, other).min() > 0.98


def test_settings_come_back() -> None:
    model, images = _model("open_clip vit")
    before = torch.backends.mha.get_fastpath_enabled()
    rep_decompose(model, images)
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_layers_are_counted_as_in_the_thesis() -> None:
    """Section 7.4: 10 layers of a DeiT of 12 heads are 65 components, besides the rest."""
    model = timm.create_model("deit_base_patch16_224", pretrained=False, img_size=32, embed_dim=48, depth=6).eval()
    found = rep_decompose(model, torch.randn(2, 3, 32, 32), last_layers=default_layers(model))
    assert len(found.components) == 65 + 1
    assert default_layers(timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **_WINDOWS)) == 12


def test_bad_models_and_images_are_one_line() -> None:
    model, images = _model("timm vit")
    with pytest.raises(ModelError, match=r"is in train mode: call model.eval"):
        rep_decompose(model.train(), images)
    model.eval()
    with pytest.raises(ModelError, match="has to be a tensor"):
        rep_decompose(model, images, forward=lambda model, images: model.forward_features(images))
    constant = torch.zeros(3, 4, dtype=torch.float64)
    with pytest.raises(ModelError, match=r"not an output of the recorded pass"):
        rep_decompose(model, images, forward=lambda model, images: constant[: len(images)])
    with pytest.raises(OptionError, match="it is no head"):
        rep_decompose(model, images, tokens=["blocks.9.attn.head0"])
    with pytest.raises(OptionError, match="last_layers=0"):
        rep_decompose(model, images, last_layers=0)
    with pytest.raises(OptionError, match=r"give \(batch, channels"):
        rep_decompose(model, images[0])
    with pytest.raises(ModelError, match="has no representation that is known here"):
        rep_decompose(nn.Linear(3, 4).eval(), images)


def test_an_operation_that_is_not_known_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Flatten()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.cumsum(x.mean((2, 3)), 1))

    with pytest.raises(ModelError, match=r"aten.cumsum.default in the model itself is not known: teach it with"):
        rep_decompose(Odd().eval(), torch.randn(2, 3, 8, 8), forward=lambda model, images: model(images))
