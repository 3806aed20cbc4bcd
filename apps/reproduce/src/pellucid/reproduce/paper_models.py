"""The thesis's own models from their published configs, on the meta device: no download, no weights."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from pellucid.core.errors import OptionError

Parts = dict[str, Any]
"""A model's parts by name, such as `unet` and `text_encoder`; one part is called `model`."""


def parts_of(name: str) -> Parts:
    """Build a model's parts.

    Args:
        name: as the entries write it: a hub id, `timm:NAME` (or `timm/NAME`), `open_clip:ARCHITECTURE/PRETRAINED`.

    Raises:
        OptionError: its config is not known here.
    """
    import torch

    with torch.device("meta"):
        if name.startswith(("timm:", "timm/")):
            return {"model": _timm(name[5:])}
        if name.startswith("open_clip:"):
            return {"model": _open_clip(name.removeprefix("open_clip:").partition("/")[0])}
        if name not in _KNOWN:
            raise OptionError(f"the config of {name} is not known here: known are {', '.join(_KNOWN)}")
        return _KNOWN[name]()


def pipeline(parts: Mapping[str, Any]) -> Any:
    """The parts under the names that a diffusers pipeline gives them, for anatomies to look at."""
    return SimpleNamespace(**parts)


def _timm(name: str) -> Any:
    import timm

    return timm.create_model(name, pretrained=False)


def _open_clip(architecture: str) -> Any:
    import open_clip

    return open_clip.create_model(architecture, device="meta")


def _llama(
    vocabulary: int, width: int, inner: int, layers: int, heads: int, keys: int, theta: float = 1e4
) -> Callable[[], Parts]:
    def build() -> Parts:
        from transformers import LlamaForCausalLM

        return {"model": LlamaForCausalLM(_llama_config(vocabulary, width, inner, layers, heads, keys, theta))}

    return build


def _llama_config(
    vocabulary: int, width: int, inner: int, layers: int, heads: int, keys: int, theta: float = 1e4
) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=keys, rope_theta=theta, tie_word_embeddings=False,
    )  # fmt: skip


def _phi3() -> Parts:
    from transformers import Phi3Config, Phi3ForCausalLM

    return {"model": Phi3ForCausalLM(Phi3Config(pad_token_id=0))}  # the class's own defaults are this model


def _llava() -> Parts:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    eyes = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    words = _llama_config(32064, 4096, 11008, 32, 32, 32)
    return {"model": LlavaForConditionalGeneration(LlavaConfig(vision_config=eyes, text_config=words))}


def _stable_diffusion_1() -> Parts:
    from diffusers import UNet2DConditionModel

    return {"unet": UNet2DConditionModel(sample_size=64, cross_attention_dim=768), "text_encoder": _clip_l(), **_vae()}


def _stable_diffusion_2(size: int) -> Callable[[], Parts]:
    def build() -> Parts:
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel(
            sample_size=size, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        )
        return {"unet": unet, "text_encoder": _clip_text(1024, 23, 16, "gelu"), **_vae()}

    return build


def _sdxl() -> Parts:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    second = _clip_text(1280, 32, 20, "gelu", projection=1280)
    return {"unet": unet, "text_encoder": _clip_l(), "text_encoder_2": second, **_vae()}


def _deepfloyd() -> Parts:
    from diffusers import UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel

    simple = "SimpleCrossAttn{}Block2D"
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=3, out_channels=6, block_out_channels=(704, 1408, 2112, 2816), layers_per_block=3,
        down_block_types=("ResnetDownsampleBlock2D", *[simple.format("Down")] * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*[simple.format("Up")] * 3, "ResnetUpsampleBlock2D"),
        act_fn="gelu", attention_head_dim=64, cross_attention_dim=2816, cross_attention_norm="group_norm",
        encoder_hid_dim=4096, addition_embed_type="text", addition_embed_type_num_heads=64,
        resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    config = T5Config(
        vocab_size=32128, d_model=4096, d_ff=10240, d_kv=64, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    )
    return {"unet": unet, "text_encoder": T5EncoderModel(config)}


def _vae() -> Parts:
    from diffusers import AutoencoderKL

    return {
        "vae": AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )
    }  # fmt: skip


def _clip_l() -> Any:
    return _clip_text(768, 12, 12, "quick_gelu")


def _clip_text(width: int, layers: int, heads: int, act: str, projection: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        hidden_act=act, projection_dim=projection or width,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def _blip() -> Parts:
    from transformers import BlipConfig, BlipForQuestionAnswering

    return {"model": BlipForQuestionAnswering(BlipConfig(vision_config={"image_size": 384}))}


def _mpnet() -> Parts:
    from transformers import MPNetConfig, MPNetModel

    return {"model": MPNetModel(MPNetConfig(max_position_embeddings=514))}


_KNOWN: dict[str, Callable[[], Parts]] = {
    "lmsys/vicuna-7b-v1.5": _llama(32000, 4096, 11008, 32, 32, 32),
    "meta-llama/Meta-Llama-3-8B-Instruct": _llama(128256, 4096, 14336, 32, 32, 8, 5e5),
    "meta-llama/Meta-Llama-3-70B-Instruct": _llama(128256, 8192, 28672, 80, 64, 8, 5e5),
    "microsoft/Phi-3-mini-4k-instruct": _phi3,
    "llava-hf/llava-1.5-7b-hf": _llava,
    "CompVis/stable-diffusion-v1-4": _stable_diffusion_1,
    "stabilityai/stable-diffusion-2": _stable_diffusion_2(96),
    "stabilityai/stable-diffusion-2-1": _stable_diffusion_2(96),
    "stabilityai/stable-diffusion-xl-base-1.0": _sdxl,
    "DeepFloyd/IF-I-XL-v1.0": _deepfloyd,
    "Salesforce/blip-vqa-base": _blip,
    "sentence-transformers/all-mpnet-base-v2": _mpnet,
}
