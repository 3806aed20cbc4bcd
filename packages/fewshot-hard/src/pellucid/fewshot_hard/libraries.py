"""Backbones of timm, open_clip and transformers, each with the preparation that its own configuration asks for."""

import importlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.assets import check_folder, resolve_asset
from pellucid.core.errors import ModelError, OptionError
from pellucid.core.quiet import quiet
from torch import Tensor, nn

Prepare = Callable[[Sequence[NDArray[np.uint8]]], Tensor]
Built = tuple[nn.Module, Prepare, str]

TIMEOUT = 10.0
"""Seconds that the hub has for its first answer."""

_EXTRAS = {"timm": "timm", "open_clip": "open-clip"}


def timm_model(name: str, published: bool) -> Built:
    """Build a timm model without classifier.

    Args:
        name: of the model, perhaps with its tag (`resnet18.a1_in1k`), or a folder with `config.json` and weights.
        published: load the published weights rather than random ones.

    Returns:
        The module, its preparation, and a text that tells both apart from others.

    Raises:
        OptionError: timm has no such model.
        ModelError: timm is not installed, or the weights are not to be had.
    """
    timm = _library("timm")
    folder = Path(name).expanduser()
    overlay: dict[str, Any] = {}
    if folder.is_dir():
        _check_files(folder, "config.json", "model.safetensors" if published else "config.json")
        name = f"local-dir:{folder}"
    else:
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.split('.')[0]}*")[:3]
            like = f", such as {', '.join(near)}" if near else ""
            raise OptionError(f"timm has no model {name!r}: give a name of timm.list_models(){like}")
        if published:
            held = timm.get_pretrained_cfg(name)
            if held is None or not held.hf_hub_id:
                raise ModelError(f"timm has no published weights of {name}: give weights=FILE.safetensors or 'random'")
            file = (held.hf_hub_filename or "model.safetensors").rsplit(".", 1)[0] + ".safetensors"
            path = hub_file(held.hf_hub_id.rstrip("/"), (file.replace("pytorch_model", "model"), file), f"timm:{name}")
            overlay = {"file": str(path), "custom_load": False}
    try:
        model = timm.create_model(name, pretrained=published, num_classes=0, pretrained_cfg_overlay=overlay)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"timm:{name} cannot be built ({_line(error)}): give another, or mend the folder") from error
    settings = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**settings, is_training=False)
    architecture = (model.pretrained_cfg or {}).get("architecture", name)
    return model, _each(transform), f"timm {architecture} {json.dumps(settings, sort_keys=True, default=str)}"


def open_clip_model(name: str, published: bool) -> Built:
    """Build the image tower of an open_clip model.

    Args:
        name: ARCH/PRETRAINED, ARCH alone for random weights, or a folder with `open_clip_config.json` and weights.
        published: load the published weights rather than random ones.

    Returns:
        As `timm_model`.

    Raises:
        OptionError: open_clip has no such architecture or weights.
        ModelError: open_clip is not installed, or the weights are not to be had.
    """
    open_clip = _library("open_clip")
    folder = Path(name).expanduser()
    options: dict[str, Any] = {}
    if folder.is_dir():
        name = f"local-dir:{folder}"
        weights = "open_clip_model.safetensors" if published else "open_clip_config.json"
        _check_files(folder, "open_clip_config.json", weights)
    else:
        name, _, tag = name.partition("/")
        if name not in open_clip.list_models():
            raise OptionError(f"open_clip has no architecture {name!r}: give one of open_clip.list_models()")
        if published:
            tags = open_clip.list_pretrained_tags_by_model(name)
            if tag not in tags:
                given = f"no weights {tag!r} of {name}" if tag else f"weights of {name} only by name"
                raise OptionError(f"open_clip has {given}: write open_clip:{name}/TAG with one of {_some(tags)}")
            held = open_clip.get_pretrained_cfg(name, tag)
            repository, _, file = held.get("hf_hub", "").rpartition("/")
            if not repository:
                raise ModelError(
                    f"open_clip:{name}/{tag} has no safetensors weights on the hub: choose others of {_some(tags)}"
                )
            safe = file.rsplit(".", 1)[0] + ".safetensors" if file else "open_clip_model.safetensors"
            options["pretrained"] = str(hub_file(repository, (safe,), f"open_clip:{name}/{tag}"))
            # open_clip applies what belongs to a tag only where it downloads the weights itself.
            options["force_quick_gelu"] = held.get("quick_gelu", False)
            kept = ("mean", "std", "interpolation", "resize_mode")
            options |= {f"image_{key}": held[key] for key in kept if key in held}
    try:
        with _no_root_handler():
            model, _, transform = open_clip.create_model_and_transforms(
                name, load_weights=published, pretrained_text=False, **options
            )
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"open_clip:{name} cannot be built ({_line(error)}): give another, or mend it") from error
    visual = model.visual
    form = f"open_clip {name.rsplit('/', 1)[-1]} {json.dumps(visual.preprocess_cfg, sort_keys=True, default=str)}"
    if getattr(visual, "output_tokens", False):
        visual.output_tokens = False
    return visual, _each(transform), form


