"""Tiny random CLIPs of the real classes, for tests."""

from typing import Any

import torch

from .clips import Clip, open_clip_clip, transformers_clip
from .testing_pipelines import clip_tokenizer

KINDS = ("transformers", "vit", "resnet", "coca")


def tiny_clip(kind: str = "transformers") -> Clip:
    """A CLIP whose embeddings have 12 channels; the same weights each time.

    Args:
        kind: "transformers"; or "vit", "resnet" or "coca" of open_clip.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _transformers() if kind == "transformers" else _open_clip(kind)


def _transformers() -> Clip:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer()
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 20,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = tower | {"image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    size: dict[str, Any] = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    return transformers_clip("tiny", model, tokenizer, CLIPImageProcessor(**size))


def _open_clip(kind: str) -> Clip:
    import open_clip

    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 2}
    config: dict[str, Any] = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    if kind == "resnet":
        config["vision_cfg"] = {"image_size": 32, "patch_size": None, "width": 8, "layers": [1, 1, 1, 1]}
    if kind == "coca":
        config["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
        config["text_cfg"] |= {"embed_cls": True, "output_tokens": True, "context_length": 15}
        config["multimodal_cfg"] = {**text, "context_length": 15, "attn_pooler_heads": 2}
    model = (open_clip.CoCa if kind == "coca" else open_clip.CLIP)(**config)
    shown: dict[str, Any] = {
        "size": 32,
        "mode": "RGB",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    open_clip.model.set_model_preprocess_cfg(model, shown)
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**shown), is_train=False)
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    if kind == "coca":
        config["custom_text"] = True
        model.text_decoder.text_projection.data.normal_()  # open_clip leaves it as memory was
    return open_clip_clip(f"tiny {kind}", model, tokenizer, transform, config)
