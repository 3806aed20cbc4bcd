"""Training by name: `pellucid zoo train tinyworld-sd` and its like."""

import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.errors import OptionError
from pellucid.core.outfolder import write_file

from ..cache import cache_root
from ..world.captioning import caption
from ..world.sheets import save_sheet
from .autoencoder import AutoencoderRecipe, train_autoencoder
from .cards import SAMPLES, write_card
from .checkpoints import forget
from .clip import ClipRecipe, train_clip
from .data import Pool, pool
from .diffusion import DiffusionRecipe, train_diffusion
from .generating import generate
from .measuring import measure_autoencoder, measure_clip, measure_diffusion
from .prompts import held_out_scenes
from .refining import RefiningRecipe, refine_autoencoder
from .shipping import EYES, WEIGHTS, pack, tinyworld

if TYPE_CHECKING:
    from torch import nn

RECORD = "record.json"


def train(name: str, out: Path, *, device: str = "cpu", resume: bool = True, clip: Path | None = None) -> Path:
    """Train one of the zoo's models as the shipped one was, and measure it.

    Cut short, it goes on from its last checkpoint when it is called again with the same folder.

    Args:
        name: one of `NAMES`.
        out: the model's folder; what CLIP and Stable Diffusion look at is kept in the cache (185 MB).
        device: as torch names it.
        resume: go on from a checkpoint; False starts anew.
        clip: for `tinyworld-sd` and `tinyworld-llava` the CLIP whose text encoder or eyes it gets; the shipped one
            where none is given.

    Returns:
        The folder, with `record.json` and a model card beside the weights.

    Raises:
        OptionError: there is no such model.
        DataError: a checkpoint is of another run, or cannot be written.
    """
    if name not in _TRAINERS:
        raise OptionError(f"the zoo trains no {name!r}: it trains {', '.join(NAMES)}")
    if clip is not None and name not in ("tinyworld-sd", "tinyworld-llava"):
        raise OptionError(f"clip={str(clip)!r} is for tinyworld-sd and tinyworld-llava alone: leave it out")
    _TRAINERS[name](out, device, resume, clip)
    return out


def ship(name: str, folder: Path) -> None:
    """Put a trained model in the place of the shipped one: for whoever prepares a release.

    Args:
        name: one of `NAMES`, but for the judge, whose training writes what is shipped.
        folder: of `train(name, ...)`.
    """
    records = json.loads((folder / RECORD).read_text("utf-8"))
    for part, net in _trained(name, folder).items():
        pack(part, net, records[part], without=EYES)
    if (folder / SAMPLES).exists():
        write_file(WEIGHTS / SAMPLES, (folder / SAMPLES).read_bytes())


def _trained(name: str, folder: Path) -> dict[str, "nn.Module"]:
    """The networks of a trained model, by the names of their parts."""
    if name == "tinyworld-clip":
        from transformers import CLIPModel

        return {"clip": CLIPModel.from_pretrained(folder)}
    if name == "tinyworld-llava":
        from transformers import LlavaForConditionalGeneration

        return {"llava": LlavaForConditionalGeneration.from_pretrained(folder)}
    if name == "tinyworld-sd":
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(folder)
        return {"autoencoder": pipe.vae, "unet": pipe.unet}
    import timm

    return {name.removeprefix("tinyworld-"): timm.create_model(f"local-dir:{folder}", pretrained=True)}