def transformers_model(name: str, published: bool) -> Built:
    """Build an image model of transformers: its pooled output, else that of its class token; of a CLIP the projection.

    Args:
        name: a folder that `save_pretrained` has written, `zoo:NAME`, or a hub id.
        published: load the weights rather than random ones.

    Returns:
        As `timm_model`.

    Raises:
        ModelError: there is no such model, it is not one of images, or its weights are not to be had.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    folder = resolve_asset(name) if name.startswith("zoo:") else Path(name).expanduser()
    common: dict[str, Any] = {"trust_remote_code": False}
    if folder.is_dir():
        source = str(folder)
        if published:
            check_folder(folder)
    else:
        source = name
        common |= _commit(name, f"transformers:{name}", "give a folder that save_pretrained has written")
    try:
        with quiet():
            processor = AutoImageProcessor.from_pretrained(source, **common)
            if published:
                model, report = AutoModel.from_pretrained(
                    source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **common
                )
                missing = sorted(report["missing_keys"])
            else:
                model, missing = AutoModel.from_config(AutoConfig.from_pretrained(source, **common)), []
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelError(f"transformers:{name} cannot be loaded ({_line(error)}): give another, or mend it") from error
    pooler = [key for key in missing if "pooler" in key]
    if len(missing) > len(pooler):
        lost = next(key for key in missing if key not in pooler)
        raise ModelError(f"transformers:{name} lacks {len(missing)} of its weights, such as {lost}: give a whole model")
    if hasattr(model, "text_model") and not hasattr(model, "vision_model"):
        raise ModelError(f"transformers:{name} has no image tower: give a model of images, or a CLIP")
    if not hasattr(model, "vision_model") and model.main_input_name != "pixel_values":
        raise ModelError(f"transformers:{name} takes {model.main_input_name}, not images: give a model of images")

    def prepare(images: Sequence[NDArray[np.uint8]]) -> Tensor:
        found = processor(images=[_picture(image) for image in images], return_tensors="pt")
        return found["pixel_values"].float()

    form = json.dumps([model.config.to_dict(), processor.to_dict()], sort_keys=True, default=str)
    return Pooled(model, token=bool(pooler)), prepare, f"transformers {form}"


class Pooled(nn.Module):
    """An image model of transformers that gives one vector an image.

    Args:
        model: of images, or a CLIP, of which only the image tower and its projection are kept.
        token: take the class token's output, since the pooler's weights are not there.
    """

    def __init__(self, model: nn.Module, token: bool) -> None:
        super().__init__()
        self.model = getattr(model, "vision_model", model)
        self.projection = getattr(model, "visual_projection", nn.Identity())
        self.token = token

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, 3, h, w) to (n, d)."""
        found = self.model(pixel_values=images)
        pooled = None if self.token else getattr(found, "pooler_output", None)
        if pooled is None:
            last = found.last_hidden_state
            pooled = last[:, 0] if last.ndim == 3 else last.mean(dim=(2, 3))
        return self.projection(pooled.flatten(1))


def hub_file(repository: str, names: Sequence[str], spec: str) -> Path:
    """Return a file of a hub repository: downloaded, or from the hub's cache.

    Args:
        repository: its id.
        names: of the file; the first that is there is taken.
        spec: the backbone, for the error's line.

    Raises:
        ModelError: neither the hub nor its cache has it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    mend = "give weights=FILE.safetensors, or ask for weights='random'"
    options = _commit(repository, spec, mend)
    with quiet():
        for name in names:
            try:
                return Path(hf_hub_download(repository, name, **options))
            except LocalEntryNotFoundError as error:
                raise _unreached(spec, error, mend) from error
            except EntryNotFoundError:
                continue
    raise ModelError(f"{spec} has no safetensors weights on the hub ({repository}): give weights=FILE.safetensors")


def _commit(repository: str, spec: str, mend: str) -> dict[str, Any]:
    """Ask the hub once which commit is current; where it is not reached, only its cache is to be asked."""
    from huggingface_hub import errors, model_info, snapshot_download

    try:
        return {"revision": model_info(repository, timeout=TIMEOUT).sha}
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelError(
            f"{spec}: the hub gives nobody {repository!r} ({_line(error)}): check the name, or `hf auth login`"
        ) from error
    except Exception as error:  # offline mode, no network, a proxy's refusal: several libraries' classes
        try:
            snapshot_download(repository, local_files_only=True)
        except Exception:
            raise _unreached(spec, error, mend) from error
        return {"local_files_only": True}


def _unreached(spec: str, error: Exception, mend: str) -> ModelError:
    return ModelError(
        f"{spec} is not in the hub's cache, and the hub was not reached ({_line(error)}): connect, or {mend}"
    )


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            f'{name} cannot be imported ({_line(error)}): pip install "pellucid-fewshot-hard[{_EXTRAS[name]}]"'
        ) from error


def _check_files(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(f"{folder} has no {name}: give a folder with configuration and safetensors weights")


def _each(transform: Callable[[Any], Tensor]) -> Prepare:
    return lambda images: torch.stack([transform(_picture(image)) for image in images])


def _picture(image: NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(image).convert("RGB")


@contextmanager
def _no_root_handler() -> Iterator[None]:
    """Keep `logging.warning`, which open_clip calls for ordinary things, from setting up the program's logging."""
    silent, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)


def _some(tags: Sequence[str]) -> str:
    return ", ".join(tags[:5]) + (" ..." if len(tags) > 5 else "")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
