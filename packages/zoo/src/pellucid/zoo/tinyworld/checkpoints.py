"""One loop for all trainings: it can be cut short anywhere, and goes on with the same numbers to the bit."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import writing
from pellucid.core.progress import progress
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_FRESH, _PLACE, _OLD = "checkpoint.new", "checkpoint", "checkpoint.old"


@dataclass(frozen=True)
class Keeping:
    """When a checkpoint is written: after so many steps, and after so many seconds, whichever comes first.

    Attributes:
        steps: between two checkpoints at most.
        seconds: between two checkpoints at most.
    """

    steps: int = 500
    seconds: float = 120.0


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes:
        what: for the progress bar.
        out: folder for the checkpoint.
        networks: what is trained (and its running mean), by name.
        optimiser: over the networks' parameters.
        loss: given a step's number, the loss to go down from; all its chance must come from that number.
        rate: the highest learning rate; see `rate_at`.
        steps: in all.
        identity: what must be the same when a run goes on: the seed, sizes, rates.
        after: called after each step with its number, such as to update a running mean.
        resume: go on from the checkpoint; False starts anew.
        keeping: when checkpoints are written.
    """

    what: str
    out: Path
    networks: Mapping[str, nn.Module]
    optimiser: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    rate: float
    steps: int
    identity: Mapping[str, Any]
    after: Callable[[int], None] = lambda step: None
    resume: bool = True
    keeping: Keeping = Keeping()


def fit(task: Task) -> float:
    """Train, and leave a last checkpoint, which `forget` removes once the results are written.

    On one CPU thread the networks end with the same bits, whether or not the run was cut short in between.

    Returns:
        The seconds that all steps took, those before an interruption included.

    Raises:
        OptionError: fewer than one step.
        DataError: the checkpoint is of another run or damaged, or the loss is no number any more.
    """
    if task.steps < 1:
        raise OptionError(f"steps={task.steps}: give 1 or more")
    with writing(task.out):
        task.out.mkdir(parents=True, exist_ok=True)
    identity = json.loads(json.dumps({**task.identity, "steps": task.steps}))
    done, before = _resumed(task, identity) if task.resume else (0, 0.0)
    began = kept = time.monotonic()
    with progress(task.what, task.steps) as advance:
        advance(done)
        for step in range(done, task.steps):
            for group in task.optimiser.param_groups:
                group["lr"] = task.rate * rate_at((step + 1) / task.steps)
            loss = task.loss(step)
            if not math.isfinite(value := loss.item()):
                raise DataError(f"{task.what}: the loss is {value} at step {step}: lower the recipe's rate")
            task.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for group in task.optimiser.param_groups for p in group["params"]], 1.0)
            task.optimiser.step()
            task.after(step)
            advance(1)
            now, last = time.monotonic(), step + 1 == task.steps
            if last or (step + 1) % task.keeping.steps == 0 or now - kept >= task.keeping.seconds:
                _keep(task, identity, step + 1, before + now - began)
                kept = now
    return before + time.monotonic() - began


def rate_at(along: float) -> float:
    """The learning rate's share of its highest, at a share of the way: up for a twentieth, then a cosine to zero."""
    return along / 0.05 if along < 0.05 else 0.5 + 0.5 * math.cos(math.pi * (along - 0.05) / 0.95)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block torch's own chance on the CPU comes from a seed; afterwards it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def generator_of(seed: int, step: int) -> torch.Generator:
    """A step's source of chance; it does not depend on the steps before."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def forget(out: Path) -> None:
    """Remove a training's checkpoints."""
    for name in (_PLACE, _OLD, _FRESH):
        shutil.rmtree(out / name, ignore_errors=True)


def _keep(task: Task, identity: dict[str, Any], done: int, seconds: float) -> None:
    """Write a checkpoint in place of the last one; a killed run leaves the one or the other whole."""
    with writing(task.out):
        _write(task, identity, done, seconds)


def _write(task: Task, identity: dict[str, Any], done: int, seconds: float) -> None:
    fresh, place, old = task.out / _FRESH, task.out / _PLACE, task.out / _OLD
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, network in task.networks.items():
        weights = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
        save_file(weights, fresh / f"{name}.safetensors", {"format": "pt"})
    torch.save(task.optimiser.state_dict(), fresh / "optimiser.pt")
    (fresh / "run.json").write_text(json.dumps({"identity": identity, "done": done, "seconds": seconds}), "utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _resumed(task: Task, identity: dict[str, Any]) -> tuple[int, float]:
    """Load the checkpoint where there is one; returns the steps done and the seconds that they took."""
    place = next((task.out / name for name in (_PLACE, _OLD) if (task.out / name).exists()), None)
    if place is None:
        return 0, 0.0
    try:
        run = json.loads((place / "run.json").read_text("utf-8"))
        if run["identity"] != identity:
            names = sorted(identity.keys() | run["identity"].keys())
            other = [name for name in names if run["identity"].get(name) != identity.get(name)]
            found = ", ".join(f"{name}={run['identity'].get(name)!r}, not {identity.get(name)!r}" for name in other)
            raise DataError(f"{place} is of another run ({found}): give the same, or resume=False")
        for name, network in task.networks.items():
            network.load_state_dict(load_file(place / f"{name}.safetensors"))
        task.optimiser.load_state_dict(torch.load(place / "optimiser.pt", map_location="cpu", weights_only=True))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the checkpoint {place} cannot be read ({error}): remove it, or resume=False") from error
    return int(run["done"]), float(run["seconds"])