def recorded(
    net: "nn.Module", stages: dict[str, Any], pictures: int, seed: int, seconds: float, measured: dict[str, Any]
) -> dict[str, Any]:
    """What a model card tells of one part: its stages are named recipes, one after the other, on so many pictures."""
    device = next(net.parameters()).device
    processor = f"CPU ({platform.machine()}), {torch.get_num_threads()} thread(s)"
    return {
        "recipe": {name: asdict(recipe) for name, recipe in stages.items()},
        "pictures": pictures,
        "pool_seed": seed,
        "parameters": sum(part.numel() for part in net.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "seconds": round(seconds, 1),
        "measured": measured,
    }


def _judge(out: Path, device: str, resume: bool, _: Path | None) -> None:
    from ..judge import train_judge

    train_judge(out, device=device, resume=resume)


def _clip(out: Path, device: str, resume: bool, _: Path | None) -> None:
    from transformers import CLIPModel

    renders, first = _pool(), out / "first"
    stages = {"both halves": ClipRecipe(), "pictures, text locked": ClipRecipe(steps=1000, seed=1)}
    seconds, begun = 0.0, None
    for recipe, place in zip(stages.values(), (first, out), strict=True):
        seconds += train_clip(place, renders, recipe, device, resume, begun)
        begun = CLIPModel.from_pretrained(place)
    model = CLIPModel.from_pretrained(out).to(device)
    records = {"clip": recorded(model, stages, len(renders), renders.seed, seconds, measure_clip(model))}
    shutil.rmtree(first)
    _conclude("tinyworld-clip", out, records)


def _diffusion(out: Path, device: str, resume: bool, clip: Path | None) -> None:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPModel

    renders, records = _pool(), _records(out) if resume else {}
    seen = CLIPModel.from_pretrained(clip or tinyworld("tinyworld-clip"))
    first = out / "first"
    if "autoencoder" not in records:
        plain, look = AutoencoderRecipe(), RefiningRecipe()
        seconds = train_autoencoder(first, renders, plain, device, resume)
        net = AutoencoderKL.from_pretrained(first)
        seconds += refine_autoencoder(out / "vae", renders, net, seen.vision_model, look, device, resume)
        measured = measure_autoencoder(net)
        stages = {"pixels": plain, "look": look}
        records["autoencoder"] = recorded(net, stages, len(renders), renders.seed, seconds, measured)
        records["autoencoder"]["scaling_factor"] = net.config.scaling_factor
        _keep(out, records)
        forget(out / "vae")
        shutil.rmtree(first)
    net, seconds, begun = AutoencoderKL.from_pretrained(out / "vae"), 0.0, None
    rounds = {"velocity": DiffusionRecipe(), "on": DiffusionRecipe(steps=5000, rate=4e-4, seed=1)}
    for recipe, place in zip(rounds.values(), (first, out), strict=True):
        seconds += train_diffusion(place, renders, seen.text_model, net, recipe, device, resume, begun)
        begun = UNet2DConditionModel.from_pretrained(place / "unet")
    pipe = StableDiffusionPipeline.from_pretrained(out).to(device)
    records["unet"] = recorded(pipe.unet, rounds, len(renders), renders.seed, seconds, measure_diffusion(pipe))
    shutil.rmtree(first)
    scenes = held_out_scenes("several attributes", 24, 1) + held_out_scenes("two objects", 16, 1)
    scenes += held_out_scenes("person", 8, 1)
    pictures = generate(pipe, [caption(scene) for scene in scenes], list(range(len(scenes))))
    save_sheet(pictures, out / SAMPLES, columns=8, scale=2)
    _conclude("tinyworld-sd", out, records)


def _llava(out: Path, device: str, resume: bool, clip: Path | None) -> None:
    from transformers import CLIPModel, LlavaForConditionalGeneration

    from .asking import measure_llava
    from .lessons import album
    from .llava import LlavaRecipe, train_llava
    from .llava_words import build_llava_processor

    eyes = CLIPModel.from_pretrained(clip or tinyworld("tinyworld-clip")).vision_model
    first = out / "first"
    # The second time half of the pictures show things without a name: what pictures alone answer is harder.
    lessons = {"facts": LlavaRecipe(), "more things": LlavaRecipe(steps=500, rate=6e-4, seed=1)}
    albums = album(), album(40, 1, 1.0)
    seconds, begun = 0.0, None
    for recipe, shown, place in zip(lessons.values(), albums, (first, out), strict=True):
        seconds += train_llava(place, shown, eyes, recipe, device, resume, begun)
        begun = LlavaForConditionalGeneration.from_pretrained(place)
    model = LlavaForConditionalGeneration.from_pretrained(out).to(device)
    measured = measure_llava(model, build_llava_processor())
    count = sum(len(shown.scenes) for shown in albums)
    record = recorded(model, lessons, count, albums[0].seed, seconds, measured)
    shutil.rmtree(first)
    _conclude("tinyworld-llava", out, {"llava": record})


def _classifier(name: str, out: Path, device: str, resume: bool, _: Path | None) -> None:
    import timm

    from .classifiers import RECIPES, measure_classifier, train_classifier

    recipe = RECIPES[name]
    seconds = train_classifier(name, out, recipe, device, resume)
    net = timm.create_model(f"local-dir:{out}", pretrained=True).eval().to(device)
    measured = measure_classifier(name, net)
    record = recorded(net, {"objects": recipe}, recipe.pictures, recipe.seed, seconds, measured)
    _conclude(f"tinyworld-{name}", out, {name: record})


def _pool() -> Pool:
    return pool(cache_root() / "tinyworld-renders")


def _records(out: Path) -> dict[str, Any]:
    path = out / RECORD
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _keep(out: Path, records: dict[str, Any]) -> None:
    write_file(out / RECORD, (json.dumps(records, indent=1) + "\n").encode())


def _conclude(name: str, out: Path, records: dict[str, Any]) -> None:
    _keep(out, records)
    write_card(name, out, records, out / SAMPLES)
    forget(out)


_TRAINERS: dict[str, Callable[[Path, str, bool, Path | None], None]] = {
    "judge": _judge,
    "tinyworld-clip": _clip,
    "tinyworld-sd": _diffusion,
    "tinyworld-llava": _llava,
    **{f"tinyworld-{name}": partial(_classifier, name) for name in ("vit", "swin", "maxvit", "spurious")},
}
NAMES = tuple(_TRAINERS)
