"""The shipped weights: half-precision files beside this one, unpacked into folders that `from_pretrained` reads."""

import hashlib
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import ModelError
from pellucid.core.outfolder import write_file
from pellucid.core.progress import progress
from pellucid.core.quiet import quiet

from ..cache import built, cache_root, fault_of, sha256_of
from .cards import write_card

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("weights")
RECORDS = "records.json"
PARTS = {
    "tinyworld-clip": ("clip",),
    "tinyworld-sd": ("clip", "autoencoder", "unet"),
    "tinyworld-llava": ("clip", "llava"),
    **{f"tinyworld-{name}": (name,) for name in ("vit", "swin", "maxvit", "spurious")},
}
EYES = "model.vision_tower."  # the multimodal model's weights that are the CLIP's
_AGAIN = "pip install --force-reinstall pellucid-zoo"
_LAYOUT = 1  # raise it whenever a folder is laid out in another way


def tinyworld(name: str) -> Path:
    """A folder with one of Tinyworld's models, unpacked into the cache in float32.

    Args:
        name: a key of `PARTS`: `tinyworld-clip` (for transformers, and as `local-dir:` for open_clip), `tinyworld-sd`
            (for diffusers), `tinyworld-llava` (for transformers), or a classifier's (as `local-dir:` for timm).

    Raises:
        ModelError: the shipped weights are damaged, or a library is missing.
    """
    parts = PARTS[name]
    return built(_target(name), lambda folder: _unpack(name, folder), {part: _promised(part) for part in parts})


def cached(name: str) -> Path | None:
    """The folder, where it is already unpacked and whole."""
    target = _target(name)
    return target if fault_of(target) is None else None


def shipped(part: str, net: "nn.Module") -> "nn.Module":
    """Fill a network with the shipped weights of a part.

    Args:
        part: one of those that `PARTS` names.
        net: untrained; what the file leaves out, as the multimodal model's eyes, stays as it is.

    Raises:
        ModelError: the file is missing or damaged.
    """
    from safetensors.torch import load

    path = WEIGHTS / f"{part}.safetensors"
    if not path.is_file():
        raise ModelError(f"{path} is missing: {_AGAIN}")
    if sha256_of(path) != _promised(part):
        raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {RECORDS}: {_AGAIN}")
    weights = {name: tensor.float() for name, tensor in load(path.read_bytes()).items()}
    net.load_state_dict({**net.state_dict(), **weights})
    return net.eval().requires_grad_(False)


def pack(part: str, net: "nn.Module", record: dict[str, Any], folder: Path = WEIGHTS, without: str = "") -> None:
    """Write a network's weights in half precision, and what is to be said of them.

    Args:
        part: one of those that `PARTS` names.
        net: trained.
        record: for the model card.
        folder: where the files belong.
        without: beginning of the names of weights that another part holds.
    """
    from safetensors.torch import save

    kept = {name: tensor for name, tensor in net.state_dict().items() if not (without and name.startswith(without))}
    content = save({name: _halved(tensor) for name, tensor in kept.items()})
    known = json.loads((folder / RECORDS).read_text("utf-8")) if (folder / RECORDS).exists() else {}
    known[part] = record | {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_file(folder / f"{part}.safetensors", content)
    write_file(folder / RECORDS, (json.dumps(known, indent=1) + "\n").encode())


def _halved(tensor: "Tensor") -> "Tensor":
    return tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()


@cache
def _records() -> dict[str, dict[str, Any]]:
    try:
        found: dict[str, dict[str, Any]] = json.loads((WEIGHTS / RECORDS).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{WEIGHTS / RECORDS} cannot be read ({type(error).__name__}): {_AGAIN}") from error
    return found


def _promised(part: str) -> str:
    return str(_records()[part]["sha256"])


def _target(name: str) -> Path:
    mark = hashlib.sha256("".join(map(_promised, PARTS[name])).encode()).hexdigest()[:12]
    return cache_root() / f"{name}-{mark}-{_LAYOUT}"


def _unpack(name: str, folder: Path) -> None:
    try:
        _UNPACKERS[name](folder)
    except ImportError as error:
        raise ModelError(f"{name} needs {error.name}: pip install 'pellucid-zoo[tinyworld]'") from error


def _unpack_clip(folder: Path) -> None:
    from .clip import build_clip, save_clip

    with quiet(), progress("Unpacking tinyworld-clip (once)", 1) as advance:
        model: Any = shipped("clip", build_clip())
        save_clip(model, folder)
        write_card("tinyworld-clip", folder, {"clip": _records()["clip"]})
        advance(1)


def _unpack_sd(folder: Path) -> None:
    from .autoencoder import build_autoencoder
    from .clip import build_clip
    from .diffusion import build_unet, pipeline

    with quiet(), progress("Unpacking tinyworld-sd (once)", 1) as advance:
        clip: Any = shipped("clip", build_clip())
        autoencoder: Any = shipped("autoencoder", build_autoencoder())
        autoencoder.register_to_config(scaling_factor=_records()["autoencoder"]["scaling_factor"])
        unet: Any = shipped("unet", build_unet())
        pipeline(unet, clip.text_model, autoencoder).save_pretrained(folder)
        write_card("tinyworld-sd", folder, {part: _records()[part] for part in PARTS["tinyworld-sd"]})
        advance(1)


def _unpack_llava(folder: Path) -> None:
    from .clip import build_clip
    from .llava import build_llava, save_llava

    with quiet(), progress("Unpacking tinyworld-llava (once)", 1) as advance:
        clip: Any = shipped("clip", build_clip())
        model: Any = shipped("llava", build_llava(clip.vision_model))
        save_llava(model, folder)
        write_card("tinyworld-llava", folder, {"llava": _records()["llava"]})
        advance(1)


def _unpack_classifier(name: str, folder: Path) -> None:
    from .classifiers import build_classifier, save_classifier

    with quiet():
        save_classifier(name, shipped(name, build_classifier(name)), folder)
        write_card(f"tinyworld-{name}", folder, {name: _records()[name]})


_UNPACKERS: dict[str, Callable[[Path], None]] = {
    "tinyworld-clip": _unpack_clip,
    "tinyworld-sd": _unpack_sd,
    "tinyworld-llava": _unpack_llava,
    **{f"tinyworld-{name}": partial(_unpack_classifier, name) for name in ("vit", "swin", "maxvit", "spurious")},
}
