"""The CLIP's weights under open_clip's names, so that `open_clip.create_model("local-dir:FOLDER")` reads them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPModel

_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def save_for_open_clip(model: "CLIPModel", folder: Path) -> None:
    """Write `open_clip_config.json` and `open_clip_model.safetensors`.

    The folder's tokenizer files, which transformers writes, serve open_clip too. Its pooling takes the place of the
    highest token, which is the end's, as transformers' does.

    Args:
        model: Tinyworld's CLIP.
        folder: where `model.save_pretrained` and the tokenizer were saved.
    """
    from safetensors.torch import save_file

    save_file(
        {name: part.contiguous() for name, part in _renamed(model).items()}, folder / "open_clip_model.safetensors"
    )
    text, vision = model.config.text_config, model.config.vision_config
    config = {
        "model_cfg": {
            "embed_dim": model.config.projection_dim,
            "quick_gelu": True,
            "vision_cfg": {
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "layers": vision.num_hidden_layers,
                "width": vision.hidden_size,
                "head_width": vision.hidden_size // vision.num_attention_heads,
            },
            "text_cfg": {
                "context_length": text.max_position_embeddings,
                "vocab_size": text.vocab_size,
                "layers": text.num_hidden_layers,
                "width": text.hidden_size,
                "heads": text.num_attention_heads,
                "hf_tokenizer_name": "tinyworld-clip",
            },
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _renamed(model: "CLIPModel") -> dict[str, Tensor]:
    old = model.state_dict()
    found = {
        "logit_scale": old["logit_scale"],
        "text_projection": old["text_projection.weight"].T,
        "token_embedding.weight": old["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": old["text_model.embeddings.position_embedding.weight"],
        "visual.proj": old["visual_projection.weight"].T,
        "visual.class_embedding": old["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": old["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": old["vision_model.embeddings.patch_embedding.weight"],
    }
    norms = {
        "text_model.final_layer_norm": "ln_final",
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
    }
    towers = {"text_model": "transformer", "vision_model": "visual.transformer"}
    for kind in ("weight", "bias"):
        found |= {f"{new}.{kind}": old[f"{name}.{kind}"] for name, new in norms.items()}
        for tower, stack in towers.items():
            for number in range(model.config.text_config.num_hidden_layers):
                here, there = f"{tower}.encoder.layers.{number}", f"{stack}.resblocks.{number}"
                parts = [old[f"{here}.self_attn.{which}_proj.{kind}"] for which in ("q", "k", "v")]
                found[f"{there}.attn.in_proj_{kind}"] = torch.cat(parts)
                found[f"{there}.attn.out_proj.{kind}"] = old[f"{here}.self_attn.out_proj.{kind}"]
                found |= {f"{there}.{new}.{kind}": old[f"{here}.{name}.{kind}"] for name, new in _LAYER.items()}
    return found
