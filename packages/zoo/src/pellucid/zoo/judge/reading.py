"""Pictures into attributes, by the trained network."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pellucid.core.errors import DataError, ModelError

from .labels import HEADS, NONE

if TYPE_CHECKING:
    from torch import Tensor

    from .model import JudgeNet

WEIGHTS, RECORD = "judge.safetensors", "judge.json"
_SHIPPED = Path(__file__).parent
_BATCH = 512


@dataclass(frozen=True)
class ThingReading:
    """A thing in a picture, by the names of the world's vocabulary."""

    object: str
    colour: str
    texture: str
    view: str


@dataclass(frozen=True)
class Reading:
    """What the judge sees in a picture.

    Attributes:
        known: False for "none of these": the picture is not of the world, and the rest means nothing.
        things: none, one or two; of two the left or the upper one first.
        person: an individual's name, or None.
        count: how many of the thing there are; None where there is not exactly one kind of thing.
        relation: of two things, `left of` or `above`: the first thing's, seen from the second.
        place: or None.
        style: or None.
        probabilities: how sure each head is of its answer, 0 to 1; for `known` the probability of yes.
    """

    known: bool
    things: tuple[ThingReading, ...]
    person: str | None
    count: int | None
    relation: str | None
    place: str | None
    style: str | None
    probabilities: dict[str, float]


class Judge:
    """An attribute reader.

    Args:
        net: trained; it is used in evaluation mode, in float32.
    """

    def __init__(self, net: "JudgeNet") -> None:
        self._net = net.float().eval()

    def read(self, images: np.ndarray) -> list[Reading]:
        """Read pictures.

        Args:
            images: (n, h, w, 3) uint8, 32x32 or 64x64; the larger ones are reduced.

        Raises:
            DataError: the array has another shape or type.
        """
        answers, sure = self.answers(images)
        return [
            _reading(
                {head: names[choice] for (head, names), choice in zip(HEADS.items(), row, strict=True)},
                dict(zip(HEADS, odds, strict=True)),
            )
            for row, odds in zip(answers.tolist(), sure.tolist(), strict=True)
        ]

    def answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each head's answer as a number, for large counts.

        Args:
            images: as for `read`.

        Returns:
            The answers, (n, 14) int64: places in `HEADS`' tuples; and how sure they are, (n, 14) float32 (for
            `known`: the probability of yes).
        """
        import torch

        pictures = reduced(images)
        device = next(self._net.parameters()).device
        found, sure = [], []
        with torch.inference_mode():
            for start in range(0, len(pictures), _BATCH):
                batch = torch.from_numpy(pictures[start : start + _BATCH]).to(device)
                odds = [logits.softmax(1) for logits in self._net(batch.permute(0, 3, 1, 2) / 127.5 - 1)]
                chosen = _chosen(odds)
                best = [part.gather(1, choice[:, None])[:, 0] for part, choice in zip(odds, chosen, strict=True)]
                best[-1] = odds[-1][:, 1]
                found.append(torch.stack(chosen, 1).cpu().numpy())
                sure.append(torch.stack(best, 1).cpu().numpy())
        empty = np.empty((0, len(HEADS)))
        return np.concatenate(found or [empty.astype(np.int64)]), np.concatenate(sure or [empty.astype(np.float32)])


def load_judge(folder: Path | None = None, device: str = "cpu") -> Judge:
    """Load the judge.

    Args:
        folder: of `train_judge`; the shipped weights where it is not given.
        device: as torch names it.

    Raises:
        ModelError: a file is missing or damaged.
    """
    from safetensors.torch import load

    from .model import JudgeNet

    place = _SHIPPED if folder is None else folder
    again = "pip install --force-reinstall pellucid-zoo" if folder is None else "train it again with `train_judge`"
    try:
        content = (place / WEIGHTS).read_bytes()
        promised = json.loads((place / RECORD).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the judge in {place} cannot be read ({type(error).__name__}: {error}): {again}") from error
    if hashlib.sha256(content).hexdigest() != promised:
        raise ModelError(f"{place / WEIGHTS} is damaged: its SHA-256 is not the one in {RECORD}: {again}")
    net = JudgeNet()
    net.load_state_dict({name: tensor.float() for name, tensor in load(content).items()})
    return Judge(net.to(device))


def reduced(images: np.ndarray) -> np.ndarray:
    """Pictures at 32x32: (n, 32, 32, 3) uint8; those of 64x64 become their mean over 2x2 pixels."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] not in ((32, 32, 3), (64, 64, 3)):
        raise DataError(
            f"the judge reads uint8 arrays (n, 32, 32, 3) or (n, 64, 64, 3), not {images.dtype} {images.shape}"
        )
    if images.shape[1] == 32:
        return images
    blocks = images.astype(np.uint16).reshape(len(images), 32, 2, 32, 2, 3)
    return ((blocks.sum((2, 4)) + 2) // 4).astype(np.uint8)


def _chosen(odds: "list[Tensor]") -> "list[Tensor]":
    """Each head's likeliest choice; the second object and the relation decide together whether there are two things."""
    chosen = [part.argmax(1) for part in odds]
    second, relation = (list(HEADS).index(head) for head in ("object2", "relation"))
    alone, apart = odds[second][:, 0], odds[relation][:, 0]
    single = alone * apart >= (1 - alone) * (1 - apart)
    for head in (second, relation):
        chosen[head] = (odds[head][:, 1:].argmax(1) + 1).masked_fill(single, 0)
    return chosen


def _reading(said: dict[str, str], sure: dict[str, float]) -> Reading:
    """Put the heads' answers together; a person rules things out, and a second thing a count."""
    person = None if said["person"] == NONE else said["person"]
    numbers = [] if person else [number for number in ("", "2") if said[f"object{number}"] != NONE]
    things = tuple(
        ThingReading(*(said[f"{part}{number}"] for part in ("object", "colour", "texture", "view")))
        for number in numbers
    )
    relation = said["relation"] if len(things) == 2 and said["relation"] != NONE else None
    return Reading(
        known=sure["known"] >= 0.5,
        things=things,
        person=person,
        count=int(said["count"]) if len(things) == 1 else None,
        relation=relation,
        place=None if said["place"] == NONE else said["place"],
        style=None if said["style"] == NONE else said["style"],
        probabilities=sure,
    )
