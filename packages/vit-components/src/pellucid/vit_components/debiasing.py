"""Mitigating spurious correlations by setting the components of one feature to their mean (thesis 7.4.3)."""

from dataclasses import dataclass

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.statistics import Estimate, bootstrap_mean
from torch import nn

from .ablation import classify
from .store import Contributions


@dataclass(frozen=True)
class Groups:
    """A classifier's accuracy, group by group.

    Attributes:
        groups: each one's accuracy with its interval.
        worst: the name of the worst group.
        average: over groups, each counting the same; its interval over pictures within groups.
    """

    groups: dict[str, Estimate]
    worst: str
    average: Estimate


def mean_ablated(found: Contributions, components: np.ndarray) -> np.ndarray:
    """Representations with some components set to their mean over the pictures: (pictures, width) float64."""
    parts = found.parts[components].astype(np.float64)
    return np.asarray(found.representation - (parts - parts.mean(1, keepdims=True)).sum(0))


def hits_of(model: nn.Module, representation: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which pictures a timm model's classifier names right: (pictures,) of 0 and 1."""
    return (classify(model, representation.astype(np.float32)) == right).astype(float)


def group_accuracies(hits: np.ndarray, groups: tuple[str, ...], seed: int) -> Groups:
    """Accuracy group by group.

    Args:
        hits: (pictures,) of 0 and 1.
        groups: (pictures,), each one's group.
        seed: of the bootstrap.

    Raises:
        DataError: there is only one group, or not one for each picture.
    """
    if len(groups) != len(hits):
        raise DataError(f"{len(groups)} groups for {len(hits)} pictures: give one each")
    if len(set(groups)) < 2:
        raise DataError("all pictures are of one group: give the annotation that tells groups apart")
    told = np.array(groups)
    found = {name: bootstrap_mean(hits[told == name], seed) for name in sorted(set(groups))}
    weight = np.array([len(told) / (len(found) * (told == name).sum()) for name in groups])
    return Groups(found, min(found, key=lambda name: found[name].value), bootstrap_mean(hits * weight, seed))
