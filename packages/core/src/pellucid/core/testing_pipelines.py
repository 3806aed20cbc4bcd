"""Tiny random text-to-image pipelines of the real classes, for tests: no network, well under a second each to build."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

# Whole words of the tokenizers; every other word is cut into letters.
_TEXT = """
a an the in of by with on and photo painting style picture room beach city forest red blue green yellow black dog cat
car house tree apple pizza clock circle square person president british monarch van gogh monet picasso
"""
WORDS = tuple(_TEXT.split())

_WIDTH = 32  # of the text encoders and of cross-attention
_POSITIONS = 77
_T5_POSITIONS = 512

Parts = dict[str, Any]


def tiny_pipeline(family: str = "sd", seed: int = 0) -> Any:
    """A random pipeline of a real class: pictures of 16 x 16, in eval mode, no parameter asking for a gradient.

    Flux reads its default size from no config: `tiny_pipeline` sets it, and a copy loaded from a folder must be called
    with `height=16, width=16`. PixArt must be called with `use_resolution_binning=False`.

    Args:
        family: one of `PIPELINES`.
        seed: of the weights, which are drawn wide so that every layer changes the picture.
    """
    build = _BUILDERS[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = build()
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                _draw(part)
                part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip_tokenizer(pad: str | None = None) -> Any:
    """A real `CLIPTokenizer`: `WORDS` are one token each, other words one a letter; at most 77 tokens.

    Args:
        pad: the padding token; by default the end of text, as in SD 1.x ("!" in SD 2.x, and in SDXL's second).
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    merges = _merges()
    names = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad or "<|endoftext|>", model_max_length=_POSITIONS)


def _merges() -> list[tuple[str, str]]:
    """Byte-pair merges that make each of `WORDS` one token: a later merge never breaks an earlier word."""
    merges: dict[tuple[str, str], int] = {}
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            first = min(range(len(pairs)), key=lambda at: merges.get(pairs[at], len(merges)))
            merges.setdefault(pairs[first], len(merges))
            pieces[first : first + 2] = ["".join(pairs[first])]
    return list(merges)


def t5_tokenizer() -> Any:
    """A real `T5Tokenizer`: `WORDS` are one token each, other words one a letter."""
    import string

    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(letter, -10.0) for letter in string.ascii_letters + string.digits + string.punctuation]
    pieces += [(f"▁{word}", -2.0) for word in WORDS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=_T5_POSITIONS)


def _draw(model: nn.Module) -> None:
    """Draw all weights so that activations keep their size and no layer is near zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parent = model.get_submodule(name.rpartition(".")[0])
            if isinstance(parent, nn.Embedding) or parameter.ndim < 2:
                scale = 1.0 if isinstance(parent, nn.Embedding) else 0.2
                centre = 1.0 if name.endswith("weight") and parameter.ndim == 1 else 0.0
                parameter.normal_(std=scale).add_(centre)
            else:
                # T5 does not divide its attention's logits by the root of the head's size: its weights do.
                head = getattr(parent, "in_features", 1) // 4 if name.endswith("SelfAttention.q.weight") else 1
                parameter.normal_(std=1.5 * (parameter[0].numel() * head) ** -0.5)


def _clip(tokenizer: Any, projected: bool = False, act: str = "quick_gelu") -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=48,
        projection_dim=_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=_POSITIONS,
        hidden_act=act,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _t5(tokenizer: Any, width: int = _WIDTH) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=width // 4,
        d_ff=48,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config)


def _vae(**options: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
        **options,
    )


def _unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    settings: Parts = {
        "sample_size": 8,
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": _WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(settings | options))


def _ddim(**options: Any) -> Any:
    # SDXL comes with Euler and PixArt with DPM-Solver: they warn under NumPy 2, and warnings are errors in tests.
    from diffusers import DDIMScheduler

    betas: Parts = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, clip_sample=False, steps_offset=1, **options)


def _sd() -> Any:
    from diffusers import StableDiffusionPipeline

    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd2() -> Any:
    from diffusers import StableDiffusionPipeline

    tokenizer = clip_tokenizer(pad="!")
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(tokenizer, act="gelu"),
        tokenizer=tokenizer,
        unet=_unet(attention_head_dim=(2, 4, 4), use_linear_projection=True),
        scheduler=_ddim(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline

    tokenizer, second = clip_tokenizer(), clip_tokenizer(pad="!")
    unet = _unet(
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        cross_attention_dim=2 * _WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + _WIDTH,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(tokenizer),
        text_encoder_2=_clip(second, projected=True, act="gelu"),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=unet,
        scheduler=_ddim(),
        add_watermarker=False,
    )


def _if() -> Any:
    from diffusers import DDPMScheduler, IFPipeline

    tokenizer = t5_tokenizer()
    unet = _unet(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=8,
        encoder_hid_dim=_WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(tokenizer),
        unet=unet,
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            variance_type="learned_range",
            thresholding=True,
            dynamic_thresholding_ratio=0.95,
            sample_max_value=1.5,
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def _sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    first, second, third = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * _WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * _WIDTH,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(first, projected=True),
        tokenizer=first,
        text_encoder_2=_clip(second, projected=True, act="gelu"),
        tokenizer_2=second,
        text_encoder_3=_t5(third, width=2 * _WIDTH),
        tokenizer_3=third,
    )


def _pixart() -> Any:
    from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel

    tokenizer = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        cross_attention_dim=32,
        caption_channels=_WIDTH,
        use_additional_conditions=False,
    )
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(tokenizer),
        vae=_vae(),
        transformer=transformer,
        scheduler=_ddim(),
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer, second = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=3,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_WIDTH,
        pooled_projection_dim=_WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=_t5(second),
        tokenizer_2=second,
        transformer=transformer,
    )
    pipe.default_sample_size = 8
    return pipe


_BUILDERS: dict[str, Callable[[], Any]] = {
    "sd": _sd,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "if": _if,
    "sd3": _sd3,
    "pixart": _pixart,
    "flux": _flux,
}
PIPELINES = tuple(_BUILDERS)
