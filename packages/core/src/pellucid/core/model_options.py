"""The command line's options for loading a model and for what each worker holds, the same for every package."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli import Address, Device, Dtype, Model, Workers
from .errors import OptionError

if TYPE_CHECKING:
    from .loading import ModelSpec

Quantize = Annotated[str | None, typer.Option("--quantize", metavar="KIND", help="nf4 or int8, by bitsandbytes.")]
DeviceMap = Annotated[str | None, typer.Option("--device-map", metavar="MAP", help="auto spreads a large model.")]
MaxMemory = Annotated[
    list[str] | None, typer.Option("--max-memory", metavar="DEVICE=SIZE", help="Such as cpu=8GB or 0=20GB; repeat it.")
]
Offload = Annotated[
    Path | None, typer.Option("--offload-folder", metavar="DIR", help="Where weights go that fit no memory.")
]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the model's authors ship.")]
Cpus = Annotated[int, typer.Option("--cpus", min=1, help="Processor threads of each worker.")]
Gpus = Annotated[float, typer.Option("--gpus", min=0, help="GPUs of each worker; a fraction shares one.")]
_LOADING = (
    "model", "dtype", "device", "quantize", "device_map", "max_memory", "offload_folder", "trust_remote_code",
)  # fmt: skip


@dataclass(frozen=True)
class Running:
    """How a command's sweeps run.

    Attributes:
        workers: Ray tasks at a time; 0 runs in this process.
        cpus: processor threads of each worker.
        gpus: GPUs of each worker.
        address: of a running Ray cluster; None starts one here.
    """

    workers: Workers = 0
    cpus: Cpus = 1
    gpus: Gpus = 0
    address: Address = None


def takes_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a typer command the options by which a model is loaded: the same names and texts in every package.

    The command has a parameter `spec`, which gets a ModelSpec, and may have one `running`, which gets a `Running`; on
    the command line `--model`, `--dtype`, ... and `--workers`, `--cpus`, ... stand in their place.
    """
    own = inspect.signature(command)
    loading = [p for p in inspect.signature(model_spec).parameters.values() if p.name in _LOADING]
    sizes = list(inspect.signature(Running).parameters.values()) if "running" in own.parameters else []
    kept = [p for p in own.parameters.values() if p.name not in ("spec", "running")]
    shown = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*kept, *loading, *sizes)]

    def run(**given: Any) -> None:
        running = Running(**{f.name: given.pop(f.name) for f in fields(Running) if sizes})
        more = {"running": running} if sizes else {}
        loaded = {p.name: given.pop(p.name) for p in loading}
        command(**given, spec=model_spec(**loaded, workers=running.workers, gpus=running.gpus), **more)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {p.name: p.annotation for p in shown}
    return run


def model_spec(
    model: Model,
    *,
    dtype: Dtype = "float32",
    device: Device = "auto",
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    max_memory: MaxMemory = None,
    offload_folder: Offload = None,
    trust_remote_code: Trust = False,
    workers: int = 0,
    gpus: float = 0,
) -> "ModelSpec":
    """The options as a ModelSpec, which checks them.

    Args:
        model: `zoo:NAME`, a folder or a hub id.
        dtype: see ModelSpec; so are the others that are not named here.
        device: "auto" takes a GPU where the process that loads the model has one.
        quantize: see ModelSpec.
        device_map: see ModelSpec.
        max_memory: pairs such as `cpu=8GB`.
        offload_folder: see ModelSpec.
        trust_remote_code: see ModelSpec.
        workers: Ray workers; they see a GPU only if `gpus` asks for one.
        gpus: GPUs of each worker.

    Raises:
        OptionError: a value cannot work, or two do not go together.
    """
    from .loading import ModelSpec

    limits: dict[int | str, int | str] = {}
    for pair in max_memory or []:
        name, equals, size = pair.partition("=")
        if not equals:
            raise OptionError(f"--max-memory {pair!r}: write DEVICE=SIZE, such as cpu=8GB")
        limits[name] = size
    spread = device_map is not None or bool(limits)
    return ModelSpec(
        model,
        dtype=dtype,
        quantize=quantize,  # type: ignore[arg-type]  # ModelSpec refuses what it does not know
        trust_remote_code=trust_remote_code,
        device=_device(device, spread, workers, gpus),
        device_map=device_map,
        max_memory=limits or None,
        offload_folder=None if offload_folder is None else str(offload_folder),
    )


def _device(device: str, spread: bool, workers: int, gpus: float) -> str | None:
    if device != "auto":
        return device
    if spread:
        return None
    if workers:
        return "cuda" if gpus else None
    import torch

    return "cuda" if torch.cuda.is_available() else None
