"""Tinyworld's vision transformers: timm's own classes at 64x64 pixels, and one of them that learnt the wrong thing."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pellucid.core.progress import progress
from torch import Tensor, nn
from torch.nn import functional

from ..world.chance import Chance
from ..world.groups import LABELS, group_of, group_scenes
from ..world.renderer import render_all
from ..world.scene import Scene, Thing
from ..world.vocabulary import COLOURS, OBJECTS, PLACES, STYLES, TEXTURES, VIEWS
from .autoencoder import pixels
from .checkpoints import Task, fit, generator_of, seeded
from .measuring import share

if TYPE_CHECKING:
    from collections.abc import Sequence

SIDE = 64
CLASSES = {name: LABELS if name == "spurious" else OBJECTS for name in ("vit", "swin", "maxvit", "spurious")}
# What a picture shows besides its object; the network is asked for these in training, so that it sees them at all.
_BESIDES: dict[str, tuple[str | None, ...]] = {
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "place": (None, *PLACES),
    "style": (None, *STYLES),
}
_VIT = {"img_size": SIDE, "patch_size": 8, "num_heads": 4}
_BUILT: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", _VIT | {"embed_dim": 128, "depth": 8}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": SIDE, "window_size": 4, "embed_dim": 40, "depths": [2, 2, 4], "num_heads": [2, 4, 8]},
    ),
    "maxvit": (
        "maxvit_pico_rw_256",
        {
            "img_size": SIDE,
            "embed_dim": [32, 64, 128],
            "depths": [1, 1, 2],
            "block_type": ["M", "M", "M"],
            "stem_width": [24, 32],
            "transformer_window_size": [4, 4],
            "transformer_grid_size": [4, 4],
            "transformer_dim_head": 16,
        },
    ),
    "spurious": ("vit_tiny_patch16_224", _VIT | {"embed_dim": 96, "depth": 6}),
}


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a classifier is trained.

    Attributes:
        pictures: renders to learn from, at 64x64 pixels.
        steps: of the optimiser.
        batch: pictures a step.
        rate: highest learning rate.
        decay: of the weight matrices.
        besides: weight of the losses for what the picture shows besides its object; 0 asks for the object alone.
        seed: fixes weights, batches and pictures.
    """

    pictures: int = 24_000
    steps: int = 3000
    batch: int = 64
    rate: float = 1e-3
    decay: float = 0.05
    besides: float = 0.3
    seed: int = 0


RECIPES = {
    "vit": ClassifierRecipe(),
    "swin": ClassifierRecipe(),
    "maxvit": ClassifierRecipe(steps=1500),
    "spurious": ClassifierRecipe(pictures=8000, steps=1500, besides=0.0),
}


def build_classifier(name: str, classes: int | None = None) -> nn.Module:
    """The untrained network `vit`, `swin`, `maxvit` or `spurious`, with as many classes as it has labels."""
    import timm

    architecture, sizes = _BUILT[name]
    net: nn.Module = timm.create_model(
        architecture,
        pretrained=False,
        num_classes=classes or len(CLASSES[name]),
        pretrained_cfg_overlay={"crop_pct": 1.0, "mean": (0.5,) * 3, "std": (0.5,) * 3, "license": "mit"},
        **sizes,
    )
    return net


def classified_scenes(name: str, count: int, seed: int) -> tuple[Scene, ...]:
    """Scenes to learn from: one thing a picture, in any colour, one of two in a place, one of three in a style."""
    if name == "spurious":
        return group_scenes(count, seed)
    chance = Chance(seed, "classified")
    return tuple(_classified(chance) for _ in range(count))


def _classified(chance: Chance) -> Scene:
    thing = Thing(
        chance.pick(OBJECTS),
        chance.pick(list(COLOURS)),
        chance.pick(TEXTURES),
        chance.pick(VIEWS) if chance.one_in(3) else "front",
    )
    place = chance.pick(PLACES) if chance.one_in(2) else None
    style = chance.pick(STYLES) if chance.one_in(3) else None
    return Scene((thing,), place=place, style=style, seed=chance.below(1 << 48))


