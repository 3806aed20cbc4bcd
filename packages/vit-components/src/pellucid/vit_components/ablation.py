"""Mean ablation: what is left of a classifier's accuracy when layers say the same of every picture (thesis 7.3)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pellucid.core.errors import DataError, ModelError
from pellucid.core.statistics import Estimate, bootstrap_mean
from torch import nn

from .components import LAYERED
from .store import Contributions


@dataclass(frozen=True)
class Ablated:
    """Accuracy with some layers ablated.

    Attributes:
        layers: how many, counted from the last.
        name: the layer that came last to them; empty for none.
        accuracy: with its interval over pictures.
    """

    layers: int
    name: str
    accuracy: Estimate


def classify(model: nn.Module, representation: np.ndarray) -> np.ndarray:
    """What a timm model's classifier says of representations (pictures, width): (pictures,) int64.

    Raises:
        ModelError: the model has no classifier behind its representation.
    """
    head: Any = getattr(model, "head", None)
    hidden = getattr(head, "pre_logits", None)
    own: Any = model
    layer = own.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(layer, nn.Linear):
        raise ModelError(f"{type(model).__name__} has no linear classifier: give a timm model with one")
    weight = layer.weight
    with torch.inference_mode():
        values = torch.from_numpy(representation).to(weight.device, weight.dtype)
        if hidden is not None and any(True for _ in hidden.parameters()):
            values = hidden(values)
        return np.asarray(layer(values).argmax(1).cpu().numpy())


def ablate_layers(model: nn.Module, found: Contributions, right: np.ndarray, seed: int = 0) -> list[Ablated]:
    """Set layer after layer, from the last on, to its mean over the pictures, and classify.

    Args:
        model: whose contributions these are, with its classifier.
        found: contributions of labelled pictures.
        right: (pictures,) int64, the right classes.
        seed: of the bootstrap.

    Returns:
        First nothing ablated, then one layer more each time (thesis figure 7.2).

    Raises:
        DataError: the labels are not as many as the pictures.
    """
    if len(right) != found.representation.shape[0]:
        raise DataError(f"{len(right)} labels for {found.representation.shape[0]} pictures: give one each")
    order = sorted({one.layer for one in found.components if one.kind in LAYERED}, reverse=True)
    current = found.representation.astype(np.float64)
    results = [Ablated(0, "", _accuracy(model, current, right, seed))]
    for count, layer in enumerate(order, 1):
        own = [place for place, one in enumerate(found.components) if one.layer == layer]
        parts = found.parts[own].astype(np.float64).sum(0)
        current = current - (parts - parts.mean(0))
        name = found.components[own[0]].name.partition(".head")[0]
        results.append(Ablated(count, name, _accuracy(model, current, right, seed)))
    return results


def _accuracy(model: nn.Module, representation: np.ndarray, right: np.ndarray, seed: int) -> Estimate:
    hits = classify(model, representation.astype(np.float32)) == right
    return bootstrap_mean(hits.astype(float), seed)
