"""Full fine-tuning of a backbone on a task's support set, with augmentation (thesis 4.5.3)."""

import copy
from dataclasses import dataclass

import torch
from pellucid.core.errors import DataError, OptionError
from torch import Tensor, nn

from .augmentation import augment
from .prototypes import SCALE, Distance, check_distance

_BATCH = 256
"""Query images that pass through a backbone together."""


@dataclass(frozen=True)
class FineTuning:
    """How a backbone is fine-tuned on a support set.

    Attributes:
        steps: of Adam.
        lr: learning rate. P>M>F searches 0.0001 to 0.01 a data set; large transformers want the lower end.
        distance: of queries from prototypes: euclidean, or cosine with the scale of `prototypes.SCALE`.
        seed: of the augmentation.
    """

    steps: int = 50
    lr: float = 5e-4
    distance: Distance = "euclidean"
    seed: int = 0

    def __post_init__(self) -> None:
        check_distance(self.distance)
        if self.steps < 1 or not 0 < self.lr < float("inf") or self.seed < 0:
            raise OptionError(
                f"fine-tuning with steps={self.steps}, lr={self.lr}, seed={self.seed}: give at least 1 step, lr above "
                "0 and a seed of at least 0"
            )


def fine_tuned_accuracy(
    module: nn.Module,
    support: Tensor,
    labels: Tensor,
    query: Tensor,
    truth: Tensor,
    settings: FineTuning | None = None,
) -> float:
    """Fine-tune a copy of a backbone on a task's support set and return its accuracy on the query set.

    As P>M>F does (Hu et al., 2022, section 3; thesis 4.5.3): each step classifies the augmented support images by
    prototypes of the support images as they are, and all weights follow the gradient of the cross-entropy. Query
    images are classified by the support's prototypes under the fine-tuned weights. The module stays in evaluation
    mode, so that batch normalisation keeps its statistics. The module that is given is not changed.

    Args:
        module: takes (n, 3, h, w), normalised, to embeddings (n, d).
        support: (s, 3, h, w), prepared for the module.
        labels: (s,), 0 to N-1, each at least once.
        query: (q, 3, h, w).
        truth: (q,).
        settings: `FineTuning()` where None.

    Raises:
        DataError: the loss is not finite.
    """
    settings = settings or FineTuning()
    tuned = copy.deepcopy(module).eval().requires_grad_(True)
    optimizer = torch.optim.Adam(tuned.parameters(), lr=settings.lr)
    generator = torch.Generator().manual_seed(settings.seed)
    way = int(labels.max()) + 1
    with torch.enable_grad():
        for step in range(settings.steps):
            optimizer.zero_grad()
            seen = tuned(torch.cat([support, augment(support, generator)]))
            clean, changed = seen.split(len(support))
            loss = nn.functional.cross_entropy(
                prototype_logits(class_means(clean, labels, way), changed, settings.distance), labels
            )
            if not torch.isfinite(loss):
                raise DataError(f"fine-tuning diverged at step {step} with lr {settings.lr:g}: give a lower lr")
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        prototypes = class_means(tuned(support), labels, way)
        chosen = [
            prototype_logits(prototypes, tuned(part), settings.distance).argmax(dim=1) for part in query.split(_BATCH)
        ]
    return float((torch.cat(chosen) == truth).double().mean())


def class_means(embeddings: Tensor, labels: Tensor, way: int) -> Tensor:
    """Return (way, d) prototypes: the mean of each class's embeddings (n, d), with labels (n,)."""
    members = nn.functional.one_hot(labels, way).T.to(embeddings)
    return members @ embeddings / members.sum(dim=1, keepdim=True)


def prototype_logits(prototypes: Tensor, queries: Tensor, distance: Distance) -> Tensor:
    """Return (q, N), of queries (q, d) and prototypes (N, d): the differentiable twin of `prototypes.logits`."""
    if distance == "cosine":
        return SCALE * nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(prototypes, dim=1).T
    return -(queries[:, None, :] - prototypes).square().sum(dim=2)
