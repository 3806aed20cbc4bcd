"""How information moves through a multimodal model: from the image to the constraint, and on to the last token (6.2.3).

Both are attention contributions (thesis eq. 6.1): (i) from the image's tokens to the visual constraint's last token,
where the thesis finds the first layer and the last tokens of the image; (ii) from the constraint to the last token of
the prompt, where it finds the middle layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pellucid.core.contributions import AttentionParts, attention_contributions
from pellucid.core.errors import DataError
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where the tokens of one prompt stand, counted with its padding.

    Attributes:
        image: positions of the image's tokens, in order.
        constraint: positions of the visual constraint's tokens, in order.
        last: position of the prompt's last token, where the answer is read off.
    """

    image: tuple[int, ...]
    constraint: tuple[int, ...]
    last: int


@dataclass(frozen=True)
class Transfer:
    """What attention moves for one question; all are Euclidean norms, in the units of the residual stream.

    Attributes:
        image_to_constraint: of each image token to the constraint's last token, `(layers, image tokens)`.
        image_together: of the image tokens' sum, `(layers,)`: where single tokens cancel out, this stays small.
        constraint_to_last: of the constraint's last token to the last token, `(layers,)`.
        span_to_last: of the sum over all tokens of the constraint, `(layers,)`.
        confidence: probability of the most likely next token after the prompt, in [0, 1].
    """

    image_to_constraint: Tensor
    image_together: Tensor
    constraint_to_last: Tensor
    span_to_last: Tensor
    confidence: float


@torch.inference_mode()
def transfers(
    model: Any, anatomy: AttentionParts, inputs: Mapping[str, Tensor], places: Sequence[Places]
) -> list[Transfer]:
    """Measure both transfers, and the confidence, for a batch of prompts in one forward pass.

    Args:
        model: a multimodal model in eval mode.
        anatomy: of the language model inside it.
        inputs: what the model is called with, prompts without answers.
        places: one for each row.

    Raises:
        DataError: a prompt has no image token or no token of a constraint.
    """
    for row, place in enumerate(places):
        if not place.image or not place.constraint:
            what = "an image" if not place.image else "a visual constraint"
            raise DataError(f"row {row} of the batch has no token of {what}: give a question with both")

    def keep(vectors: Tensor, row: int) -> Tensor:
        """Norms of all tokens, then of the image's and of the constraint's sums: (2, tokens + 2)."""
        place = places[row]
        sums = [vectors[:, list(group)].sum(1, keepdim=True) for group in (place.image, place.constraint)]
        return torch.cat([vectors, *sums], dim=1).norm(dim=-1)

    queries = [[place.constraint[-1], place.last] for place in places]
    with attention_contributions(anatomy, queries, reduce=keep) as found:
        logits = model(**inputs, use_cache=False).logits
    table = torch.stack([found[layer] for layer in range(anatomy.layers)], dim=1)  # (rows, layers, 2, tokens + 2)
    ends = torch.tensor([place.last for place in places], device=logits.device)
    chances = logits[torch.arange(len(places), device=logits.device), ends].float().softmax(-1).amax(-1)
    return [
        Transfer(
            image_to_constraint=rows[:, 0, list(place.image)],
            image_together=rows[:, 0, -2],
            constraint_to_last=rows[:, 1, place.constraint[-1]],
            span_to_last=rows[:, 1, -1],
            confidence=float(chance),
        )
        for rows, place, chance in zip(table, places, chances, strict=True)
    ]
