"""Where a model or data set lies: `zoo:NAME` through an entry point, else a folder, else the hub."""

import importlib.metadata
import json
import re
from pathlib import Path

from .errors import ModelError, OptionError
from .quiet import hush_bitsandbytes

GROUP = "pellucid.assets"
_SCHEME = re.compile(r"([a-z][a-z0-9_-]+):(.*)")  # two letters at least: C:\models is a folder
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def resolve_asset(name: str) -> Path:
    """Prepare a named asset where needed, and return its path.

    Args:
        name: `SCHEME:NAME`, such as `zoo:countries`. A package offers a scheme by an entry point in the group
            `pellucid.assets`: a function from the part after the colon to a path.

    Raises:
        OptionError: the name has no scheme, or no installed package offers it.
        PellucidError: whatever the package says of a name that it does not know.
    """
    match = _SCHEME.fullmatch(name)
    if match is None:
        raise OptionError(f"{name!r} is not the name of an asset: write SCHEME:NAME, such as zoo:smollm2")
    scheme, rest = match.groups()
    offered = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if scheme not in offered:
        known = ", ".join(f"{other}:" for other in sorted(offered)) or "none"
        mend = "pip install pellucid-zoo" if scheme == "zoo" else "install the package that offers it"
        raise OptionError(f"nothing installed knows {scheme!r} in {name!r} (known: {known}): {mend}")
    hush_bitsandbytes()  # an asset may be a pipeline of diffusers
    try:
        resolve = offered[scheme].load()
    except ImportError as error:
        raise ModelError(f"the package behind {scheme}: cannot be imported ({error}): reinstall it") from error
    return Path(resolve(rest))


def find_model(name: str) -> Path | None:
    """The local folder that a model's name means, checked to hold one; None where the name is a hub id.

    Raises:
        OptionError: the name can be neither a folder nor a hub id, or its scheme is unknown.
        ModelError: there is no such folder, or it holds no model that can be loaded.
    """
    folder = find_folder(name)
    if folder is not None:
        check_folder(folder)
    return folder


def find_folder(name: str) -> Path | None:
    """The local folder that a name means, whatever is in it; None where the name is a hub id.

    Raises:
        OptionError: the name can be neither a folder nor a hub id, or its scheme is unknown.
        ModelError: there is no such folder.
    """
    if has_scheme(name):
        folder = resolve_asset(name)
    else:
        folder = Path(name).expanduser()
        if not folder.exists():
            if name.startswith((".", "/", "~")) or folder.is_absolute():
                raise ModelError(f"no such folder: {name}")
            if not _HUB_ID.fullmatch(name):
                raise OptionError(f"{name!r} is neither a folder that exists nor a hub id such as owner/model")
            return None
    if not folder.is_dir():
        raise ModelError(f"{name} is a file, not a model's folder")
    return folder


def has_scheme(name: str) -> bool:
    """Whether a name is an asset's, such as `zoo:smollm2`."""
    return _SCHEME.fullmatch(name) is not None


def check_weights(where: str, files: list[str], source: str) -> None:
    """Check that among a model's files are safetensors weights under the names that transformers looks for.

    Args:
        where: the model's name, for the message.
        files: names of its files.
        source: what `from_pretrained` takes for it.

    Raises:
        ModelError: there are none; where there are pickled ones, it says how to convert them.
    """
    if {"model.safetensors", "model.safetensors.index.json"} & set(files):
        return
    pickles = sorted(file for file in files if any(Path(file).match(pattern) for pattern in _PICKLES))
    if not pickles:
        raise ModelError(f"{where} has no weights: there is no model.safetensors in it")
    convert = f"AutoModelForCausalLM.from_pretrained({source!r}, use_safetensors=False).save_pretrained(FOLDER)"
    raise ModelError(
        f"{where} has only pickled weights ({pickles[0]}), which can run any code when read. If you trust them, "
        f"convert them once: {convert}"
    )


def check_folder(folder: Path) -> None:
    """Check that a folder holds a config and all its weights.

    Raises:
        ModelError: something is missing; it says what.
    """
    files = [path.name for path in folder.iterdir()]
    if "config.json" not in files:
        raise ModelError(f"{folder} has no config.json: give a folder that save_pretrained has written")
    check_weights(str(folder), files, str(folder))
    if "model.safetensors" in files:
        return
    index = folder / "model.safetensors.index.json"
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} cannot be read: copy or download the folder again") from error
    if absent := sorted(shards - set(files)):
        raise ModelError(f"{folder} lacks {len(absent)} of {len(shards)} weight files, such as {absent[0]}")
