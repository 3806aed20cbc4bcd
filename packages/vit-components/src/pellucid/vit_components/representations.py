"""What a model's representation is, by its class: the pooled features before any classifier."""

from collections.abc import Callable
from typing import Any

from pellucid.core.errors import ModelError
from torch import Tensor, nn

Forward = Callable[[nn.Module, Tensor], Tensor]
# Thesis 7.4: how many of the last layers are taken apart, by the first word of the class or of timm's architecture.
_LAYERS = {"swin": 12, "maxvit": 20, "maxxvit": 20, "coatnet": 20}
_PLAIN = 10


def representation_of(model: nn.Module) -> Forward:
    """The function from model and images to the representation (batch, width).

    Of timm's models the pooled features before the classifier (and before a hidden layer of the classifier's, which is
    not linear); of open_clip's the picture's embedding; of transformers' the picture's embedding, the pooled output, or
    the first token of the last hidden state, whichever the class has.

    Raises:
        ModelError: the class is not known; give `forward`.
    """
    home = type(model).__module__.partition(".")[0]
    if hasattr(model, "forward_features") and hasattr(model, "forward_head"):
        return _timm_before_hidden if _hidden(model) else _timm
    if home == "open_clip":
        return _open_clip if hasattr(model, "visual") else _called
    if home == "transformers":
        if hasattr(model, "get_image_features"):
            return _image_features
        return _transformers
    raise ModelError(f"{type(model).__name__} has no representation that is known here: give forward=")


def default_layers(model: nn.Module) -> int:
    """How many of the last layers thesis 7.4 takes apart for such a model."""
    name = type(model).__name__.lower()
    return next((count for word, count in _LAYERS.items() if name.startswith(word)), _PLAIN)


def _hidden(model: Any) -> bool:
    """Whether timm's head has a hidden layer before the classifier."""
    head = getattr(model, "head", None)
    return head is not None and hasattr(head, "pre_logits") and any(True for _ in head.pre_logits.parameters())


def _timm(model: Any, images: Tensor) -> Tensor:
    found: Tensor = model.forward_head(model.forward_features(images), pre_logits=True)
    return found


def _timm_before_hidden(model: Any, images: Tensor) -> Tensor:
    head = model.head
    found: Tensor = head.flatten(head.norm(head.global_pool(model.forward_features(images))))
    return found


def _open_clip(model: Any, images: Tensor) -> Tensor:
    return _first(model.visual(images))


def _called(model: Any, images: Tensor) -> Tensor:
    return _first(model(images))


def _image_features(model: Any, images: Tensor) -> Tensor:
    found = model.get_image_features(pixel_values=images)
    return found if isinstance(found, Tensor) else _first(found.pooler_output)


def _transformers(model: Any, images: Tensor) -> Tensor:
    found = model(pixel_values=images)
    for name in ("image_embeds", "pooler_output"):
        pooled = getattr(found, name, None)
        if pooled is not None and not _squashed(model):
            return _first(pooled)
    return _first(found.last_hidden_state[:, 0])


def _squashed(model: nn.Module) -> bool:
    """Whether a pooler with a tanh stands behind the representation, as BERT has one."""
    return type(model).__name__ in ("ViTModel", "DeiTModel", "BeitModel")


def _first(found: Any) -> Tensor:
    tensor: Tensor = found[0] if isinstance(found, tuple) else found
    return tensor
