"""A CLIP: the space of words into which components are mapped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pellucid.core.assets import find_model
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.quiet import quiet
from torch import Tensor, nn

from .encoders import VisionModel, load_vision

BATCH = 64


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP ready to embed.

    Attributes:
        vision: its picture tower, as any other vision model here.
        tokens: from texts to what `encode` takes.
        encode: from tokens to embeddings (n, width).
    """

    vision: VisionModel
    tokens: Callable[[list[str]], Any]
    encode: Callable[[Any], Tensor]

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts.

        Returns:
            (texts, width) float64, of length one.

        Raises:
            DataError: there is no text, or one is empty.
        """
        if not texts or not all(text.strip() for text in texts):
            raise DataError("there is an empty text, or none at all: give words")
        found = [
            self.encode(self.tokens(list(texts[start : start + BATCH]))).double().cpu()
            for start in range(0, len(texts), BATCH)
        ]
        together = torch.cat(found).numpy()
        return np.asarray(together / np.linalg.norm(together, axis=1, keepdims=True))


def load_clip(name: str, device: str = "cpu") -> Clip:
    """Load a CLIP with its text encoder.

    Args:
        name: as in `load_vision`: `open_clip:ARCH/PRETRAINED`, `open_clip:FOLDER`, `zoo:NAME`, a folder or a hub id of
            transformers'.
        device: where it goes.

    Raises:
        OptionError: the name is empty or timm's (which have no texts), or the device cannot be used.
        ModelError: it cannot be loaded, or has no text encoder.
    """
    source, _, rest = name.partition(":")
    if source == "timm":
        raise OptionError(f"{name} has no text encoder: give open_clip:ARCH/PRETRAINED, zoo:NAME or a folder")
    vision = load_vision(name, device)
    model: Any = vision.model
    try:
        with quiet():
            tokens = _open_clip_tokens(rest, device) if source == "open_clip" else _tokens(name, model, device)
    except Exception as error:  # tokenizers raise what they like
        raise ModelError(f"{name}: its tokenizer cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    if hasattr(model, "encode_text"):
        return Clip(vision, tokens, model.encode_text)
    if hasattr(model, "get_text_features"):
        return Clip(vision, tokens, lambda given: _features(model, given))
    raise ModelError(f"{name} is a {type(model).__name__}, which embeds no texts: give a CLIP")


def as_clip(vision: VisionModel) -> bool:
    """Whether a vision model is the picture tower of a CLIP, and needs no map into its space."""
    model: nn.Module = vision.model
    return hasattr(model, "encode_text") or hasattr(model, "get_text_features")


def _features(model: Any, given: Any) -> Tensor:
    found = model.get_text_features(**given)
    return found if isinstance(found, Tensor) else found.pooler_output


def _open_clip_tokens(rest: str, device: str) -> Callable[[list[str]], Any]:
    import open_clip

    architecture = f"local-dir:{rest}" if Path(rest).is_dir() else rest.partition("/")[0]
    tokenizer = open_clip.get_tokenizer(architecture)
    return lambda texts: tokenizer(texts).to(device)


def _tokens(name: str, model: Any, device: str) -> Callable[[list[str]], Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(find_model(name) or name))
    text_config = getattr(model.config, "text_config", model.config)
    length = getattr(text_config, "max_position_embeddings", None)
    # SigLIP was trained on texts padded to its full length.
    padding = "max_length" if "siglip" in type(model).__name__.lower() else True

    def tokens(texts: list[str]) -> Any:
        return tokenizer(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt").to(device)

    return tokens
