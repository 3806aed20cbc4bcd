"""The command line's options for loading a model and for what each worker holds, the same for every package."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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


def model_spec(
    model: str,
    *,
    dtype: str = "float32",
    device: str = "auto",
    quantize: str | None = None,
    device_map: str | None = None,
    max_memory: list[str] | None = None,
    offload_folder: Path | None = None,
    trust_remote_code: bool = False,
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
