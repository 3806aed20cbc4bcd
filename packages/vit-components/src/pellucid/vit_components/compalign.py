"""CompAlign: a linear map for each component, from a model's representation space into a CLIP's (thesis 7.2)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import write_file
from pellucid.core.progress import progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from .store import Contributions

Method = Literal["compalign", "free", "one"]
METHODS: tuple[Method, ...] = ("compalign", "free", "one")
VERSION = "1"


@dataclass(frozen=True)
class Alignment:
    """Maps f_i of a model's components into a CLIP's space; a part c is mapped to c @ maps[i].

    Attributes:
        components: names, in the order of the maps.
        maps: (components, width, clip width) float32.
        model: the weights that it belongs to (a revision).
        clip: the name of the CLIP.
        clip_model: the CLIP's weights (a revision).
        method: `compalign`, `free` (without the regulariser) or `one` (the same map for all).
        last_layers: how many layers were taken apart; None for all.
    """

    components: tuple[str, ...]
    maps: Tensor
    model: str
    clip: str
    clip_model: str
    method: str = "compalign"
    last_layers: int | None = None

    def save(self, path: Path) -> Path:
        """Write it as safetensors, whole or not at all.

        Raises:
            DataError: it cannot be written there.
        """
        said = {
            "components": list(self.components),
            "model": self.model,
            "clip": self.clip,
            "clip_model": self.clip_model,
            "method": self.method,
            "last_layers": self.last_layers,
        }
        metadata = {"format": "pt", "pellucid_alignment": VERSION, "alignment": json.dumps(said)}
        write_file(path, to_bytes({"maps": self.maps.contiguous()}, metadata))
        return path


def read_alignment(path: Path) -> Alignment:
    """Read what `Alignment.save` wrote.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise DataError(f"there is no alignment at {path}: make one by `pellucid vit align`")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("pellucid_alignment") != VERSION:
                raise DataError(f"{path} is no alignment that this release reads: make it by `pellucid vit align`")
            said = json.loads(metadata["alignment"])
            return Alignment(tuple(said.pop("components")), file.get_tensor("maps"), **said)
    except (SafetensorError, OSError, LookupError, ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}): make it again by `pellucid vit align`") from error


def align(
    found: Contributions,
    target: np.ndarray,
    *,
    clip: str,
    clip_model: str,
    method: Method = "compalign",
    penalty: float = 0.01,
    steps: int = 2000,
    rate: float = 1e-3,
    batch: int = 256,
    last_layers: int | None = None,
    seed: int = 0,
) -> Alignment:
    """Train a map for each component, so that the mapped parts sum to the CLIP's representation.

    Adam minimises 1 - cos(sum_i f_i(c_i), z_CLIP) + penalty * sum_i |f_i' f_i - I|_F over pictures; no label is read.
    Where the CLIP's space is narrower than the model's, f_i' f_i = I cannot be: then f_i f_i' = I is asked for. All
    maps start at the orthogonal map that fits the whole representations best (Procrustes), where the regulariser is 0.

    Args:
        found: the parts of unlabelled pictures.
        target: (pictures, clip width), the CLIP's representations of the same ones.
        clip: name of the CLIP, kept with the maps.
        clip_model: its revision, kept too.
        method: `compalign`; `free` without the regulariser (lambda = 0); `one` map for all, without it (the
            ablations of table 7.1).
        penalty: lambda.
        steps: of Adam.
        rate: its learning rate, falling to 0 along a cosine.
        batch: pictures a step.
        last_layers: of the contributions, kept with the maps.
        seed: of the batches.

    Raises:
        DataError: the pictures are not as many, fewer than two, or a number is not finite.
        OptionError: the method is not known.
    """
    if method not in METHODS:
        raise OptionError(f"method {method!r}: choose from {', '.join(METHODS)}")
    if target.ndim != 2 or len(target) != found.parts.shape[1] or len(target) < 2:
        raise DataError(f"{len(target)} targets for {found.parts.shape[1]} pictures: give one each, two at least")
    if not (np.isfinite(target).all() and np.isfinite(found.parts).all()):
        raise DataError("parts or targets hold NaN or infinity: compute them again")
    parts = torch.from_numpy(found.parts).float()
    goal = torch.nn.functional.normalize(torch.from_numpy(target).float(), dim=1)
    # Parts of models differ in scale; that of the whole enters no cosine, and one size of step then suits all.
    scale = parts.sum(0).norm(dim=1).mean().clamp_min(1e-12)
    start = procrustes(parts.sum(0), goal)
    count = 1 if method == "one" else len(parts)
    maps = start.expand(count, -1, -1).clone().requires_grad_(True)
    given = (parts.sum(0, keepdim=True) if method == "one" else parts) / scale
    optimizer = torch.optim.Adam([maps], lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = torch.Generator().manual_seed(seed)
    with progress("Aligning", steps) as advance:
        for step in range(steps):
            chosen = torch.randint(len(goal), (min(batch, len(goal)),), generator=random)
            loss = alignment_loss(maps, given[:, chosen], goal[chosen], penalty if method == "compalign" else 0.0)
            if not torch.isfinite(loss):
                raise DataError(f"the loss is not finite at step {step + 1}: give a smaller rate than {rate}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
            advance(1)
    final = maps.detach().expand(len(parts), -1, -1).contiguous()
    names = tuple(one.name for one in found.components)
    return Alignment(names, final, found.revision, clip, clip_model, method, last_layers)


def alignment_loss(maps: Tensor, parts: Tensor, goal: Tensor, penalty: float) -> Tensor:
    """The objective of section 7.2.

    Args:
        maps: (components, width, clip width).
        parts: (components, pictures, width).
        goal: (pictures, clip width).
        penalty: lambda.
    """
    mapped = torch.einsum("cpw,cwe->pe", parts, maps)
    loss = 1 - torch.nn.functional.cosine_similarity(mapped, goal, dim=1).mean()
    if penalty:
        loss = loss + penalty * departure(maps).sum()
    return loss


def departure(maps: Tensor) -> Tensor:
    """How far each map is from an orthogonal one: the Frobenius norm of its Gram matrix on the narrower side less I.

    Args:
        maps: (components, width, clip width).

    Returns:
        (components,).
    """
    width, other = maps.shape[1:]
    gram = maps @ maps.mT if width <= other else maps.mT @ maps
    away = gram - torch.eye(min(width, other), dtype=maps.dtype, device=maps.device)
    return (away.square().sum((1, 2)) + 1e-12).sqrt()  # at 0 a norm has no gradient


def procrustes(whole: Tensor, goal: Tensor) -> Tensor:
    """The orthogonal map (width, clip width) that takes representations nearest to their goals."""
    left, _, right = torch.linalg.svd(whole.double().T @ goal.double(), full_matrices=False)
    return (left @ right).float()


def cosine_distances(found: Contributions, alignment: Alignment, target: np.ndarray) -> np.ndarray:
    """1 - cos(sum_i f_i(c_i), z_CLIP) of each picture: (pictures,) float64; its mean is table 7.1's last row."""
    mapped = np.zeros((found.parts.shape[1], alignment.maps.shape[2]))
    for part, one in zip(found.parts, alignment.maps.double().numpy(), strict=True):
        mapped += part.astype(np.float64) @ one
    goal = target.astype(np.float64)
    return np.asarray(1 - (mapped * goal).sum(1) / (np.linalg.norm(mapped, axis=1) * np.linalg.norm(goal, axis=1)))
