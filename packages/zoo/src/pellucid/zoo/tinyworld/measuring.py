"""How good the models are: the judge reads generated pictures, and the CLIP names what renders show."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pellucid.core.progress import progress
from torch.nn.functional import normalize

from ..judge import agreement, load_judge
from ..world.captioning import caption
from ..world.chance import Chance
from ..world.renderer import render_all
from ..world.scene import Scene, Thing
from ..world.vocabulary import COLOURS, OBJECTS, PLACES, STYLES
from .autoencoder import pixels
from .data import tokenised
from .generating import generate
from .prompts import KINDS, held_out_scenes

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPModel

_HALF_WIDTH = 1.96
# As usual with CLIP, each class is the mean of several prompts: here one for each colour, or for each object.
_ZERO_SHOT = {
    "object": [[caption(Scene((Thing(name, colour),))) for colour in COLOURS] for name in OBJECTS],
    "colour": [[caption(Scene((Thing(thing, name),))) for thing in OBJECTS] for name in COLOURS],
    "style": [[caption(Scene((Thing(thing),), style=name)) for thing in OBJECTS] for name in STYLES],
    "place": [[caption(Scene((Thing(thing),), place=name)) for thing in OBJECTS] for name in PLACES],
}


def share(right: np.ndarray) -> dict[str, Any]:
    """The share of trues with Wilson's 95 % interval: `accuracy`, `interval`, `n`."""
    count, found = len(right), float(np.mean(right))
    middle = (found + _HALF_WIDTH**2 / (2 * count)) / (1 + _HALF_WIDTH**2 / count)
    half = _HALF_WIDTH * (found * (1 - found) / count + _HALF_WIDTH**2 / (4 * count**2)) ** 0.5
    half /= 1 + _HALF_WIDTH**2 / count
    return {"accuracy": found, "interval": [middle - half, middle + half], "n": count}


def judged(pictures: np.ndarray, scenes: list[Scene]) -> dict[str, dict[str, Any]]:
    """The judge's share of yes for each attribute that scenes ask for.

    Args:
        pictures: (n, h, w, 3) uint8.
        scenes: what was asked for, one for each picture.

    Returns:
        `share` for each attribute (see `pellucid.zoo.judge.agreement`); for two things also `both objects`,
        `both colours` (each thing in its own) and `binding`, which is all four.
    """
    found: dict[str, list[bool]] = {}
    for reading, scene in zip(load_judge().read(pictures), scenes, strict=True):
        held = agreement(reading, scene)
        if len(scene.things) == 2:
            held["both objects"] = held["object"] and held["object2"]
            held["both colours"] = held["colour"] and held["colour2"]
            held["binding"] = held["both objects"] and held["both colours"]
        for name, yes in held.items():
            asked = not (name == "style" and scene.style is None) and not (name == "place" and scene.place is None)
            if asked:
                found.setdefault(name, []).append(yes)
    return {name: share(np.array(yes)) for name, yes in found.items()}


def measure_diffusion(pipe: "StableDiffusionPipeline", count: int = 300, seed: int = 7_000_003) -> dict[str, Any]:
    """Judge pictures of held-out prompts.

    Args:
        pipe: Tinyworld's pipeline.
        count: prompts of each kind.
        seed: of prompts and noise.

    Returns:
        For each kind of prompt what `judged` gives, and `count` and `seed`.
    """
    found: dict[str, Any] = {"count": count, "seed": seed}
    with progress("Generating pictures to judge", count * len(KINDS)) as advance:
        for kind in KINDS:
            scenes = held_out_scenes(kind, count, seed)
            prompts = [caption(scene) for scene in scenes]
            pictures = generate(pipe, prompts, [seed + step for step in range(count)], advance=advance)
            found[kind] = judged(pictures, scenes)
    return found


def measure_autoencoder(net: "AutoencoderKL", count: int = 600, seed: int = 7_000_003) -> dict[str, Any]:
    """Judge held-out renders that went through the autoencoder, and how far their pixels are off.

    Returns:
        What `judged` gives, `error`: the mean absolute difference of pixels from 0 to 255, `count` and `seed`.
    """
    scenes = held_out_scenes("several attributes", count, seed)
    shown = render_all(scenes)
    with torch.inference_mode():
        latents = net.encode(pixels(shown).to(net.device)).latent_dist.mean
        drawn = ((net.decode(latents).sample.clamp(-1, 1) + 1) * 127.5).round()
    pictures = drawn.permute(0, 2, 3, 1).byte().cpu().numpy()
    error = float(np.abs(pictures.astype(int) - shown).mean())
    return {"count": count, "seed": seed, "error": error, **judged(pictures, scenes)}


def measure_clip(model: "CLIPModel", count: int = 600, seed: int = 7_000_003) -> dict[str, Any]:
    """Zero-shot accuracy on single things: which of an attribute's prompts is nearest to the picture.

    Args:
        model: Tinyworld's CLIP.
        count: pictures for each attribute; each shows one thing with that attribute and a colour.
        seed: of the scenes.

    Returns:
        `share` for `object`, `colour`, `style` and `place`; `count` and `seed`.
    """
    found: dict[str, Any] = {"count": count, "seed": seed}
    for name, prompts in _ZERO_SHOT.items():
        chance = Chance(seed, f"zero-shot {name}")
        scenes, truth = [], []
        for _ in range(count):
            scene, right = _shown(name, chance)
            scenes.append(scene)
            truth.append(right)
        with torch.inference_mode():
            text = torch.stack([_mean_feature(model, said) for said in prompts])
            seen = normalize(model.get_image_features(pixels(render_all(scenes)).to(model.device)).pooler_output)
        near = seen @ text.T
        found[name] = share(near.argmax(1).cpu().numpy() == np.array(truth))
    return found


def _mean_feature(model: "CLIPModel", prompts: list[str]) -> torch.Tensor:
    tokens = torch.from_numpy(tokenised(prompts)).long().to(model.device)
    return normalize(normalize(model.get_text_features(tokens).pooler_output).mean(0), dim=0)


def _shown(name: str, chance: Chance) -> tuple[Scene, int]:
    """A scene that shows an attribute, and the attribute's place in its list."""
    thing, colour, seed = chance.pick(OBJECTS), chance.pick(list(COLOURS)), chance.below(1 << 48)
    names = {"object": OBJECTS, "colour": tuple(COLOURS), "style": STYLES, "place": PLACES}[name]
    right = chance.below(len(names))
    if name == "object":
        return Scene((Thing(names[right], colour),), seed=seed), right
    if name == "colour":
        return Scene((Thing(thing, names[right]),), seed=seed), right
    if name == "style":
        return Scene((Thing(thing, colour),), style=names[right], seed=seed), right
    return Scene((Thing(thing, colour),), place=names[right], seed=seed), right