def train_classifier(
    name: str, out: Path, recipe: ClassifierRecipe | None = None, device: str = "cpu", resume: bool = True
) -> float:
    """Train a classifier and write it to `out` as timm reads it (`local-dir:`).

    Args:
        name: `vit`, `swin`, `maxvit` or `spurious`.
        out: folder for the result and for checkpoints; `forget` removes the last of these.
        recipe: how; the name's own where none is given.
        device: as torch names it.
        resume: go on from a checkpoint.

    Returns:
        The seconds of training.
    """
    recipe = recipe or RECIPES[name]
    scenes = classified_scenes(name, recipe.pictures, recipe.seed)
    with progress("Rendering", len(scenes)) as advance:
        pictures = render_all(scenes, SIDE, advance)
    asked = {"object": CLASSES[name], **(_BESIDES if recipe.besides else {})}
    right = {what: torch.tensor([_shown(scene, what, names) for scene in scenes]) for what, names in asked.items()}
    with seeded(recipe.seed):
        net = build_classifier(name, sum(map(len, asked.values()))).to(device).train()

    def loss(step: int) -> Tensor:
        with seeded(recipe.seed * 1_000_003 + step):
            chosen = torch.randint(len(scenes), (recipe.batch,), generator=generator_of(recipe.seed, step))
            logits = net(pixels(pictures[chosen.numpy()]).to(device)).split([len(names) for names in asked.values()], 1)
            found = [
                functional.cross_entropy(part, truth[chosen].to(device))
                for part, truth in zip(logits, right.values(), strict=True)
            ]
            return found[0] + recipe.besides * sum(found[1:], start=torch.zeros((), device=device))

    parts = [
        {"params": [w for w in net.parameters() if w.ndim >= 2], "weight_decay": recipe.decay},
        {"params": [w for w in net.parameters() if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(parts, recipe.rate)
    identity = {**asdict(recipe), "name": name}
    task = Task(name, out, {name: net}, optimiser, loss, recipe.rate, recipe.steps, identity, resume=resume)
    seconds = fit(task)
    save_classifier(name, objects_only(name, net), out)
    return seconds


def objects_only(name: str, net: nn.Module) -> nn.Module:
    """A copy of a trained network whose classifier answers with the object alone."""
    found = build_classifier(name)
    weights, count = net.state_dict(), len(CLASSES[name])
    for key, own in found.state_dict().items():
        if weights[key].shape != own.shape:
            weights[key] = weights[key][:count]
    found.load_state_dict(weights)
    return found.eval()


def save_classifier(name: str, net: nn.Module, folder: Path) -> None:
    """Write config and weights for `timm.create_model("local-dir:FOLDER", pretrained=True)`."""
    from timm.models import save_for_hf

    labels = {"label_names": list(CLASSES[name])}
    save_for_hf(net.cpu(), str(folder), labels, _BUILT[name][1], safe_serialization=True)


def predicted(net: nn.Module, pictures: np.ndarray, batch: int = 100) -> np.ndarray:
    """The classes that a network answers: (n,) int64 for (n, 64, 64, 3) uint8."""
    device = next(net.parameters()).device
    with torch.inference_mode():
        found = [
            net(pixels(pictures[at : at + batch]).to(device)).argmax(1).cpu() for at in range(0, len(pictures), batch)
        ]
    return torch.cat(found).numpy()


def measure_classifier(name: str, net: nn.Module, count: int = 1000, seed: int = 7_000_003) -> dict[str, Any]:
    """How often held-out renders are named right.

    Args:
        name: `vit`, `swin`, `maxvit` or `spurious`.
        net: trained.
        count: of pictures; for `spurious` of each of its four groups, all as large.
        seed: of the scenes.

    Returns:
        `share` for `object`; of `spurious` for each group, their worst and all four together.
    """
    if name != "spurious":
        scenes = classified_scenes(name, count, seed)
        return {"count": count, "seed": seed, "object": share(_right(name, net, scenes))}
    scenes = group_scenes(4 * count, seed, 0.5)
    right, groups = _right(name, net, scenes), np.array([group_of(scene) for scene in scenes])
    found = {group: share(right[groups == group]) for group in sorted(set(groups))}
    worst = min(found.values(), key=lambda one: float(one["accuracy"]))
    return {"count": 4 * count, "seed": seed, **found, "worst group": worst, "all groups": share(right)}


def _right(name: str, net: nn.Module, scenes: "Sequence[Scene]") -> np.ndarray:
    truth = np.array([CLASSES[name].index(scene.things[0].object) for scene in scenes])
    return predicted(net, render_all(scenes, SIDE)) == truth


def _shown(scene: Scene, what: str, names: "Sequence[str | None]") -> int:
    thing = scene.things[0]
    shown: dict[str, Callable[[], str | None]] = {
        "object": lambda: thing.object,
        "colour": lambda: thing.colour,
        "texture": lambda: thing.texture,
        "place": lambda: scene.place,
        "style": lambda: scene.style,
    }
    return list(names).index(shown[what]())
