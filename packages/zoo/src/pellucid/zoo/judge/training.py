"""Training the judge: on renders made for it, from a seed, resumable, on one thread or a GPU."""

import hashlib
import json
import math
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.progress import progress
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from ..world.chance import Chance
from ..world.renderer import render
from ..world.sampling import draw
from ..world.scene import Scene
from ..world.vocabulary import TEXTURES, VIEWS
from .labels import HEADS, UNASKED, labels
from .measuring import measure
from .model import JudgeNet
from .outliers import TRAINED, outlier
from .reading import RECORD, WEIGHTS, load_judge


@dataclass(frozen=True)
class Recipe:
    """How the judge is trained.

    Attributes:
        pool: pictures rendered at a time.
        passes: how often a pool is gone through before the next one is rendered.
        batch: pictures a step.
        rate: the highest learning rate, reached after the first twentieth, followed by a cosine to zero.
        keep: steps between two checkpoints.
        measured: renders of each sort that the final weights are measured on.
    """

    pool: int = 12_000
    passes: int = 4
    batch: int = 192
    rate: float = 3e-3
    keep: int = 250
    measured: int = 4000


def train_judge(
    out: Path, steps: int = 5000, seed: int = 0, device: str = "cpu", resume: bool = True, recipe: Recipe | None = None
) -> Path:
    """Train a judge, measure it, and write its weights and its record.

    The same seed, steps and recipe give the same pictures in the same order everywhere, and the same weights on the
    same machine with one thread, whether or not the run was cut short in between.

    Args:
        out: folder for `judge.safetensors` (float16), `judge.json` and, meanwhile, one checkpoint.
        steps: of training in all.
        seed: of weights, pictures and their order.
        device: as torch names it.
        resume: go on from the checkpoint in `out`; False starts anew.
        recipe: sizes and rates.

    Returns:
        The folder, which `load_judge` reads.

    Raises:
        OptionError: fewer than one step.
        DataError: the checkpoint in `out` is of another seed or number of steps, or the loss is no number any more.
    """
    if steps < 1:
        raise OptionError(f"steps={steps}: give 1 or more")
    recipe = recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    net = JudgeNet().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=0.02)
    done, seconds = _resumed(out, net, optimiser, seed, steps) if resume else (0, 0.0)
    began = time.monotonic() - seconds
    each = max(recipe.pool * recipe.passes // recipe.batch, 1)  # steps a pool
    with progress("Training the judge", steps) as advance:
        advance(done)
        pool, number = None, -1
        for step in range(done, steps):
            if step // each != number:
                number = step // each
                pool = _pool(seed, number, recipe.pool)
            assert pool is not None
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * _rate(step / steps)
            pictures, truth = _batch(pool, seed, step, recipe.batch)
            _step(net, optimiser, pictures.to(device), truth.to(device), step)
            advance(1)
            if (step + 1) % recipe.keep == 0 and step + 1 < steps:
                _keep(out, net, optimiser, {"seed": seed, "steps": steps, "done": step + 1}, time.monotonic() - began)
    _finish(out, net, {"seed": seed, "steps": steps, "device": device}, time.monotonic() - began, recipe)
    return out


def _rate(along: float) -> float:
    """The learning rate's share of its highest, at a share of the way."""
    return along / 0.05 if along < 0.05 else 0.5 + 0.5 * math.cos(math.pi * (along - 0.05) / 0.95)


def _pool(seed: int, number: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and their labels: seven in eight of the world, some of them harmed; the rest of none."""
    chance = Chance(seed * 100_003 + number, "judge pool")
    pictures, truth = np.empty((count, 32, 32, 3), np.uint8), np.empty((count, len(HEADS)), np.int64)
    for place in range(count):
        if chance.one_in(8):
            pictures[place], truth[place] = outlier(chance.pick(list(TRAINED)), chance), labels(None)
        else:
            scene = _harmed(_busier(draw(chance), chance), chance)
            pictures[place], truth[place] = render(scene), labels(scene)
    return pictures, truth


def _busier(scene: Scene, chance: Chance) -> Scene:
    """In every other scene take all textures and views alike often; bring out two things of one colour."""
    if chance.one_in(2) or not scene.things:
        return scene
    things = [replace(thing, texture=chance.pick(TEXTURES), view=chance.pick(VIEWS)) for thing in scene.things]
    if len({thing.object for thing in things}) == 2 and chance.one_in(3):
        things[1] = replace(things[1], colour=things[0].colour)
    return replace(scene, things=tuple(things))


def _harmed(scene: Scene, chance: Chance) -> Scene:
    """Now and then hide a part, or blur the picture."""
    if chance.one_in(16):
        return replace(scene, things=tuple(replace(thing, occluded=True) for thing in scene.things))
    return replace(scene, blur=True) if chance.one_in(16) else scene


def _batch(pool: tuple[np.ndarray, np.ndarray], seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
    """Pictures of a pool, moved by up to two pixels, some softened, some with noise: as a decoder might blur them."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    chosen = torch.randint(len(pool[0]), (size,), generator=generator).numpy()
    pictures = torch.from_numpy(pool[0][chosen]).permute(0, 3, 1, 2) / 127.5 - 1
    down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
    pictures = pad(pictures, (2, 2, 2, 2), mode="replicate")[:, :, down : down + 32, right : right + 32]
    harm = torch.rand((3, size, 1, 1, 1), generator=generator)
    soft = avg_pool2d(pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = torch.lerp(pictures, soft, (harm[0] < 0.15) * harm[1])
    pictures = pictures + torch.randn(pictures.shape, generator=generator) * (harm[2] - 0.7).clamp(min=0) * 0.25
    return pictures.contiguous(memory_format=torch.channels_last), torch.from_numpy(pool[1][chosen])


def _step(net: JudgeNet, optimiser: torch.optim.Optimizer, pictures: Tensor, truth: Tensor, step: int) -> None:
    net.train()
    with torch.autocast(pictures.device.type, torch.bfloat16):
        logits = net(pictures)
    loss = pictures.new_zeros(())
    for place, part in enumerate(logits):
        asked = truth[:, place] != UNASKED
        if bool(asked.any()):
            loss = loss + cross_entropy(part[asked].float(), truth[asked, place], label_smoothing=0.01)
    if not math.isfinite(value := float(loss.detach())):
        raise DataError(f"the judge's loss is {value} at step {step}: lower the recipe's rate")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _keep(out: Path, net: JudgeNet, optimiser: torch.optim.Optimizer, run: dict[str, int], seconds: float) -> None:
    """Write a checkpoint in place of the last one; a killed run leaves the one or the other whole."""
    fresh, place, old = out / "checkpoint.new", out / "checkpoint", out / "checkpoint.old"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, fresh / "net.safetensors")
    torch.save(optimiser.state_dict(), fresh / "optimiser.pt")
    (fresh / "run.json").write_text(json.dumps(run | {"seconds": seconds}), encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _resumed(out: Path, net: JudgeNet, optimiser: torch.optim.Optimizer, seed: int, steps: int) -> tuple[int, float]:
    """Load the checkpoint where there is one; returns the steps done and the seconds that they took."""
    place = next((out / name for name in ("checkpoint", "checkpoint.old") if (out / name).exists()), None)
    if place is None:
        return 0, 0.0
    try:
        run = json.loads((place / "run.json").read_text(encoding="utf-8"))
        if (run["seed"], run["steps"]) != (seed, steps):
            raise DataError(
                f"{place} is of seed {run['seed']} and {run['steps']} steps, not of seed {seed} and {steps}: "
                "give those, or resume=False"
            )
        net.load_state_dict(load_file(place / "net.safetensors"))
        optimiser.load_state_dict(torch.load(place / "optimiser.pt", weights_only=True))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"the checkpoint {place} cannot be read ({error}): remove it, or resume=False") from error
    return run["done"], run["seconds"]


def _finish(out: Path, net: JudgeNet, run: dict[str, object], seconds: float, recipe: Recipe) -> None:
    """Write the weights in float16 and measure what was written."""
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in net.state_dict().items()
    }
    scratch = out / f"{WEIGHTS}.new"
    save_file(weights, scratch, {"format": "pt"})
    os.replace(scratch, out / WEIGHTS)
    record = {"sha256": hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest()} | run
    record |= {"seconds": round(seconds), "parameters": sum(tensor.numel() for tensor in net.parameters())}
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    record["measured"] = measure(load_judge(out), recipe.measured)
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name in ("checkpoint", "checkpoint.old", "checkpoint.new"):
        shutil.rmtree(out / name, ignore_errors=True)
