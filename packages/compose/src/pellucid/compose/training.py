"""One loop for all trainings here: it can be killed anywhere, and goes on to the same weights to the bit."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import write_file
from pellucid.core.progress import progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

CHECKPOINT = "checkpoint.safetensors"
PRECISIONS = ("no", "fp16", "bf16")
_CLIP = 1.0  # norm of the gradient that is let through
_SHOWN = 8  # names of a batch in an error


@dataclass(frozen=True)
class Batch:
    """One step's loss, and what it was computed on.

    Attributes:
        loss: to go down from, a scalar.
        names: of the batch's members, for the error of a loss that is no number.
    """

    loss: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One training with Adam.

    Attributes:
        what: for the progress bar and errors.
        parameters: what is trained, by name.
        batch: given a step's number, its loss; all its chance must come from that number.
        rate: the learning rate at the beginning.
        steps: in all.
        decays: shares of the steps after which the rate falls to a tenth.
        identity: plain values that must be the same when a run goes on: the data's digest, the seed, sizes.
        out: folder of the checkpoint; None keeps none.
        every: steps between two checkpoints.
        resume: go on from the checkpoint; False starts anew.
        precision: accelerate's `mixed_precision`: "no", "fp16" or "bf16".
    """

    what: str
    parameters: Mapping[str, Tensor]
    batch: Callable[[int], Batch]
    rate: float
    steps: int
    decays: tuple[float, ...] = ()
    identity: Mapping[str, Any] | None = None
    out: Path | None = None
    every: int = 500
    resume: bool = True
    precision: str = "no"


@dataclass(frozen=True)
class Fitted:
    """What a training was.

    Attributes:
        losses: of each step, those before an interruption included.
        seconds: that all steps took, those before an interruption included.
    """

    losses: tuple[float, ...]
    seconds: float


def fit(task: Task) -> Fitted:
    """Change the parameters in place, step by step, on their own device through accelerate.

    Raises:
        OptionError: fewer than one step, no positive rate, an unknown precision or one that differs from what this
            process trained with before, or nothing to train.
        DataError: the loss is no number any more, the checkpoint is of another run or damaged, or cannot be written.
    """
    _check(task)
    from accelerate import Accelerator

    parameters = list(task.parameters.values())
    cpu = parameters[0].device.type == "cpu"
    try:
        accelerator = Accelerator(cpu=cpu, mixed_precision=task.precision)
    except ValueError as error:  # of all that accelerate could object to here, what it keeps for a whole process
        raise OptionError(
            f"precision {task.precision!r} on {parameters[0].device}: accelerate trained with other settings in this "
            "process already, and cannot change them: start a new process"
        ) from error
    optimiser = accelerator.prepare(torch.optim.Adam(parameters, task.rate))
    identity = json.loads(json.dumps({"rate": task.rate, "steps": task.steps, **(task.identity or {})}))
    losses, before = _resumed(task, identity, optimiser, accelerator.scaler) if task.resume else ([], 0.0)
    began = time.monotonic()
    with progress(task.what, task.steps) as advance:
        advance(len(losses))
        for step in range(len(losses), task.steps):
            for group in optimiser.param_groups:
                group["lr"] = task.rate * 0.1 ** sum(step >= share * task.steps for share in task.decays)
            with accelerator.autocast():
                batch = task.batch(step)
            losses.append(batch.loss.item())
            if not math.isfinite(losses[-1]):
                raise DataError(_not_a_number(task, step, losses[-1], batch.names))
            optimiser.zero_grad()
            accelerator.backward(batch.loss)
            accelerator.clip_grad_norm_(parameters, _CLIP)
            optimiser.step()
            advance(1)
            if task.out is not None and ((step + 1) % task.every == 0 or step + 1 == task.steps):
                seconds = before + time.monotonic() - began
                _keep(task, identity, optimiser, accelerator.scaler, losses, seconds)
    optimiser.zero_grad()
    return Fitted(tuple(losses), before + time.monotonic() - began)


def chance_of(seed: int, step: int) -> torch.Generator:
    """A step's source of chance, on the CPU; it does not depend on the steps before."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def _check(task: Task) -> None:
    if task.steps < 1 or task.every < 1:
        raise OptionError(f"steps={task.steps}, every={task.every}: give 1 or more of both")
    if not task.rate > 0:
        raise OptionError(f"the rate is {task.rate}: give a learning rate above 0")
    if task.precision not in PRECISIONS:
        raise OptionError(f"precision {task.precision!r} is not one of {', '.join(PRECISIONS)}")
    if not task.parameters:
        raise OptionError(f"{task.what}: there is nothing to train")


def _not_a_number(task: Task, step: int, loss: float, names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return (
        f"{task.what}: the loss is {loss} at step {step}, in the batch of {shown}: look at these, or give a lower rate "
        f"than {task.rate}"
    )


def _keep(
    task: Task, identity: dict[str, Any], optimiser: Any, scaler: Any, losses: list[float], seconds: float
) -> None:
    """Write one file in place of the last one; a killed run leaves the one or the other whole."""
    assert task.out is not None
    state = optimiser.state_dict()
    tensors = {f"weight.{name}": weight for name, weight in task.parameters.items()}
    for number, values in state["state"].items():
        tensors |= {f"state.{number}.{key}": torch.as_tensor(value) for key, value in values.items()}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    about = {
        "identity": identity,
        "groups": state["param_groups"],
        "scaler": None if scaler is None else scaler.state_dict(),
        "seconds": seconds,
    }
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(task.out / CHECKPOINT, to_bytes(whole, {"format": "pt", "run": json.dumps(about)}))


def _resumed(task: Task, identity: dict[str, Any], optimiser: Any, scaler: Any) -> tuple[list[float], float]:
    """Load the checkpoint where there is one; returns the losses of the steps done, and the seconds they took."""
    if task.out is None or not (task.out / CHECKPOINT).is_file():
        return [], 0.0
    path = task.out / CHECKPOINT
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        if about["identity"] != identity:
            raise DataError(f"{path} is of another run ({_other(about['identity'], identity)}): start anew, or move it")
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("state."):
                number, key = name.removeprefix("state.").split(".", 1)
                state.setdefault(int(number), {})[key] = tensor
        optimiser.load_state_dict({"state": state, "param_groups": about["groups"]})
        if scaler is not None:
            scaler.load_state_dict(about["scaler"])
        with torch.no_grad():
            for name, weight in task.parameters.items():
                weight.copy_(tensors[f"weight.{name}"])
        return tensors["losses"].tolist(), float(about["seconds"])
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it, or start anew") from error


def _other(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    names = sorted(name for name in found.keys() | asked.keys() if found.get(name) != asked.get(name))
    return ", ".join(f"{name}={found.get(name)!r}, not {asked.get(name)!r}" for name in names)
