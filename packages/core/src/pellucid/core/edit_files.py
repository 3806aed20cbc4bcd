"""Edits as files: `edit.safetensors`, which can be composed and undone, and LoRA, which other tools load."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from .edited_modules import Fingerprint, find_linear
from .errors import DataError, PellucidError
from .low_rank import LowRankUpdate
from .outfolder import write_file

EDIT = "edit.safetensors"
LORA = "pytorch_lora_weights.safetensors"
VERSION = "1"
_PARTS = ("keys", "residuals", "base")
_DTYPES = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "8bit", "4bit"}
# The layers by which diffusers tells a text encoder's rank (`_load_lora_into_text_encoder`), and the four whose names
# in PEFT's format it knows.
_ATTENTION = (".q_proj", ".k_proj", ".v_proj", ".out_proj")
_TEXT_LAYERS = (*_ATTENTION, ".fc1", ".fc2")


def write_edit(path: str | Path, updates: Sequence[LowRankUpdate], base: Mapping[str, Fingerprint]) -> Path:
    """Write an edit: three tensors a module (keys, residuals, the base's sample), the rest as metadata.

    Args:
        path: a file `....safetensors`, or a folder, where the file is called `edit.safetensors`.
        updates: one for each module.
        base: the fingerprint of each module's base weight, by the module's name.

    Raises:
        DataError: it cannot be written there.
    """
    path = _file(path)
    tensors: dict[str, Tensor] = {}
    for update in updates:
        parts = (update.keys, update.residuals, base[update.module].sample)
        tensors |= {f"{update.module}.{part}": tensor for part, tensor in zip(_PARTS, parts, strict=True)}
    modules = {
        update.module: {
            "ridge": update.ridge,
            "shape": base[update.module].shape,
            "dtype": base[update.module].dtype,
        }
        for update in updates
    }
    metadata = {"format": "pt", "pellucid_edit": VERSION, "modules": json.dumps(modules)}
    write_file(path, to_bytes(tensors, metadata))
    return path


def read_edit(path: str | Path) -> tuple[tuple[LowRankUpdate, ...], dict[str, Fingerprint]]:
    """Read what `write_edit` wrote, from the file or its folder.

    Raises:
        DataError: there is no such file, or it does not hold an edit of this version, whole and consistent.
    """
    path = Path(path) if Path(path).is_file() else _file(path)
    if not path.is_file():
        raise DataError(f"there is no edit at {path}: give the file that was saved, or its folder")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors ({error}): save the edit again") from error
    version = metadata.get("pellucid_edit")
    if version is None:
        raise DataError(f"{path} is not an edit of Pellucid's: give a file that WeightEdit.save wrote")
    if version != VERSION:
        raise DataError(f"{path} has version {version!r}, and this release reads {VERSION!r}: upgrade pellucid-core")
    try:
        return _parsed(json.loads(metadata["modules"]), tensors)
    except (PellucidError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): save the edit again") from error


def write_lora(folder: str | Path, model: Any, updates: Sequence[LowRankUpdate]) -> tuple[Path, ...]:
    """Write updates as LoRA in float32, and return the files; see `WeightEdit.to_lora`.

    All modules of a file get one rank, padded with zeros: diffusers and PEFT take one from the first module they see
    and scale the others by the ratio. There is no alpha, or alpha equals the rank: the scale is 1.
    """
    folder = Path(folder)
    for update in updates:
        find_linear(model, update.module)
    if isinstance(model, nn.Module):
        return _write_adapter(folder, {update.module: update for update in updates})
    components: dict[str, dict[str, LowRankUpdate]] = {}
    for update in updates:
        component, _, module = update.module.partition(".")
        components.setdefault(component, {})[module] = update
    loadable = [name for name, modules in components.items() if _pipeline_loads(model, name, modules)]
    written: list[Path] = []
    if loadable:
        rank = max(update.down.shape[0] for name in loadable for update in components[name].values())
        tensors: dict[str, Tensor] = {}
        for name in loadable:
            tensors |= _diffusers_tensors(getattr(model, name), name, components[name], rank)
        write_file(folder / LORA, to_bytes(tensors, {"format": "pt"}))
        written.append(folder / LORA)
    for name, modules in components.items():
        if name not in loadable:
            written.extend(_write_adapter(folder / name, modules))
    return tuple(written)


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / EDIT


def _parsed(
    modules: dict[str, dict[str, Any]], tensors: dict[str, Tensor]
) -> tuple[tuple[LowRankUpdate, ...], dict[str, Fingerprint]]:
    expected = {f"{name}.{part}" for name in modules for part in _PARTS}
    if not modules or tensors.keys() != expected:
        odd = sorted(tensors.keys() ^ expected) or ["no module"]
        raise DataError(f"{len(odd)} tensors are missing or too many, such as {odd[0]}")
    updates, base = [], {}
    for name, about in modules.items():
        keys, residuals, sample = (tensors[f"{name}.{part}"] for part in _PARTS)
        outputs, inputs = (int(side) for side in about["shape"])
        if (keys.dtype, residuals.dtype, sample.dtype) != (torch.float64, torch.float64, torch.float32):
            raise DataError(f"the tensors of {name} do not have the precision they were saved in")
        if sample.ndim != 1 or keys.shape[-1] != inputs or residuals.shape[-1] != outputs:
            raise DataError(f"the tensors of {name} do not fit its weight of shape {(outputs, inputs)}")
        if about["dtype"] not in _DTYPES:
            raise DataError(f"{name} has the unknown precision {about['dtype']!r}")
        updates.append(LowRankUpdate(name, keys, residuals, float(about["ridge"])))
        base[name] = Fingerprint((outputs, inputs), about["dtype"], sample)
    return tuple(updates), base


def _pipeline_loads(pipe: Any, component: str, modules: Mapping[str, LowRankUpdate]) -> bool:
    """Whether `pipe.load_lora_weights` reaches these modules: it knows CLIP's layers by name, and no others of text."""
    if component not in getattr(pipe, "_lora_loadable_modules", ()):
        return False
    return not component.startswith("text_encoder") or any(f".{name}".endswith(_TEXT_LAYERS) for name in modules)


def _diffusers_tensors(
    part: nn.Module, component: str, modules: Mapping[str, LowRankUpdate], rank: int
) -> dict[str, Tensor]:
    """Name and pad one component's factors as `load_lora_weights` reads them."""
    prefix, lora = f"{component}.", ("lora_A", "lora_B")
    if component.startswith("text_encoder"):
        # CLIPTextModel lost its inner `text_model` in transformers 5. diffusers drops the word where the encoder does
        # not have it, so that with it the file serves every version.
        if not hasattr(part, "text_model"):
            prefix += "text_model."
        # It takes text keys for PEFT's only if an attention projection is among them, and else raises.
        if not any(f".{name}".endswith(_ATTENTION) for name in modules):
            lora = ("lora_linear_layer.down", "lora_linear_layer.up")
    return _padded({f"{prefix}{name}": update for name, update in modules.items()}, rank, lora)


def _write_adapter(folder: Path, modules: Mapping[str, LowRankUpdate]) -> tuple[Path, ...]:
    """Write one model's adapter in PEFT's format."""
    rank = max(update.down.shape[0] for update in modules.values())
    tensors = _padded({f"base_model.model.{name}": u for name, u in modules.items()}, rank, ("lora_A", "lora_B"))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(modules),
        "inference_mode": True,
    }
    paths = (folder / "adapter_config.json", folder / "adapter_model.safetensors")
    write_file(paths[0], json.dumps(config, indent=2).encode())
    write_file(paths[1], to_bytes(tensors, {"format": "pt"}))
    return paths


def _padded(modules: Mapping[str, LowRankUpdate], rank: int, lora: tuple[str, str]) -> dict[str, Tensor]:
    tensors = {}
    for name, update in modules.items():
        down, up = update.down.float(), update.up.float()
        more = rank - down.shape[0]
        tensors[f"{name}.{lora[0]}.weight"] = nn.functional.pad(down, (0, 0, 0, more)).contiguous()
        tensors[f"{name}.{lora[1]}.weight"] = nn.functional.pad(up, (0, more)).contiguous()
    return tensors
