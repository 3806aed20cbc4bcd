"""Vision transformers as their libraries give them, with what prepares pictures for them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.assets import find_model
from pellucid.core.errors import ModelError, OptionError
from pellucid.core.quiet import quiet
from pellucid.core.sweeps import digest
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image

Prepare = Callable[[Sequence["Image"]], Tensor]


@dataclass(frozen=True, eq=False)
class VisionModel:
    """A model ready to be taken apart.

    Attributes:
        name: as it was asked for.
        model: in eval mode, float32, no parameter asking for a gradient.
        prepare: from pictures to a tensor (n, 3, height, width), resized and normalised as the model wants it.
        revision: a hash of its weights.
        classes: names of the classifier's classes, where it has one and names them.
    """

    name: str
    model: nn.Module
    prepare: Prepare
    revision: str
    classes: tuple[str, ...] = ()


def load_vision(name: str, device: str = "cpu") -> VisionModel:
    """Load a vision model with its published weights.

    Args:
        name: `timm:NAME` or `timm:FOLDER`; `open_clip:ARCH/PRETRAINED` or `open_clip:FOLDER`; `zoo:NAME`, a folder or a
            hub id of transformers' (a folder whose config names an `architecture` is timm's).
        device: where it goes, such as "cuda".

    Raises:
        OptionError: the name is empty, or the device cannot be used.
        ModelError: a library is not installed, or the weights are not to be had.
    """
    source, _, rest = name.partition(":")
    if not name or (source in ("timm", "open_clip") and not rest):
        raise OptionError(
            f"{name!r} is no vision model: give timm:NAME, open_clip:ARCH/PRETRAINED, zoo:NAME or a folder"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {device!r} cannot be used here: give cpu, or one there is") from error
    try:
        with quiet():
            model, prepare, classes = _loaded(source, rest, name)
    except (OptionError, ModelError):
        raise
    except ImportError as error:
        raise ModelError(f"{name} needs {error.name}: pip install 'pellucid-vit-components[clip]'") from error
    except Exception as error:  # each library raises its own for what is wrong with a name or a checkpoint
        raise ModelError(f"{name} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    model = model.float().eval().requires_grad_(False).to(device)
    revision = f"sha256:{digest([type(model).__name__, dict(model.state_dict())])}"
    return VisionModel(name, model, prepare, revision, classes)


def _loaded(source: str, rest: str, name: str) -> tuple[nn.Module, Prepare, tuple[str, ...]]:
    if source == "timm":
        return _timm(f"local-dir:{rest}" if Path(rest).is_dir() else rest)
    if source == "open_clip":
        return _open_clip(rest)
    folder = find_model(name)
    config = {} if folder is None else _config(folder)
    return _timm(f"local-dir:{folder}") if "architecture" in config else _transformers(str(folder or name))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def _timm(name: str) -> tuple[nn.Module, Prepare, tuple[str, ...]]:
    import timm

    model: Any = timm.create_model(name, pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    labels = (model.pretrained_cfg or {}).get("label_names") or ()
    if not labels and getattr(model, "num_classes", 0) == 1000:  # ImageNet's, by their synsets
        labels = timm.data.ImageNetInfo().label_names()
    return model, _each(transform), tuple(labels)


def _open_clip(rest: str) -> tuple[nn.Module, Prepare, tuple[str, ...]]:
    import open_clip

    architecture, _, pretrained = rest.partition("/")
    if Path(rest).is_dir():
        architecture, pretrained = f"local-dir:{rest}", ""
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained or None)
    return model, _each(transform), ()


def _transformers(where: str) -> tuple[nn.Module, Prepare, tuple[str, ...]]:
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(where, use_safetensors=True)
    processor = AutoImageProcessor.from_pretrained(where)

    def prepare(pictures: Sequence["Image"]) -> Tensor:
        pixels: Tensor = processor(
            images=[picture.convert("RGB") for picture in pictures], return_tensors="pt"
        ).pixel_values
        return pixels

    return model, prepare, ()


def _each(transform: Callable[[Any], Tensor]) -> Prepare:
    return lambda pictures: torch.stack([transform(picture.convert("RGB")) for picture in pictures])
